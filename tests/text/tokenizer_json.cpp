// SPDX-License-Identifier: Apache-2.0
#include "graft/io/tokenizer_json.hpp"

#include "graft/text.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"

using namespace graft;
using ids_type = std::vector<token_id>;

namespace {

/// A file of every section; tests change one part of it at a time.
constexpr const char* small_file = R"({
  "version": "1.0",
  "truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null, "pad_id": 4,
              "pad_type_id": 0, "pad_token": "[P]"},
  "added_tokens": [
    {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
     "special": true}],
  "normalizer": null,
  "pre_tokenizer": {"type": "Whitespace"},
  "post_processor": null,
  "decoder": null,
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3, "[P]": 4}, "merges": [["a", "b"]]}
})";

std::string with(std::string from, std::string to, std::string file = small_file) {
  const std::size_t at = file.find(from);
  REQUIRE(at != std::string::npos);
  return file.replace(at, from.size(), to);
}
std::string with_post_processor(const std::string& json) {
  return with("\"post_processor\": null", "\"post_processor\": " + json);
}
std::string with_model(const std::string& json) {
  const std::string file = small_file;
  const std::size_t at = file.find("{\"type\": \"BPE\"");
  return with(file.substr(at, file.rfind('}') - at), json);
}

tokenizer loaded(const std::string& json) {
  const test::temporary_folder folder;
  test::write_file(folder / "tokenizer.json", json);
  return load_tokenizer(folder.path());
}
ids_type ids(const tokenizer& t, std::string_view text) { return t.encode(text).ids; }

/// What is wrong with a file, from where it is wrong.
std::string complaint(const std::string& json) {
  try {
    loaded(json);
  } catch (const format_error& e) {
    const std::string message = e.what(), start = "tokenizer.json: ";
    REQUIRE(message.find(start) != message.npos);
    return message.substr(message.find(start) + start.size());
  }
  return "nothing is wrong";
}

}  // namespace

TEST_CASE("a file of every section is read") {
  const tokenizer t = loaded(small_file);
  CHECK(ids(t, "abba a<s>") == ids_type{3, 2, 1, 1, 0});
  CHECK(t.decode(ids_type{0, 3, 1}) == "ab a");
  CHECK(t.truncation() == 16);
  CHECK(t.vocabulary_size() == 5);
  CHECK(t.special().padding == 4);
  CHECK(t.special().begin == 0);
  CHECK_FALSE(t.special().end);
}

TEST_CASE("merges are pairs, or lines as older files write them") {
  CHECK(ids(loaded(with("[[\"a\", \"b\"]]", "[\"#version: 0.2\", \"a b\"]")), "ab") == ids_type{3});
  CHECK(complaint(with("[[\"a\", \"b\"]]", "[\"a b\", \"a b c\"]")) ==
        "model.merges[1]: expected two tokens with a space between them, got \"a b c\"");
  CHECK(complaint(with("[[\"a\", \"b\"]]", "[[\"a\"]]")) == "model.merges[0]: expected two tokens, got an array of 1");
  CHECK(complaint(with("[[\"a\", \"b\"]]", "[[\"a\", 1]]")) == "model.merges[0][1]: expected a string, got 1");
  CHECK(complaint(with("[[\"a\", \"b\"]]", "[[\"a\", \"x\"]]")) == "model.merges[0]: the vocabulary lacks \"x\"");
  CHECK(complaint(with("[[\"a\", \"b\"]]", "[[\"b\", \"a\"]]")) == "model.merges[0]: the vocabulary lacks \"ba\"");
  CHECK(complaint(with(", \"merges\": [[\"a\", \"b\"]]", "")) == "model: has no \"merges\"");
}

