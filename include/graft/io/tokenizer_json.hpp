// SPDX-License-Identifier: Apache-2.0
// Reads tokenizer.json, the file published models keep their tokenizer in. Read next: text/tokenizer.hpp.
#pragma once
#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "graft/text/stream_decoder.hpp"
#include "graft/text/tokenizer.hpp"

namespace graft {

/// Loads a tokenizer from a model's folder (tokenizer.json; for the special tokens also tokenizer_config.json and
/// special_tokens_map.json, where they are) or from a tokenizer.json alone. Every component must be one that gives the ids
/// the Python library `tokenizers` gives; any other is refused by name. Throws io_error when the file cannot be read,
/// format_error, with the place in the file, for what is malformed or unknown.
tokenizer load_tokenizer(const std::filesystem::path& folder_or_file);

namespace detail {

inline constexpr std::uintmax_t max_tokenizer_bytes = std::uintmax_t{256} << 20;
inline constexpr int max_tokenizer_depth = 32;

/// A value in a JSON file and where it stands; every complaint names both.
class tokenizer_json {
 public:
  tokenizer_json(const std::string& file, const nlohmann::json& value, std::string path = "")
      : file_(&file), value_(&value), path_(std::move(path)) {}

  const nlohmann::json& value() const { return *value_; }

  [[noreturn]] void fail(std::string_view what) const {
    throw_error<format_error>("tokenizer file \"", *file_, "\", ", path_.empty() ? "/" : path_, ": ", what);
  }
  [[noreturn]] void fail_expecting(std::string_view expected) const {
    fail(concat("expected ", expected, ", got ", description()));
  }
  /// Runs f and tells where it failed.
  template <class F>
  auto located(F f) const {
    try {
      return f();
    } catch (const format_error& e) {
      fail(e.what());
    }
  }

  /// A member that is there and not null.
  std::optional<tokenizer_json> find(const char* key) const {
    if (!value_->is_object()) fail_expecting("an object");
    const auto member = value_->find(key);
    if (member == value_->end() || member->is_null()) return std::nullopt;
    return tokenizer_json(*file_, *member, concat(path_, "/", key));
  }
  tokenizer_json operator[](const char* key) const {
    if (auto member = find(key)) return *std::move(member);
    fail(concat("expected a member \"", key, "\""));
  }
  tokenizer_json operator[](std::size_t i) const { return {*file_, (*value_)[i], concat(path_, "/", i)}; }

  /// Refuses members with other names, unless they say nothing: an option we do not know may change ids.
  void has_only(std::initializer_list<std::string_view> keys) const {
    if (!value_->is_object()) fail_expecting("an object");
    for (const auto& [key, member] : value_->items()) {
      const bool says_nothing = member.is_null() || member == false || (member.is_structured() && member.empty());
      if (!says_nothing && std::find(keys.begin(), keys.end(), key) == keys.end()) {
        tokenizer_json(*file_, member, concat(path_, "/", key)).fail("this option is not known");
      }
    }
  }

  std::size_t array_size() const {
    if (!value_->is_array()) fail_expecting("an array");
    return value_->size();
  }
  const std::string& string() const {
    if (!value_->is_string()) fail_expecting("a string");
    return value_->get_ref<const std::string&>();
  }
  bool boolean() const {
    if (!value_->is_boolean()) fail_expecting("true or false");
    return value_->get<bool>();
  }
  index_t integer(index_t most) const {
    if (!value_->is_number_unsigned() || value_->get<std::uint64_t>() > static_cast<std::uint64_t>(most)) {
      fail_expecting(concat("an integer from 0 to ", most));
    }
    return value_->get<index_t>();
  }
  token_id id() const { return static_cast<token_id>(integer(text::max_token_id)); }

  std::string string_or(const char* key, std::string otherwise) const {
    const auto member = find(key);
    return member ? member->string() : otherwise;
  }
  bool boolean_or(const char* key, bool otherwise) const {
    const auto member = find(key);
    return member ? member->boolean() : otherwise;
  }

 private:
  std::string description() const {
    if (value_->is_array()) return concat("an array of ", value_->size());
    if (value_->is_object()) return "an object";
    std::string s = value_->dump();
    if (s.size() > 80) s = s.substr(0, 80) + "...";
    return s;
  }

