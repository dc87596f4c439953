// SPDX-License-Identifier: Apache-2.0
// Reads tokenizer.json, the file published models keep their tokenizer in. Read next: text/tokenizer.hpp.
#pragma once
#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "graft/io/json.hpp"
#include "graft/text/tokenizer.hpp"

namespace graft {

/// Loads a tokenizer from a model's folder (tokenizer.json; for the special tokens also tokenizer_config.json and
/// special_tokens_map.json, where they are) or from a tokenizer.json alone. Every component must be one that gives the
/// ids the Python library `tokenizers` gives; any other is refused by name. Throws io_error when the file cannot be
/// read, format_error, with the place in the file, for what is malformed or unknown.
template <class = void>
tokenizer load_tokenizer(const std::filesystem::path& folder_or_file);

namespace detail {

inline token_id read_id(const json_node& at) { return at.integer<token_id>(0, text::max_token_id); }

/// {"String": s} or {"Regex": r}.
inline text::pattern read_pattern(const json_node& at) {
  at.allow_only({"String", "Regex"});
  const auto literal = at.optional("String"), regex = at.optional("Regex");
  if (literal.has_value() == regex.has_value()) at.fail("expected either \"String\" or \"Regex\"");
  if (literal) return literal->located([&] { return text::pattern::literal(literal->as<std::string>()); });
  return regex->located([&] { return text::pattern::regex(regex->as<std::string>()); });
}

/// One character, as a string.
inline std::string read_character(const json_node& at) {
  if (text::count_characters(at.text()) != 1) at.reject("one character");
  return at.as<std::string>();
}

inline text::split_behavior read_behavior(const json_node& at) {
  using enum text::split_behavior;
  const std::string_view name = at.text();
  if (name == "Removed") return removed;
  if (name == "Isolated") return isolated;
  if (name == "MergedWithPrevious") return merged_with_previous;
  if (name == "MergedWithNext") return merged_with_next;
  if (name == "Contiguous") return contiguous;
  at.reject("a split behavior");
}

inline text::replace read_replace(const json_node& at) {
  at.allow_only({"type", "pattern", "content"});
  return {read_pattern(at.required("pattern")), at.required<std::string>("content")};
}

/// Metaspace, of the pre-tokenizers and of the decoders.
inline text::metaspace read_metaspace(const json_node& at) {
  at.allow_only({"type", "replacement", "prepend_scheme", "add_prefix_space", "split", "str_rep"});
  text::metaspace m{read_character(at.required("replacement")), text::prepend_scheme::always, at.optional<bool>("split").value_or(true)};
  const bool adds = at.optional<bool>("add_prefix_space").value_or(true);  // how older files say it
  const std::string scheme = at.optional<std::string>("prepend_scheme").value_or(adds ? "always" : "never");
  if (scheme == "never") m.scheme = text::prepend_scheme::never;
  else if (scheme == "first") m.scheme = text::prepend_scheme::first;
  else if (scheme != "always") at.required("prepend_scheme").reject("\"always\", \"first\" or \"never\"");
  if (!adds && scheme != "never") at.fail("\"add_prefix_space\" contradicts \"prepend_scheme\"");
  return m;
}

/// A component, or the components of a Sequence within a Sequence, by `read_one`. `list` is what a Sequence calls its
/// list.
template <class Step>
void read_steps(const json_node& at, std::string_view list, Step (*read_one)(const json_node&),
                std::vector<Step>& out) {
  if (out.size() == 64) at.fail("more than 64 components in a row");
  if (at.required("type").text() != "Sequence") return out.push_back(read_one(at));
  at.allow_only({"type", list});
  for (const json_node& step : at.required(list).elements()) read_steps(step, list, read_one, out);
}

inline text::normalizer read_normalizer(const json_node& at) {
  const std::string_view type = at.required("type").text();
  if (type == "Replace") return read_replace(at);
  if (type == "Prepend") {
    at.allow_only({"type", "prepend"});
    return text::prepend{at.required<std::string>("prepend")};
  }
  if (type == "Strip") {
    at.allow_only({"type", "strip_left", "strip_right"});
    return text::strip_spaces{at.required<bool>("strip_left"), at.required<bool>("strip_right")};
  }
  if (type == "BertNormalizer") {
    at.allow_only({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
    const bool lower = at.required<bool>("lowercase");
    return text::bert_normalizer{at.required<bool>("clean_text"), at.required<bool>("handle_chinese_chars"),
                                 at.optional<bool>("strip_accents").value_or(lower), lower};
  }
  at.allow_only({"type"});
  if (type == "NFC") return text::normal_form::nfc;
  if (type == "NFD") return text::normal_form::nfd;
  if (type == "NFKC") return text::normal_form::nfkc;
  if (type == "NFKD") return text::normal_form::nfkd;
  if (type == "Lowercase") return text::lowercase{};
  if (type == "StripAccents") return text::strip_accents{};
  at.required("type").reject("a normalizer we know");
}

inline text::pre_tokenizer read_pre_tokenizer(const json_node& at) {
  const std::string_view type = at.required("type").text();
  if (type == "Metaspace") return read_metaspace(at);
  if (type == "Split") {
    at.allow_only({"type", "pattern", "behavior", "invert"});
    return text::split{read_pattern(at.required("pattern")), read_behavior(at.required("behavior")), at.required<bool>("invert")};
  }
  if (type == "ByteLevel") {
    at.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    text::byte_level t{at.required<bool>("add_prefix_space"), std::nullopt};
    if (at.optional<bool>("use_regex").value_or(true)) t.words = text::pattern::regex(text::gpt2_words);
    return t;
  }
  if (type == "Digits") {
    at.allow_only({"type", "individual_digits"});
    return text::digits{at.required<bool>("individual_digits")};
  }
  if (type == "Punctuation") {
    at.allow_only({"type", "behavior"});
    const auto behavior = at.optional("behavior");
    return text::punctuation{behavior ? read_behavior(*behavior) : text::split_behavior::isolated};
  }
  at.allow_only({"type"});
  if (type == "Whitespace") return text::words_and_symbols{};
  if (type == "WhitespaceSplit") return text::white_space_split{};
  if (type == "BertPreTokenizer") return text::bert_words{};
  at.required("type").reject("a pre-tokenizer we know");
}

inline text::decoder read_decoder(const json_node& at) {
  const std::string_view type = at.required("type").text();
  if (type == "Replace") return read_replace(at);
  if (type == "ByteLevel") {
    at.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return text::byte_level_decoder{};
  }
  if (type == "Strip") {
    at.allow_only({"type", "content", "start", "stop"});
    const auto count = [&](const char* key) { return at.required(key).integer<std::size_t>(0, 1 << 20); };
    return text::strip_decoder{read_character(at.required("content")), count("start"), count("stop")};
  }
  if (type == "WordPiece") {
    at.allow_only({"type", "prefix", "cleanup"});
    return text::word_piece_decoder{at.required<std::string>("prefix"), at.required<bool>("cleanup")};
  }
  if (type == "Metaspace") {
    const text::metaspace m = read_metaspace(at);
    return text::metaspace_decoder{m.replacement, m.scheme != text::prepend_scheme::never};
  }
  if (type == "BPEDecoder") {
    at.allow_only({"type", "suffix"});
    return text::bpe_decoder{at.required<std::string>("suffix")};
  }
  at.allow_only({"type"});
  if (type == "ByteFallback") return text::byte_fallback_decoder{};
  if (type == "Fuse") return text::fuse_decoder{};
  at.required("type").reject("a decoder we know");
}

/// One list of a TemplateProcessing, whose special tokens are in `tokens`.
inline std::vector<text::template_part> read_template(const json_node& at, const json_node& tokens,
                                                      bool pair) {
  std::vector<text::template_part> parts;
  for (const json_node& item : at.elements()) {
    item.allow_only({"Sequence", "SpecialToken"});
    const auto sequence = item.optional("Sequence"), token = item.optional("SpecialToken");
    if (sequence.has_value() == token.has_value()) item.fail("expected either \"Sequence\" or \"SpecialToken\"");
    const json_node& part = sequence ? *sequence : *token;
    part.allow_only({"id", "type_id"});
    const json_node name = part.required("id");
    text::template_part p{text::template_part::special, read_id(part.required("type_id"))};
    if (token) {
      const auto entry = tokens.optional(name.text());
      if (!entry) name.reject("a name from \"special_tokens\"");
      for (const json_node& id : entry->required("ids").elements()) p.ids.push_back(read_id(id));
    } else if (name.text() == "A" || (name.text() == "B" && pair)) {
      p.source = name.text() == "A" ? text::template_part::first : text::template_part::second;
    } else {
      name.reject(pair ? "\"A\" or \"B\"" : "\"A\"");
    }
    parts.push_back(std::move(p));
  }
  return parts;
}

/// [text, id], as BertProcessing and RobertaProcessing name their tokens.
inline text::template_part read_named_token(const json_node& at, token_id type_id) {
  const json_range pair = at.elements();
  if (pair.size() != 2) at.reject("a token and its id");
  pair[0].text();
  return {text::template_part::special, type_id, {read_id(pair[1])}};
}

/// What a post-processor adds; nothing when it adds nothing.
inline std::optional<text::post_processor> read_post_processor(const json_node& at) {
  using enum text::template_part::source_type;
  const std::string_view name = at.required("type").text();
  if (name == "Sequence") {
    at.allow_only({"type", "processors"});
    std::optional<text::post_processor> only;
    for (const json_node& step : at.required("processors").elements()) {
      auto next = read_post_processor(step);
      if (next && only) step.fail("a second post-processor that adds tokens is not known");
      if (next) only = std::move(next);
    }
    return only;
  }
  if (name == "ByteLevel") {
    at.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return std::nullopt;
  }
  if (name == "TemplateProcessing") {
    at.allow_only({"type", "single", "pair", "special_tokens"});
    const json_node tokens = at.required("special_tokens");
    return text::post_processor{read_template(at.required("single"), tokens, false), read_template(at.required("pair"), tokens, true)};
  }
  if (name == "BertProcessing") {
    at.allow_only({"type", "sep", "cls"});
    const auto start = read_named_token(at.required("cls"), 0), end = read_named_token(at.required("sep"), 0);
    const auto second_end = read_named_token(at.required("sep"), 1);
    return text::post_processor{{start, {first}, end}, {start, {first}, end, {second, 1}, second_end}};
  }
  if (name == "RobertaProcessing") {
    at.allow_only({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    const auto start = read_named_token(at.required("cls"), 0), end = read_named_token(at.required("sep"), 0);
    return text::post_processor{{start, {first}, end}, {start, {first}, end, end, {second}, end}};
  }
  at.required("type").reject("a post-processor we know");
}

inline void read_vocabulary(const json_node& at, text::vocabulary& words) {
  for (const json_node& token : at.members()) {
    token.located([&, id = read_id(token)] { words.add(token.name(), id); });
  }
}

/// The two tokens of a merge: "left right" or ["left", "right"].
inline std::pair<std::string_view, std::string_view> read_sides(const json_node& at) {
  if (at.is_array()) {
    if (at.size() != 2) at.reject("two tokens");
    auto side = at.elements().begin();
    const std::string_view left = side->text();
    return {left, (++side)->text()};
  }
  const std::string_view line = at.text();
  const std::size_t space = line.find(' ');
  if (space == line.npos || line.find(' ', space + 1) != line.npos)
    at.reject("two tokens with a space between them");
  return {line.substr(0, space), line.substr(space + 1)};
}

/// `prefix` is the length of what the result of a merge drops from the right side.
inline std::vector<text::merge> read_merges(const json_node& at, const text::vocabulary& words,
                                            std::size_t prefix) {
  std::vector<text::merge> merges;
  merges.reserve(at.size());
  std::string joined;
  for (const json_node& m : at.elements()) {
    if (m.is_string() && m.text().starts_with("#version")) continue;
    const auto [left, right] = read_sides(m);
    if (right.size() < prefix) m.fail(concat("\"", right, "\" is shorter than the continuing prefix"));
    joined.assign(left).append(right.substr(prefix));
    const auto id_of = [&](std::string_view token) {
      const token_id id = words.find(token);
      if (id == text::no_token) m.fail(concat("the vocabulary lacks \"", token, "\""));
      return id;
    };
    merges.push_back({id_of(left), id_of(right), id_of(joined)});
  }
  return merges;
}

/// What is written before or behind a part of a word, or nothing.
inline std::string read_affix(const json_node& at, std::string_view name) {
  std::string affix = at.optional<std::string>(name).value_or("");
  if (affix.size() > 64) at.required(name).reject("at most 64 bytes");
  return affix;
}

inline void read_model(const json_node& at, text::tokenizer_parts& parts) {
  const char* guess = at.optional("merges") ? "BPE" : at.optional("max_input_chars_per_word") ? "WordPiece" : "WordLevel";
  const std::string type = at.optional<std::string>("type").value_or(guess);  // older files do not name it
  text::vocabulary& words = parts.words;
  if (type == "BPE") {
    at.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                 "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (const auto dropout = at.optional("dropout"); dropout && dropout->as<double>() != 0) dropout->reject("null or 0");
    const auto flag = [&](const char* key) { return at.optional<bool>(key).value_or(false); };
    const text::bpe_options o{at.optional<std::string>("unk_token").value_or(""), read_affix(at, "continuing_subword_prefix"),
                              read_affix(at, "end_of_word_suffix"), flag("fuse_unk"), flag("byte_fallback"), flag("ignore_merges")};
    read_vocabulary(at.required("vocab"), words);
    parts.model = text::bpe(words, read_merges(at.required("merges"), words, o.prefix.size()), o);
  } else if (type == "WordPiece") {
    at.allow_only({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
    read_vocabulary(at.required("vocab"), words);
    const auto most = at.required("max_input_chars_per_word").integer<std::size_t>(0, 1024);
    parts.model =
        text::word_piece(words, {at.required<std::string>("unk_token"), read_affix(at, "continuing_subword_prefix"), most});
  } else if (type == "WordLevel") {
    at.allow_only({"type", "unk_token", "vocab"});
    read_vocabulary(at.required("vocab"), words);
    parts.model = text::word_level(at.required<std::string>("unk_token"));
  } else {
    at.required("type").reject("\"BPE\", \"WordPiece\" or \"WordLevel\"");
  }
}

inline void read_added_tokens(const json_node& at, std::vector<text::added_token>& out) {
  for (const json_node& t : at.elements()) {
    t.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    const std::size_t size = t.required("content").text().size();
    if (size == 0 || size > 4096) t.required("content").reject("1 to 4096 bytes");
    out.push_back({read_id(t.required("id")), t.required<std::string>("content"), t.required<bool>("single_word"), t.required<bool>("lstrip"),
                   t.required<bool>("rstrip"), t.required<bool>("normalized"), t.required<bool>("special")});
  }
}

inline text::tokenizer_parts read_tokenizer(const json_node& at) {
  at.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
               "decoder", "model"});
  if (at.optional<std::string>("version").value_or("1.0") != "1.0") at.required("version").reject("\"1.0\"");
  text::tokenizer_parts parts;
  if (const auto tokens = at.optional("added_tokens")) read_added_tokens(*tokens, parts.added);
  if (const auto n = at.optional("normalizer")) read_steps(*n, "normalizers", read_normalizer, parts.normalizers);
  if (const auto p = at.optional("pre_tokenizer")) read_steps(*p, "pretokenizers", read_pre_tokenizer, parts.pre_tokenizers);
  if (const auto p = at.optional("post_processor")) parts.around = read_post_processor(*p).value_or(text::post_processor{});
  if (const auto d = at.optional("decoder")) read_steps(*d, "decoders", read_decoder, parts.decoders);
  else parts.decoders.push_back(text::space_decoder{});
  read_model(at.required("model"), parts);
  if (const auto t = at.optional("truncation"))
    parts.truncation = t->required("max_length").integer<index_t>(0, std::numeric_limits<index_t>::max());
  if (const auto p = at.optional("padding")) parts.special.padding = read_id(p->required("pad_id"));
  return parts;
}

/// A part a token plays: what files call it, and the special tokens that by custom play it.
struct token_role {
  std::optional<token_id> special_tokens::*token;
  const char* key;
  std::array<std::string_view, 5> customary;
};
inline constexpr token_role token_roles[] = {
    {&special_tokens::begin, "bos_token", {"<s>", "<|begin_of_text|>", "<bos>", "[BOS]"}},
    {&special_tokens::end, "eos_token", {"</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "[EOS]"}},
    {&special_tokens::padding, "pad_token", {"<pad>", "<|pad|>", "[PAD]"}},
    {&special_tokens::unknown, "unk_token", {"<unk>", "[UNK]"}},
    {&special_tokens::separator, "sep_token", {"[SEP]"}},
    {&special_tokens::classifier, "cls_token", {"[CLS]"}},
    {&special_tokens::mask, "mask_token", {"[MASK]", "<mask>"}}};

/// Fills in who plays which part. The first file that speaks of a part decides, even when it says that nobody does; for
/// the others, custom does.
inline void cast_special_tokens(text::tokenizer_parts& parts, const std::vector<json_node>& files) {
  const auto find = [&](std::string_view content) -> std::optional<token_id> {
    for (const text::added_token& t : parts.added) {
      if (t.content == content) return t.id;
    }
    const token_id id = parts.words.find(content);
    return id == text::no_token ? std::nullopt : std::optional(id);
  };
  const auto is_special = [&](std::string_view content) {
    return std::any_of(parts.added.begin(), parts.added.end(),
                       [&](const auto& t) { return t.special && t.content == content; });
  };
  for (const token_role& role : token_roles) {
    std::optional<token_id>& player = parts.special.*role.token;
    const auto file = std::find_if(files.begin(), files.end(),
                                   [&](const json_node& f) { return f.contains(role.key); });
    if (file != files.end()) {
      const auto value = file->optional(role.key);
      player = value ? find((value->is_object() ? value->required("content") : *value).text()) : std::nullopt;
    } else if (!player) {
      const auto name = std::find_if(role.customary.begin(), role.customary.end(), is_special);
      if (name != role.customary.end()) player = find(*name);
    }
  }
}

/// Special tokens around a text must be tokens.
inline void check_template(const json_node& at, const text::tokenizer_parts& parts) {
  for (const auto* list : {&parts.around.single, &parts.around.pair}) {
    for (const text::template_part& p : *list) {
      for (token_id id : p.ids) {
        const bool added =
            std::any_of(parts.added.begin(), parts.added.end(), [&](const auto& t) { return t.id == id; });
        if (!added && !parts.words.contains(id))
          at.fail(concat("no token has the id ", id, " that \"post_processor\" adds"));
      }
    }
  }
}

}  // namespace detail

template <class>
tokenizer load_tokenizer(const std::filesystem::path& folder_or_file) {
  std::error_code ignored;  // of looking: a file that is there and cannot be read is an error when it is read
  const bool folder = std::filesystem::is_directory(folder_or_file, ignored);
  const json_limits limits{.max_bytes = std::size_t{128} << 20};  // the largest published one has 33 MB
  const json_node root = read_json(folder ? folder_or_file / "tokenizer.json" : folder_or_file, limits);
  text::tokenizer_parts parts = detail::read_tokenizer(root);
  detail::check_template(root, parts);

  std::vector<json_node> about_special_tokens;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::filesystem::path beside = folder_or_file / name;
    if (folder && std::filesystem::exists(beside, ignored))
      about_special_tokens.push_back(read_json(beside, limits));
  }
  detail::cast_special_tokens(parts, about_special_tokens);
  return root.located([&] { return tokenizer(std::move(parts)); });
}

}  // namespace graft