TEST_CASE("ids are whole, within bounds, and each belongs to one token") {
  CHECK(complaint(with("\"b\": 2", "\"b\": 1")) == "model.vocab.b: id 1 belongs to token \"b\" and to \"a\"");
  CHECK(complaint(with("\"b\": 2", "\"b\": 2, \"b\": 7")) == "key \"b\" appears twice in one object");
  CHECK(complaint(with("\"b\": 2", "\"b\": -2")) == "model.vocab.b: expected an integer from 0 to 4194303, got -2");
  CHECK(complaint(with("\"b\": 2", "\"b\": 4194304")) ==
        "model.vocab.b: expected an integer from 0 to 4194303, got 4194304");
  CHECK(complaint(with("\"b\": 2", "\"b\": 2.5")) == "model.vocab.b: expected an integer from 0 to 4194303, got 2.5");
  CHECK(complaint(with("\"b\": 2", "\"b\": \"2\"")) ==
        "model.vocab.b: expected an integer from 0 to 4194303, got \"2\"");
  CHECK(
      complaint(with("\"b\": 2", "\"b\": 99999999999999999999999")).starts_with("model.vocab.b: expected an integer"));
  CHECK(complaint(with("{\"id\": 0", "{\"id\": 9")) == "added token \"<s>\" has id 9, and id 0 too");
}

TEST_CASE("the first wrong type is named with its place") {
  CHECK(complaint("[]") == "expected an object, got an array of 0");
  CHECK(complaint("7") == "expected an object, got 7");
  CHECK(complaint(with("\"1.0\"", "\"2.0\"")) == "version: expected \"1.0\", got \"2.0\"");
  CHECK(complaint(with("\"vocab\": {", "\"vocab\": [], \"old\": {")) == "model.old: this setting is not known");
  CHECK(complaint(with("\"single_word\": false", "\"single_word\": 0")) ==
        "added_tokens[0].single_word: expected true or false, got 0");
  CHECK(complaint(with("\"single_word\": false, ", "")) == "added_tokens[0]: has no \"single_word\"");
  CHECK(complaint(with("\"content\": \"<s>\"", "\"content\": \"\"")) ==
        "added_tokens[0].content: expected 1 to 4096 bytes, got \"\"");
  CHECK(complaint(with("\"dropout\": null", "\"dropout\": 0.1")) == "model.dropout: expected null or 0, got 0.1");
  CHECK(complaint(with("\"added_tokens\": [", "\"added_tokens\": 3, \"others\": [")) ==
        "others: this setting is not known");
  CHECK(loaded(with("\"dropout\": null", "\"dropout\": 0.0")).vocabulary_size() == 5);
  CHECK(loaded(with("\"dropout\": null", "\"dropout\": null, \"later\": false")).vocabulary_size() == 5);
}

TEST_CASE("what is not JSON, too deep, or says a thing twice is refused") {
  CHECK(complaint("").starts_with("not valid JSON at line "));
  CHECK(complaint("{\"version\": ").starts_with("not valid JSON at line "));
  CHECK(complaint(std::string(small_file) + "x").starts_with("not valid JSON at line "));
  CHECK(complaint("{\"version\": \"\xFF\"}").starts_with("not valid JSON at line "));
  CHECK(text::is_utf8(complaint("{\"version\": \"\xFF\"}")));
  CHECK(complaint("\"" + std::string(100000, 'x')).size() < 1000);
  CHECK(complaint(std::string(100000, '[')) == "values are nested more than 64 deep");
  CHECK(complaint(with("\"model\": {\"type\"", "\"model\": null, \"model\": {\"type\"")) ==
        "key \"model\" appears twice in one object");
  std::string many = "[0";
  for (int i = 0; i < (1 << 23); ++i) many += ",0";
  CHECK(complaint(many + "]") == "more than 8388608 values");
}

TEST_CASE("a file that is not there cannot be read") {
  const test::temporary_folder folder;
  CHECK_THROWS_AS(load_tokenizer(folder.path()), io_error);
  CHECK_THROWS_WITH(load_tokenizer(folder / "x.json"),
                    "cannot read \"" + (folder / "x.json").string() + "\": No such file or directory");
  std::filesystem::create_directory(folder / "tokenizer.json");
  CHECK_THROWS_AS(load_tokenizer(folder.path()), io_error);
}