  const std::string* file_;
  const nlohmann::json* value_;
  std::string path_;
};

/// Refuses what is too deep and what says the same thing twice while a file is parsed.
class strict_json {
 public:
  bool operator()(int, nlohmann::json::parse_event_t event, const nlohmann::json& parsed) {
    using enum nlohmann::json::parse_event_t;
    if (event == object_start || event == array_start) {
      if (names_.size() == max_tokenizer_depth) throw_error<format_error>("nested more than ", max_tokenizer_depth, " deep");
      names_.emplace_back();
    } else if (event == object_end || event == array_end) {
      names_.pop_back();
    } else if (event == key && !names_.back().insert(parsed.get_ref<const std::string&>()).second) {
      throw_error<format_error>("the name ", parsed.dump(), " stands twice in one object");
    }
    return true;
  }

 private:
  std::vector<std::unordered_set<std::string>> names_;
};

inline nlohmann::json read_tokenizer_file(const std::filesystem::path& file) {
  std::error_code failure;
  const std::uintmax_t size = std::filesystem::file_size(file, failure);
  std::ifstream in(file, std::ios::binary);
  if (failure || !in) throw_error<io_error>("tokenizer file \"", file.string(), "\": cannot be read");
  if (size > max_tokenizer_bytes) {
    throw_error<format_error>("tokenizer file \"", file.string(), "\": has ", size, " bytes, expected at most ", max_tokenizer_bytes);
  }
  std::string bytes(static_cast<std::size_t>(size), '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(size));
  if (in.gcount() != static_cast<std::streamsize>(size)) {
    throw_error<io_error>("tokenizer file \"", file.string(), "\": ends after ", in.gcount(), " of ", size, " bytes");
  }
  try {
    strict_json strict;
    return nlohmann::json::parse(bytes, [&](int depth, auto event, auto& parsed) { return strict(depth, event, parsed); });
  } catch (const format_error& e) {
    throw_error<format_error>("tokenizer file \"", file.string(), "\": ", e.what());
  } catch (const nlohmann::json::exception& e) {
    throw_error<format_error>("tokenizer file \"", file.string(), "\": ", e.what());
  }
}

/// {"String": s} or {"Regex": r}.
inline text::pattern read_pattern(const tokenizer_json& at) {
  at.has_only({"String", "Regex"});
  const auto literal = at.find("String"), regex = at.find("Regex");
  if (literal.has_value() == regex.has_value()) at.fail("expected either \"String\" or \"Regex\"");
  if (literal) return literal->located([&] { return text::pattern::literal(literal->string()); });
  return regex->located([&] { return text::pattern::regex(regex->string()); });
}

/// One character, as a string.
inline std::string read_character(const tokenizer_json& at) {
  if (text::count_characters(at.string()) != 1) at.fail_expecting("one character");
  return at.string();
}

inline text::split_behavior read_behavior(const tokenizer_json& at) {
  using enum text::split_behavior;
  const std::string& name = at.string();
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

inline void read_normalizers(const tokenizer_json& at, std::vector<text::normalizer>& out) {
  const tokenizer_json type = at["type"];
  const std::string& name = type.string();
  if (name == "Sequence") {
    at.has_only({"type", "normalizers"});
    const tokenizer_json list = at["normalizers"];
    for (std::size_t i = 0; i < list.array_size(); ++i) read_normalizers(list[i], out);
  } else if (name == "Prepend") {
    at.has_only({"type", "prepend"});
    out.emplace_back(text::prepend{at["prepend"].string()});
  } else if (name == "Replace") {
    out.emplace_back(read_replace(at));
  } else if (name == "Strip") {
    at.has_only({"type", "strip_left", "strip_right"});
    out.emplace_back(text::strip_spaces{at["strip_left"].boolean(), at["strip_right"].boolean()});
  } else if (name == "BertNormalizer") {
    at.has_only({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
    const bool lower = at["lowercase"].boolean();
    out.emplace_back(text::bert_normalizer{at["clean_text"].boolean(), at["handle_chinese_chars"].boolean(),
                                           at.boolean_or("strip_accents", lower), lower});
  } else {
    at.has_only({"type"});
    if (name == "NFC") out.emplace_back(text::normal_form::nfc);
    else if (name == "NFD") out.emplace_back(text::normal_form::nfd);
    else if (name == "NFKC") out.emplace_back(text::normal_form::nfkc);
    else if (name == "NFKD") out.emplace_back(text::normal_form::nfkd);
    else if (name == "Lowercase") out.emplace_back(text::lowercase{});
    else if (name == "StripAccents") out.emplace_back(text::strip_accents{});
    else type.fail_expecting("a normalizer we know");
  }
}

inline void read_pre_tokenizers(const tokenizer_json& at, std::vector<text::pre_tokenizer>& out) {
  const tokenizer_json type = at["type"];
  const std::string& name = type.string();
  if (name == "Sequence") {
    at.has_only({"type", "pretokenizers"});
    const tokenizer_json list = at["pretokenizers"];
    for (std::size_t i = 0; i < list.array_size(); ++i) read_pre_tokenizers(list[i], out);
  } else if (name == "Split") {
    at.has_only({"type", "pattern", "behavior", "invert"});
    out.emplace_back(text::split{read_pattern(at["pattern"]), read_behavior(at["behavior"]), at["invert"].boolean()});
  } else if (name == "ByteLevel") {
    at.has_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    text::byte_level t{at["add_prefix_space"].boolean(), std::nullopt};
    if (at.boolean_or("use_regex", true)) t.words = text::pattern::regex(text::gpt2_words);
    out.emplace_back(std::move(t));
  } else if (name == "Digits") {
    at.has_only({"type", "individual_digits"});
    out.emplace_back(text::digits{at["individual_digits"].boolean()});
  } else if (name == "Punctuation") {
    at.has_only({"type", "behavior"});
    const auto behavior = at.find("behavior");
    out.emplace_back(text::punctuation{behavior ? read_behavior(*behavior) : text::split_behavior::isolated});
  } else if (name == "Metaspace") {
    out.emplace_back(read_metaspace(at));
  } else {
    at.has_only({"type"});
    if (name == "Whitespace") out.emplace_back(text::words_and_symbols{});
    else if (name == "WhitespaceSplit") out.emplace_back(text::white_space_split{});
    else if (name == "BertPreTokenizer") out.emplace_back(text::bert_words{});
    else type.fail_expecting("a pre-tokenizer we know");
  }
}

inline void read_decoders(const tokenizer_json& at, std::vector<text::decoder>& out) {
  const tokenizer_json type = at["type"];
  const std::string& name = type.string();
  if (name == "Sequence") {
    at.has_only({"type", "decoders"});
    const tokenizer_json list = at["decoders"];
    for (std::size_t i = 0; i < list.array_size(); ++i) read_decoders(list[i], out);
  } else if (name == "ByteLevel") {
    at.has_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    out.emplace_back(text::byte_level_decoder{});
  } else if (name == "Replace") {
    out.emplace_back(read_replace(at));
  } else if (name == "Strip") {
    at.has_only({"type", "content", "start", "stop"});
    const auto count = [&](const char* key) { return static_cast<std::size_t>(at[key].integer(1 << 20)); };
    out.emplace_back(text::strip_decoder{read_character(at["content"]), count("start"), count("stop")});
  } else if (name == "WordPiece") {
    at.has_only({"type", "prefix", "cleanup"});
    out.emplace_back(text::word_piece_decoder{at["prefix"].string(), at["cleanup"].boolean()});
  } else if (name == "Metaspace") {
    const text::metaspace m = read_metaspace(at);
    out.emplace_back(text::metaspace_decoder{m.replacement, m.scheme != text::prepend_scheme::never});
  } else if (name == "BPEDecoder") {
    at.has_only({"type", "suffix"});
    out.emplace_back(text::bpe_decoder{at["suffix"].string()});
  } else {
    at.has_only({"type"});
    if (name == "ByteFallback") out.emplace_back(text::byte_fallback_decoder{});
    else if (name == "Fuse") out.emplace_back(text::fuse_decoder{});
    else type.fail_expecting("a decoder we know");
  }
}

/// One list of a TemplateProcessing, whose special tokens are in `tokens`.
inline std::vector<text::template_part> read_template(const tokenizer_json& at, const tokenizer_json& tokens, bool pair) {
  std::vector<text::template_part> parts;
  for (std::size_t i = 0; i < at.array_size(); ++i) {
    at[i].has_only({"Sequence", "SpecialToken"});
    const auto sequence = at[i].find("Sequence"), token = at[i].find("SpecialToken");
    if (sequence.has_value() == token.has_value()) at[i].fail("expected either \"Sequence\" or \"SpecialToken\"");
    const tokenizer_json part = sequence ? *sequence : *token;
    part.has_only({"id", "type_id"});
    const std::string& id = part["id"].string();
    text::template_part p{text::template_part::special, part["type_id"].id()};
    if (token) {
      const auto entry = tokens.find(id.c_str());
      if (!entry) part["id"].fail_expecting("a name from \"special_tokens\"");
      const tokenizer_json ids = (*entry)["ids"];
      for (std::size_t k = 0; k < ids.array_size(); ++k) p.ids.push_back(ids[k].id());
    } else if (id == "A" || (id == "B" && pair)) {
      p.source = id == "A" ? text::template_part::first : text::template_part::second;
    } else {
      part["id"].fail_expecting(pair ? "\"A\" or \"B\"" : "\"A\"");
    }
    parts.push_back(std::move(p));
  }
  return parts;
}

/// [text, id], as BertProcessing and RobertaProcessing name their tokens.
inline text::template_part read_named_token(const tokenizer_json& at, token_id type_id) {
  if (at.array_size() != 2) at.fail_expecting("a token and its id");
  at[0].string();
  return {text::template_part::special, type_id, {at[1].id()}};
}

/// What a post-processor adds; nothing when it adds nothing.
inline std::optional<text::post_processor> read_post_processor(const tokenizer_json& at) {
  using enum text::template_part::source_type;
  const std::string& name = at["type"].string();
  if (name == "Sequence") {
    at.has_only({"type", "processors"});
    const tokenizer_json list = at["processors"];
    std::optional<text::post_processor> only;
    for (std::size_t i = 0; i < list.array_size(); ++i) {
      auto next = read_post_processor(list[i]);
      if (next && only) list[i].fail("a second post-processor that adds tokens is not known");
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
  if (!at.value().is_object()) at.fail_expecting("an object from tokens to ids");
  for (const auto& [token, id] : at.value().items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > static_cast<std::uint64_t>(text::max_token_id)) {
      at[token.c_str()].id();  // fails, with the place
    }
    at.located([&, &token = token, &id = id] { words.add(token, id.get<token_id>()); });
  }
}

/// Merges as "left right" or as ["left", "right"]; `prefix` is what the result drops from the right side.
inline std::vector<text::merge> read_merges(const tokenizer_json& at, const text::vocabulary& words, std::size_t prefix) {
  std::vector<text::merge> merges;
  merges.reserve(at.array_size());
  std::string joined;
  for (std::size_t i = 0; i < at.array_size(); ++i) {
    const nlohmann::json& m = at.value()[i];
    std::string_view left, right;
    if (m.is_string()) {
      const std::string_view line = m.get_ref<const std::string&>();
      if (line.starts_with("#version")) continue;
      const std::size_t space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
        at[i].fail_expecting("two tokens with a space between them");
      }
      left = line.substr(0, space);
      right = line.substr(space + 1);
    } else if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
      left = m[0].get_ref<const std::string&>();
      right = m[1].get_ref<const std::string&>();
    } else {
      at[i].fail_expecting("two tokens");
    }
    if (right.size() < prefix) at[i].fail(concat("\"", right, "\" is shorter than the continuing prefix"));
    joined.assign(left).append(right.substr(prefix));
    const auto id_of = [&](std::string_view token) {
      const token_id id = words.find(token);
      if (id == text::no_token) at[i].fail(concat("the vocabulary lacks \"", token, "\""));
      return id;
    };
    merges.push_back({id_of(left), id_of(right), id_of(joined)});
  }
  return merges;
}

inline void read_model(const tokenizer_json& at, text::tokenizer_parts& parts) {
  std::string type = at.find("merges") ? "BPE" : at.find("max_input_chars_per_word") ? "WordPiece" : "WordLevel";
  type = at.string_or("type", type);  // older files do not name it
  text::vocabulary& words = parts.words;
  if (type == "BPE") {
    at.has_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
                 "ignore_merges", "vocab", "merges"});
    if (const auto dropout = at.find("dropout"); dropout && dropout->value() != 0) dropout->fail_expecting("null or 0");
    const text::bpe_options o{at.string_or("unk_token", ""),         at.string_or("continuing_subword_prefix", ""),
                              at.string_or("end_of_word_suffix", ""), at.boolean_or("fuse_unk", false),
                              at.boolean_or("byte_fallback", false),  at.boolean_or("ignore_merges", false)};
    read_vocabulary(at["vocab"], words);
    parts.model = text::bpe(words, read_merges(at["merges"], words, o.prefix.size()), o);
  } else if (type == "WordPiece") {
    at.has_only({"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
    read_vocabulary(at["vocab"], words);
    const index_t most = at["max_input_chars_per_word"].integer(1 << 20);
    parts.model = text::word_piece(words, {at["unk_token"].string(), at["continuing_subword_prefix"].string(), static_cast<std::size_t>(most)});
  } else if (type == "WordLevel") {
    at.has_only({"type", "unk_token", "vocab"});
    read_vocabulary(at["vocab"], words);
    parts.model = text::word_level(at["unk_token"].string());
  } else {
    at["type"].fail_expecting("\"BPE\", \"WordPiece\" or \"WordLevel\"");
  }
}

inline void read_added_tokens(const tokenizer_json& at, std::vector<text::added_token>& out) {
  for (std::size_t i = 0; i < at.array_size(); ++i) {
    const tokenizer_json t = at[i];
    t.has_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    out.push_back({t["id"].id(), t["content"].string(), t["single_word"].boolean(), t["lstrip"].boolean(),
                   t["rstrip"].boolean(), t["normalized"].boolean(), t["special"].boolean()});
  }
}

inline text::tokenizer_parts read_tokenizer(const tokenizer_json& at) {
  at.has_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"});
  if (at.string_or("version", "1.0") != "1.0") at["version"].fail_expecting("\"1.0\"");
  text::tokenizer_parts parts;
  if (const auto tokens = at.find("added_tokens")) read_added_tokens(*tokens, parts.added);
  if (const auto n = at.find("normalizer")) read_normalizers(*n, parts.normalizers);
  if (const auto p = at.find("pre_tokenizer")) read_pre_tokenizers(*p, parts.pre_tokenizers);
  if (const auto p = at.find("post_processor")) parts.around = read_post_processor(*p).value_or(text::post_processor{});
  if (const auto d = at.find("decoder")) read_decoders(*d, parts.decoders);
  else parts.decoders.emplace_back(text::space_decoder{});
  read_model(at["model"], parts);
  if (const auto t = at.find("truncation")) parts.truncation = (*t)["max_length"].integer(std::numeric_limits<index_t>::max());
  if (const auto p = at.find("padding")) parts.special.padding = (*p)["pad_id"].id();
  return parts;
}

/// A part a token plays: what files call it, and the special tokens that by custom play it.
struct token_role {
  std::optional<token_id> special_tokens::* token;
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
inline void cast_special_tokens(text::tokenizer_parts& parts, const std::vector<tokenizer_json>& files) {
  const auto find = [&](std::string_view content) -> std::optional<token_id> {
    for (const text::added_token& t : parts.added) {
      if (t.content == content) return t.id;
    }
    const token_id id = parts.words.find(content);
    return id == text::no_token ? std::nullopt : std::optional(id);
  };
  const auto is_special = [&](std::string_view content) {
    return std::any_of(parts.added.begin(), parts.added.end(), [&](const auto& t) { return t.special && t.content == content; });
  };
  for (const token_role& role : token_roles) {
    std::optional<token_id>& player = parts.special.*role.token;
    const auto file = std::find_if(files.begin(), files.end(), [&](const auto& f) { return f.value().contains(role.key); });
    if (file != files.end()) {
      const auto value = file->find(role.key);
      player = value ? find(value->value().is_object() ? (*value)["content"].string() : value->string()) : std::nullopt;
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
        const bool added = std::any_of(parts.added.begin(), parts.added.end(), [&](const auto& t) { return t.id == id; });
        if (!added && !parts.words.contains(id)) at.fail(concat("no token has the id ", id, " that \"post_processor\" adds"));
      }
    }
  }
}

}  // namespace detail

inline tokenizer load_tokenizer(const std::filesystem::path& folder_or_file) {
  const bool folder = std::filesystem::is_directory(folder_or_file);
  const std::filesystem::path path = folder ? folder_or_file / "tokenizer.json" : folder_or_file;
  const std::string name = path.string();
  const nlohmann::json file = detail::read_tokenizer_file(path);
  const detail::tokenizer_json root(name, file);
  text::tokenizer_parts parts = detail::read_tokenizer(root);
  detail::check_template(root, parts);

  std::array<std::string, 2> names;
  std::array<nlohmann::json, 2> jsons;
  std::vector<detail::tokenizer_json> about_special_tokens;
  std::size_t n = 0;
  for (const char* beside : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::filesystem::path other = path.parent_path() / beside;
    if (!folder || !std::filesystem::exists(other)) continue;
    names[n] = other.string();
    jsons[n] = detail::read_tokenizer_file(other);
    about_special_tokens.emplace_back(names[n], jsons[n]);
    ++n;
  }
  detail::cast_special_tokens(parts, about_special_tokens);
  return root.located([&] { return tokenizer(std::move(parts)); });
}

}  // namespace graft
