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

#include "graft/io/detail/tokenizer_file.hpp"
#include "graft/text/tokenizer.hpp"

namespace graft {

/// Loads a tokenizer from a model's folder (tokenizer.json; for the special tokens also tokenizer_config.json and
/// special_tokens_map.json, where they are) or from a tokenizer.json alone. Every component must be one that gives the
/// ids the Python library `tokenizers` gives; any other is refused by name. Throws io_error when the file cannot be
/// read, format_error, with the place in the file, for what is malformed or unknown.
tokenizer load_tokenizer(const std::filesystem::path& folder_or_file);

namespace detail {

/// {"String": s} or {"Regex": r}.
inline text::pattern read_pattern(const tokenizer_json& at) {
  at.has_only({"String", "Regex"});
  const tokenizer_json literal = at.find("String"), regex = at.find("Regex");
  if (bool(literal) == bool(regex)) at.fail("expected either \"String\" or \"Regex\"");
  if (literal) return literal.located([&] { return text::pattern::literal(literal.string()); });
  return regex.located([&] { return text::pattern::regex(regex.string()); });
}

/// One character, as a string.
inline std::string read_character(const tokenizer_json& at) {
  if (text::count_characters(at.text()) != 1) at.fail_expecting("one character");
  return at.string();
}

inline text::split_behavior read_behavior(const tokenizer_json& at) {
  using enum text::split_behavior;
  const std::string_view name = at.text();
  if (name == "Removed") return removed;
  if (name == "Isolated") return isolated;
  if (name == "MergedWithPrevious") return merged_with_previous;
  if (name == "MergedWithNext") return merged_with_next;
  if (name == "Contiguous") return contiguous;
  at.fail_expecting("a split behavior");
}

inline text::replace read_replace(const tokenizer_json& at) {
  at.has_only({"type", "pattern", "content"});
  return {read_pattern(at["pattern"]), at["content"].string()};
}

/// Metaspace, of the pre-tokenizers and of the decoders.
inline text::metaspace read_metaspace(const tokenizer_json& at) {
  at.has_only({"type", "replacement", "prepend_scheme", "add_prefix_space", "split", "str_rep"});
  text::metaspace m{read_character(at["replacement"]), text::prepend_scheme::always, at.boolean_or("split", true)};
  const bool adds = at.boolean_or("add_prefix_space", true);  // how older files say it
  const std::string scheme = at.string_or("prepend_scheme", adds ? "always" : "never");
  if (scheme == "never") m.scheme = text::prepend_scheme::never;
  else if (scheme == "first") m.scheme = text::prepend_scheme::first;
  else if (scheme != "always") at["prepend_scheme"].fail_expecting("\"always\", \"first\" or \"never\"");
  if (!adds && scheme != "never") at.fail("\"add_prefix_space\" contradicts \"prepend_scheme\"");
  return m;
}

/// A component, or the components of a Sequence within a Sequence, by `read_one`. `list` is what a Sequence calls its
/// list.
template <class Step>
void read_steps(const tokenizer_json& at, std::string_view list, Step (*read_one)(const tokenizer_json&),
                std::vector<Step>& out) {
  if (out.size() == 64) at.fail("more than 64 components in a row");
  if (at["type"].text() != "Sequence") return out.push_back(read_one(at));
  at.has_only({"type", list});
  for (tokenizer_json step = at[list].first_item(); step; step = step.next()) read_steps(step, list, read_one, out);
}

inline text::normalizer read_normalizer(const tokenizer_json& at) {
  const std::string_view type = at["type"].text();
  if (type == "Replace") return read_replace(at);
  if (type == "Prepend") {
    at.has_only({"type", "prepend"});
    return text::prepend{at["prepend"].string()};
  }
  if (type == "Strip") {
    at.has_only({"type", "strip_left", "strip_right"});
    return text::strip_spaces{at["strip_left"].boolean(), at["strip_right"].boolean()};
  }
  if (type == "BertNormalizer") {
    at.has_only({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
    const bool lower = at["lowercase"].boolean();
    return text::bert_normalizer{at["clean_text"].boolean(), at["handle_chinese_chars"].boolean(),
                                 at.boolean_or("strip_accents", lower), lower};
  }
  at.has_only({"type"});
  if (type == "NFC") return text::normal_form::nfc;
  if (type == "NFD") return text::normal_form::nfd;
  if (type == "NFKC") return text::normal_form::nfkc;
  if (type == "NFKD") return text::normal_form::nfkd;
  if (type == "Lowercase") return text::lowercase{};
  if (type == "StripAccents") return text::strip_accents{};
  at["type"].fail_expecting("a normalizer we know");
}

inline text::pre_tokenizer read_pre_tokenizer(const tokenizer_json& at) {
  const std::string_view type = at["type"].text();
  if (type == "Metaspace") return read_metaspace(at);
  if (type == "Split") {
    at.has_only({"type", "pattern", "behavior", "invert"});
    return text::split{read_pattern(at["pattern"]), read_behavior(at["behavior"]), at["invert"].boolean()};
  }
  if (type == "ByteLevel") {
    at.has_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    text::byte_level t{at["add_prefix_space"].boolean(), std::nullopt};
    if (at.boolean_or("use_regex", true)) t.words = text::pattern::regex(text::gpt2_words);
    return t;
  }
  if (type == "Digits") {
    at.has_only({"type", "individual_digits"});
    return text::digits{at["individual_digits"].boolean()};
  }
  if (type == "Punctuation") {
    at.has_only({"type", "behavior"});
    const tokenizer_json behavior = at.find("behavior");
    return text::punctuation{behavior ? read_behavior(behavior) : text::split_behavior::isolated};
  }
  at.has_only({"type"});
  if (type == "Whitespace") return text::words_and_symbols{};
  if (type == "WhitespaceSplit") return text::white_space_split{};
  if (type == "BertPreTokenizer") return text::bert_words{};
  at["type"].fail_expecting("a pre-tokenizer we know");
}

inline text::decoder read_decoder(const tokenizer_json& at) {
  const std::string_view type = at["type"].text();
  if (type == "Replace") return read_replace(at);
  if (type == "ByteLevel") {
    at.has_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return text::byte_level_decoder{};
  }
  if (type == "Strip") {
    at.has_only({"type", "content", "start", "stop"});
    const auto count = [&](const char* key) { return static_cast<std::size_t>(at[key].integer(1 << 20)); };
    return text::strip_decoder{read_character(at["content"]), count("start"), count("stop")};
  }
  if (type == "WordPiece") {
    at.has_only({"type", "prefix", "cleanup"});
    return text::word_piece_decoder{at["prefix"].string(), at["cleanup"].boolean()};
  }
  if (type == "Metaspace") {
    const text::metaspace m = read_metaspace(at);
    return text::metaspace_decoder{m.replacement, m.scheme != text::prepend_scheme::never};
  }
  if (type == "BPEDecoder") {
    at.has_only({"type", "suffix"});
    return text::bpe_decoder{at["suffix"].string()};
  }
  at.has_only({"type"});
  if (type == "ByteFallback") return text::byte_fallback_decoder{};
  if (type == "Fuse") return text::fuse_decoder{};
  at["type"].fail_expecting("a decoder we know");
}

/// One list of a TemplateProcessing, whose special tokens are in `tokens`.
inline std::vector<text::template_part> read_template(const tokenizer_json& at, const tokenizer_json& tokens,
                                                      bool pair) {
  std::vector<text::template_part> parts;
  for (tokenizer_json item = at.first_item(); item; item = item.next()) {
    item.has_only({"Sequence", "SpecialToken"});
    const tokenizer_json sequence = item.find("Sequence"), token = item.find("SpecialToken");
    if (bool(sequence) == bool(token)) item.fail("expected either \"Sequence\" or \"SpecialToken\"");
    const tokenizer_json part = sequence ? sequence : token;
    part.has_only({"id", "type_id"});
    const tokenizer_json name = part["id"];
    text::template_part p{text::template_part::special, part["type_id"].id()};
    if (token) {
      const tokenizer_json entry = tokens.find(name.text());
      if (!entry) name.fail_expecting("a name from \"special_tokens\"");
      for (tokenizer_json id = entry["ids"].first_item(); id; id = id.next()) p.ids.push_back(id.id());
    } else if (name.text() == "A" || (name.text() == "B" && pair)) {
      p.source = name.text() == "A" ? text::template_part::first : text::template_part::second;
    } else {
      name.fail_expecting(pair ? "\"A\" or \"B\"" : "\"A\"");
    }
    parts.push_back(std::move(p));
  }
  return parts;
}

/// [text, id], as BertProcessing and RobertaProcessing name their tokens.
inline text::template_part read_named_token(const tokenizer_json& at, token_id type_id) {
  const tokenizer_json token = at.first_item();
  if (at.size() != 2) at.fail_expecting("a token and its id");
  token.text();
  return {text::template_part::special, type_id, {token.next().id()}};
}

/// What a post-processor adds; nothing when it adds nothing.
inline std::optional<text::post_processor> read_post_processor(const tokenizer_json& at) {
  using enum text::template_part::source_type;
  const std::string_view name = at["type"].text();
  if (name == "Sequence") {
    at.has_only({"type", "processors"});
    std::optional<text::post_processor> only;
    for (tokenizer_json step = at["processors"].first_item(); step; step = step.next()) {
      auto next = read_post_processor(step);
      if (next && only) step.fail("a second post-processor that adds tokens is not known");
      if (next) only = std::move(next);
    }
    return only;
  }
  if (name == "ByteLevel") {
    at.has_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return std::nullopt;
  }
  if (name == "TemplateProcessing") {
    at.has_only({"type", "single", "pair", "special_tokens"});
    const tokenizer_json tokens = at["special_tokens"];
    return text::post_processor{read_template(at["single"], tokens, false), read_template(at["pair"], tokens, true)};
  }
  if (name == "BertProcessing") {
    at.has_only({"type", "sep", "cls"});
    const auto start = read_named_token(at["cls"], 0), end = read_named_token(at["sep"], 0);
    const auto second_end = read_named_token(at["sep"], 1);
    return text::post_processor{{start, {first}, end}, {start, {first}, end, {second, 1}, second_end}};
  }
  if (name == "RobertaProcessing") {
    at.has_only({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    const auto start = read_named_token(at["cls"], 0), end = read_named_token(at["sep"], 0);
    return text::post_processor{{start, {first}, end}, {start, {first}, end, end, {second}, end}};
  }
  at["type"].fail_expecting("a post-processor we know");
}

inline void read_vocabulary(const tokenizer_json& at, text::vocabulary& words) {
  for (tokenizer_json token = at.first_member(); token; token = token.next()) {
    token.located([&, id = token.id()] { words.add(token.name(), id); });
  }
}

/// The two tokens of a merge: "left right" or ["left", "right"].
inline std::pair<std::string_view, std::string_view> read_sides(const tokenizer_json& at) {
  if (at.is(tokenizer_file::kind::array)) {
    if (at.size() != 2) at.fail_expecting("two tokens");
    return {at.first().text(), at.first().next().text()};
  }
  const std::string_view line = at.text();
  const std::size_t space = line.find(' ');
  if (space == line.npos || line.find(' ', space + 1) != line.npos)
    at.fail_expecting("two tokens with a space between them");
  return {line.substr(0, space), line.substr(space + 1)};
}

/// `prefix` is the length of what the result of a merge drops from the right side.
inline std::vector<text::merge> read_merges(const tokenizer_json& at, const text::vocabulary& words,
                                            std::size_t prefix) {
  std::vector<text::merge> merges;
  merges.reserve(at.size());
  std::string joined;
  for (tokenizer_json m = at.first_item(); m; m = m.next()) {
    if (m.is(tokenizer_file::kind::string) && m.text().starts_with("#version")) continue;
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
inline std::string read_affix(const tokenizer_json& at, std::string_view name) {
  std::string affix = at.string_or(name, "");
  if (affix.size() > 64) at[name].fail_expecting("at most 64 bytes");
  return affix;
}

inline void read_model(const tokenizer_json& at, text::tokenizer_parts& parts) {
  const char* guess = at.find("merges") ? "BPE" : at.find("max_input_chars_per_word") ? "WordPiece" : "WordLevel";
  const std::string type = at.string_or("type", guess);  // older files do not name it
  text::vocabulary& words = parts.words;
  if (type == "BPE") {
    at.has_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                 "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (const auto dropout = at.find("dropout"); dropout && !dropout.is_zero()) dropout.fail_expecting("null or 0");
    const text::bpe_options o{at.string_or("unk_token", ""),         read_affix(at, "continuing_subword_prefix"),
                              read_affix(at, "end_of_word_suffix"),  at.boolean_or("fuse_unk", false),
                              at.boolean_or("byte_fallback", false), at.boolean_or("ignore_merges", false)};
    read_vocabulary(at["vocab"], words);
    parts.model = text::bpe(words, read_merges(at["merges"], words, o.prefix.size()), o);
  } else if (type == "WordPiece") {
    at.has_only({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
    read_vocabulary(at["vocab"], words);
    const auto most = static_cast<std::size_t>(at["max_input_chars_per_word"].integer(1024));
    parts.model =
        text::word_piece(words, {at["unk_token"].string(), read_affix(at, "continuing_subword_prefix"), most});
  } else if (type == "WordLevel") {
    at.has_only({"type", "unk_token", "vocab"});
    read_vocabulary(at["vocab"], words);
    parts.model = text::word_level(at["unk_token"].string());
  } else {
    at["type"].fail_expecting("\"BPE\", \"WordPiece\" or \"WordLevel\"");
  }
}

inline void read_added_tokens(const tokenizer_json& at, std::vector<text::added_token>& out) {
  for (tokenizer_json t = at.first_item(); t; t = t.next()) {
    t.has_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    const std::size_t size = t["content"].text().size();
    if (size == 0 || size > 4096) t["content"].fail_expecting("1 to 4096 bytes");
    out.push_back({t["id"].id(), t["content"].string(), t["single_word"].boolean(), t["lstrip"].boolean(),
                   t["rstrip"].boolean(), t["normalized"].boolean(), t["special"].boolean()});
  }
}

inline text::tokenizer_parts read_tokenizer(const tokenizer_json& at) {
  at.has_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
               "decoder", "model"});
  if (at.string_or("version", "1.0") != "1.0") at["version"].fail_expecting("\"1.0\"");
  text::tokenizer_parts parts;
  if (const auto tokens = at.find("added_tokens")) read_added_tokens(tokens, parts.added);
  if (const auto n = at.find("normalizer")) read_steps(n, "normalizers", read_normalizer, parts.normalizers);
  if (const auto p = at.find("pre_tokenizer")) read_steps(p, "pretokenizers", read_pre_tokenizer, parts.pre_tokenizers);
  if (const auto p = at.find("post_processor")) parts.around = read_post_processor(p).value_or(text::post_processor{});
  if (const auto d = at.find("decoder")) read_steps(d, "decoders", read_decoder, parts.decoders);
  else parts.decoders.push_back(text::space_decoder{});
  read_model(at["model"], parts);
  if (const auto t = at.find("truncation"))
    parts.truncation = t["max_length"].integer(std::numeric_limits<index_t>::max());
  if (const auto p = at.find("padding")) parts.special.padding = p["pad_id"].id();
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
inline void cast_special_tokens(text::tokenizer_parts& parts, const std::vector<tokenizer_file>& files) {
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
                                   [&](const auto& f) { return bool(tokenizer_json(f).member(role.key)); });
    if (file != files.end()) {
      const tokenizer_json value = tokenizer_json(*file).find(role.key);
      player = value ? find((value.is(tokenizer_file::kind::object) ? value["content"] : value).text()) : std::nullopt;
    } else if (!player) {
      const auto name = std::find_if(role.customary.begin(), role.customary.end(), is_special);
      if (name != role.customary.end()) player = find(*name);
    }
  }
}

/// Special tokens around a text must be tokens.
inline void check_template(const tokenizer_json& at, const text::tokenizer_parts& parts) {
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

inline tokenizer load_tokenizer(const std::filesystem::path& folder_or_file) {
  std::error_code ignored;  // of looking: a file that is there and cannot be read is an error when it is read
  const bool folder = std::filesystem::is_directory(folder_or_file, ignored);
  const detail::tokenizer_file file =
      detail::read_tokenizer_file(folder ? folder_or_file / "tokenizer.json" : folder_or_file);
  const detail::tokenizer_json root(file);
  text::tokenizer_parts parts = detail::read_tokenizer(root);
  detail::check_template(root, parts);

  std::vector<detail::tokenizer_file> about_special_tokens;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::filesystem::path beside = folder_or_file / name;
    if (folder && std::filesystem::exists(beside, ignored))
      about_special_tokens.push_back(detail::read_tokenizer_file(beside));
  }
  detail::cast_special_tokens(parts, about_special_tokens);
  return root.located([&] { return tokenizer(std::move(parts)); });
}

}  // namespace graft