TEST_CASE("a file beyond every published size is refused before it is read") {
  const test::temporary_folder folder;
  test::write_file(folder / "tokenizer.json", "");
  std::filesystem::resize_file(folder / "tokenizer.json", (std::uintmax_t{128} << 20) + 1);
  CHECK_THROWS_WITH(load_tokenizer(folder.path()), (folder / "tokenizer.json").string() +
                                                       ": 134217729 bytes of JSON are more than the 134217728 allowed");
}

TEST_CASE("a component that is not known is refused by name") {
  CHECK(complaint(with("\"normalizer\": null", "\"normalizer\": {\"type\": \"Precompiled\"}")) ==
        "normalizer.type: expected a normalizer we know, got \"Precompiled\"");
  CHECK(complaint(with("{\"type\": \"Whitespace\"}",
                       "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"UnicodeScripts\"}]}")) ==
        "pre_tokenizer.pretokenizers[0].type: expected a pre-tokenizer we know, got \"UnicodeScripts\"");
  CHECK(complaint(with("\"decoder\": null", "\"decoder\": {\"type\": \"CTC\"}")) ==
        "decoder.type: expected a decoder we know, got \"CTC\"");
  CHECK(complaint(with_post_processor("{\"type\": \"Custom\"}")) ==
        "post_processor.type: expected a post-processor we know, got \"Custom\"");
  CHECK(complaint(with_model("{\"type\": \"Unigram\", \"vocab\": []}")) ==
        "model.type: expected \"BPE\", \"WordPiece\" or \"WordLevel\", got \"Unigram\"");
  CHECK(complaint(with("{\"type\": \"Whitespace\"}", "{\"type\": \"Whitespace\", \"trim\": 1}")) ==
        "pre_tokenizer.trim: this setting is not known");
  CHECK(complaint(with("{\"type\": \"Whitespace\"}", "{}")) == "pre_tokenizer: has no \"type\"");
  std::string steps = "{\"type\": \"Lowercase\"}";
  for (int i = 0; i < 6; ++i) steps += "," + steps;
  CHECK(
      loaded(with("\"normalizer\": null", "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [" + steps + "]}"))
          .vocabulary_size() == 5);
  CHECK(complaint(with("\"normalizer\": null",
                       "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [" + steps + "," + steps + "]}")) ==
        "normalizer.normalizers[64]: more than 64 components in a row");
}

TEST_CASE("every normalizer is read") {
  const auto makes = [](const std::string& json, const std::string& expected) {
    const std::string model =
        R"({"type": "WordLevel", "unk_token": "<s>", "vocab": {"<s>": 0, "[P]": 4, ")" + expected + "\": 1}}";
    const std::string file = with("{\"type\": \"Whitespace\"}", "null", with_model(model));
    return ids(loaded(with("\"normalizer\": null", "\"normalizer\": " + json, file)), " \uFB01 E\u0301 ") ==
           ids_type{1};
  };
  CHECK(makes("null", " \uFB01 E\u0301 "));
  CHECK(makes("{\"type\": \"Lowercase\"}", " \uFB01 e\u0301 "));
  CHECK(makes("{\"type\": \"StripAccents\"}", " \uFB01 E "));
  CHECK(makes("{\"type\": \"NFC\"}", " \uFB01 \u00C9 "));
  CHECK(makes("{\"type\": \"NFD\"}", " \uFB01 E\u0301 "));
  CHECK(makes("{\"type\": \"NFKC\"}", " fi \u00C9 "));
  CHECK(makes("{\"type\": \"NFKD\"}", " fi E\u0301 "));
  CHECK(makes(R"({"type": "Prepend", "prepend": "_"})", "_ \uFB01 E\u0301 "));
  CHECK(makes(R"({"type": "Replace", "pattern": {"String": " "}, "content": "_"})", "_\uFB01_E\u0301_"));
  CHECK(makes(R"({"type": "Replace", "pattern": {"Regex": "\\s|\\p{M}"}, "content": ""})", "\uFB01E"));
  CHECK(makes(R"({"type": "Strip", "strip_left": true, "strip_right": false})", "\uFB01 E\u0301 "));
  CHECK(makes(
      R"({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": true})",
      " \uFB01 e "));
  CHECK(makes(
      R"({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": false})",
      " \uFB01 E\u0301 "));
  CHECK(makes(
      R"({"type": "Sequence", "normalizers": [{"type": "NFC"},
                {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}]})",
      " \uFB01 \u00E9 "));
}

TEST_CASE("every pre-tokenizer is read") {
  const auto cut = [](const std::string& json) {
    const tokenizer t =
        loaded(with("{\"type\": \"Whitespace\"}", json, with_model(R"({"type": "WordLevel", "unk_token": "<s>",
      "vocab": {"<s>": 0, "[P]": 4, "ab": 1, "a1b": 2, "a1b,,ab": 3, ",,": 5, ",": 6, "ab a1b": 7, "ab a": 8,
                "1": 9, "b,,ab": 10, "\u0120ab": 11, "\u0120a": 12, "b": 13, "_ab_a1b,,ab": 14, "_ab": 15,
                "_a1b,,ab": 16, "a": 17, "b a1": 18, "b,,a": 19, "ab a1b,,ab": 20, ",,ab": 21}})")));
    std::string s;
    for (token_id id : ids(t, "ab a1b,,ab")) s += concat(s.empty() ? "" : "|", t.token_of(id));
    return s;
  };
  CHECK(cut("null") == "ab a1b,,ab");
  CHECK(cut("{\"type\": \"Whitespace\"}") == "ab|a1b|,,|ab");
  CHECK(cut("{\"type\": \"WhitespaceSplit\"}") == "ab|a1b,,ab");
  CHECK(cut("{\"type\": \"BertPreTokenizer\"}") == "ab|a1b|,|,|ab");
  CHECK(cut("{\"type\": \"Punctuation\"}") == "ab a1b|,|,|ab");
  CHECK(cut(R"({"type": "Punctuation", "behavior": "Contiguous"})") == "ab a1b|,,|ab");
  CHECK(cut(R"({"type": "Digits", "individual_digits": true})") == "ab a|1|b,,ab");
  CHECK(cut(R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true})") ==
        "\u0120ab|\u0120a|1|b|,,|ab");
  CHECK(cut(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": false})") ==
        "_ab_a1b,,ab");
  CHECK(cut(R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": true})") == "_ab|_a1b,,ab");
  CHECK(cut(R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false})") == "ab|_a1b,,ab");
  CHECK(cut(R"({"type": "Split", "pattern": {"Regex": "b"}, "behavior": "MergedWithNext", "invert": false})") ==
        "a|b a1|b,,a|b");
  CHECK(cut(R"({"type": "Split", "pattern": {"String": "b"}, "behavior": "Removed", "invert": true})") == "b|b|b");
  CHECK(
      cut(R"({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"},
                {"type": "Punctuation", "behavior": "MergedWithPrevious"}]})") ==
      "ab|<s>|,|ab");
  CHECK(
      complaint(with("{\"type\": \"Whitespace\"}",
                     R"({"type": "Split", "pattern": {"Regex": "[a&&b]"}, "behavior": "Removed", "invert": false})")) ==
      "pre_tokenizer.pattern.Regex: pattern \"[a&&b]\" at 2: intersections of classes are not known");
  CHECK(complaint(with("{\"type\": \"Whitespace\"}",
                       R"({"type": "Split", "pattern": "x", "behavior": "Removed", "invert": false})")) ==
        "pre_tokenizer.pattern: expected an object, got \"x\"");
  CHECK(complaint(with("{\"type\": \"Whitespace\"}",
                       R"({"type": "Split", "pattern": {"String": "x"}, "behavior": "Lost", "invert": false})")) ==
        "pre_tokenizer.behavior: expected a split behavior, got \"Lost\"");
  CHECK(complaint(with(
            "{\"type\": \"Whitespace\"}",
            R"({"type": "Metaspace", "replacement": "_", "add_prefix_space": false, "prepend_scheme": "first"})")) ==
        "pre_tokenizer: \"add_prefix_space\" contradicts \"prepend_scheme\"");
}

TEST_CASE("every post-processor is read") {
  const auto around = [](const std::string& json) {
    const encoding e = loaded(with_post_processor(json)).encode_pair("a", "b");
    return std::pair(e.ids, e.type_ids);
  };
  using expected = std::pair<ids_type, ids_type>;
  const std::string byte_level = R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false})";
  const std::string bert = R"({"type": "BertProcessing", "sep": ["[P]", 4], "cls": ["<s>", 0]})";
  const std::string tokens = R"("special_tokens": {"S": {"id": "S", "ids": [0, 4], "tokens": ["<s>", "[P]"]}})";
  const std::string of_template =
      R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "S", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "B", "type_id": 5}},
    {"SpecialToken": {"id": "S", "type_id": 2}}, {"Sequence": {"id": "A", "type_id": 1}}], )";
  CHECK(around("null") == expected({1, 2}, {0, 1}));
  CHECK(around(byte_level) == expected({1, 2}, {0, 1}));
  CHECK(around(bert) == expected({0, 1, 4, 2, 4}, {0, 0, 0, 1, 1}));
  CHECK(
      around(
          R"({"type": "RobertaProcessing", "sep": ["[P]", 4], "cls": ["<s>", 0], "trim_offsets": true,
                    "add_prefix_space": true})") ==
      expected({0, 1, 4, 4, 2, 4}, {0, 0, 0, 0, 0, 0}));
  CHECK(around(of_template + tokens + "}") == expected({2, 0, 4, 1}, {5, 2, 2, 1}));
  CHECK(around(R"({"type": "Sequence", "processors": [)" + byte_level + "," + bert + "]}").first ==
        ids_type{0, 1, 4, 2, 4});
  CHECK(complaint(with_post_processor(R"({"type": "Sequence", "processors": [)" + bert + "," + bert + "]}")) ==
        "post_processor.processors[1]: a second post-processor that adds tokens is not known");
  CHECK(complaint(with_post_processor(of_template + "\"special_tokens\": {}}")) ==
        "post_processor.single[0].SpecialToken.id: expected a name from \"special_tokens\", got \"S\"");
  CHECK(complaint(with("\"A\"", "\"B\"", with_post_processor(of_template + tokens + "}"))) ==
        "post_processor.single[1].Sequence.id: expected \"A\", got \"B\"");
  CHECK(complaint(with_post_processor(R"({"type": "BertProcessing", "sep": ["[P]", 5], "cls": ["<s>", 0]})")) ==
        "no token has the id 5 that \"post_processor\" adds");
}

TEST_CASE("every decoder is read") {
  const auto decoded = [](const std::string& json) {
    return loaded(with("\"decoder\": null", "\"decoder\": " + json)).decode(ids_type{3, 1, 4});
  };
  CHECK(decoded("null") == "ab a [P]");
  CHECK(decoded("{\"type\": \"Fuse\"}") == "aba[P]");
  CHECK(decoded("{\"type\": \"ByteFallback\"}") == "aba[P]");
  CHECK(decoded(R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})") ==
        "aba[P]");
  CHECK(decoded(R"({"type": "WordPiece", "prefix": "a", "cleanup": false})") == "ab [P]");
  CHECK(decoded(R"({"type": "Replace", "pattern": {"String": "a"}, "content": "x"})") == "xbx[P]");
  CHECK(decoded(R"({"type": "Strip", "content": "a", "start": 1, "stop": 0})") == "b[P]");
  CHECK(decoded(R"({"type": "Metaspace", "replacement": "a", "prepend_scheme": "always"})") == "b [P]");
  CHECK(decoded(R"({"type": "BPEDecoder", "suffix": "b"})") == "a a[P]");
  CHECK(
      decoded(
          R"({"type": "Sequence", "decoders": [{"type": "Fuse"},
                    {"type": "Strip", "content": "]", "start": 0, "stop": 1}]})") ==
      "aba[P");
}

TEST_CASE("every model is read, and older files that do not name theirs") {
  const std::string word_piece = R"("unk_token": "<s>", "continuing_subword_prefix": "#", "max_input_chars_per_word": 4,
    "vocab": {"<s>": 0, "a": 1, "#b": 2, "[P]": 4}})";
  CHECK(ids(loaded(with_model("{\"type\": \"WordPiece\", " + word_piece)), "ab abbbb b") == ids_type{1, 2, 0, 0});
  CHECK(ids(loaded(with_model("{" + word_piece)), "ab") == ids_type{1, 2});
  const std::string word_level = R"("unk_token": "<s>", "vocab": {"<s>": 0, "ab": 1, "[P]": 4}})";
  CHECK(ids(loaded(with_model("{\"type\": \"WordLevel\", " + word_level)), "ab b") == ids_type{1, 0});
  CHECK(ids(loaded(with_model("{" + word_level)), "ab") == ids_type{1});
  CHECK(ids(loaded(with("\"type\": \"BPE\", ", "")), "ab") == ids_type{3});
  CHECK(complaint(with("\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\": \"##\"")) ==
        "model.merges[0]: \"b\" is shorter than the continuing prefix");
}

TEST_CASE("who plays which part is told by the files beside, and by custom where they are silent") {
  const test::temporary_folder folder;
  test::write_file(folder / "tokenizer.json", small_file);
  test::write_file(folder / "tokenizer_config.json",
                   R"({"bos_token": null, "eos_token": {"content": "ab", "lstrip": false},
    "cls_token": "not there", "chat_template": "..."})");
  test::write_file(folder / "special_tokens_map.json", R"({"eos_token": "a", "mask_token": "b"})");
  const tokenizer t = load_tokenizer(folder.path());
  CHECK_FALSE(t.special().begin);  // said to be nobody, although there is a <s>
  CHECK(t.special().end == 3);
  CHECK(t.special().mask == 2);
  CHECK(t.special().padding == 4);
  CHECK_FALSE(t.special().classifier);
  CHECK(load_tokenizer(folder / "tokenizer.json").special().begin == 0);  // the file alone
  test::write_file(folder / "tokenizer_config.json", R"({"bos_token": 3})");
  CHECK_THROWS_WITH(load_tokenizer(folder.path()), (folder / "tokenizer_config.json").string() +
                                                       ": bos_token: expected a string, got 3");
}

TEST_CASE("a published tokenizer gives its published ids") {
  GRAFT_REQUIRE_DATA(folder, "stories260K");
  const tokenizer t = load_tokenizer(folder);
  CHECK(ids(t, "Once upon a time") == ids_type{1, 403, 407, 261, 378});
  CHECK(t.special().begin == 1);
  CHECK(t.special().end == 2);
  CHECK(t.special().unknown == 0);
  CHECK(t.vocabulary_size() == 512);
  for (const char* s :
       {"Once upon a time", "  two  spaces ", "h\u00E9llo \u6F22\u5B57 \U0001F600\n\ttabs", "</s> <s>x", ""}) {
    CHECK(t.decode(t.encode(s, {.special_tokens = false}).ids, {.skip_special_tokens = false}) ==
          (std::string_view(s).starts_with("</s>") ? "</s>  <s> x" : s));
  }
  const std::string plays = test::read_file(folder.parent_path() / "tinyshakespeare/input.txt").substr(0, 200'000);
  const ids_type all = ids(t, plays);
  CHECK(t.decode(all) == plays);
  stream_decoder stream(t);
  std::string streamed;
  for (token_id id : all) streamed += stream.push(id);
  CHECK(streamed + stream.finish() == plays);
}
