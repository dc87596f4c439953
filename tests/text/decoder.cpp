// SPDX-License-Identifier: Apache-2.0
#include "graft/text/decoder.hpp"

#include "support/catch.hpp"

using namespace graft::text;
using strings = std::vector<std::string>;

static std::string decoded(const std::vector<decoder>& steps, const strings& tokens) {
  decoder_chain chain(steps);
  std::string out;
  for (const std::string& t : tokens) chain.push(t, out);
  chain.finish(out);
  return out;
}

TEST_CASE("byte level joins bytes to characters") {
  const std::vector<decoder> steps{byte_level_decoder{}};
  CHECK(decoded(steps, {"Hi", "\u0120\u00C3", "\u00A9!"}) == "Hi \u00E9!");
  CHECK(decoded(steps, {"\u00C3"}) == "\uFFFD");
  CHECK(decoded(steps, {"\u00C3", "x"}) == "\uFFFDx");
  CHECK(decoded(steps, {"\u6F22", "x y"}) == "\u6F22x y");  // not of the alphabet: text as it is
  CHECK(decoded(steps, {}) == "");
}

TEST_CASE("a run of byte tokens is text, or not at all") {
  const std::vector<decoder> steps{byte_fallback_decoder{}};
  CHECK(decoded(steps, {"a", "<0xC3>", "<0xA9>", "b"}) == "a\u00E9b");
  CHECK(decoded(steps, {"<0xC3>", "<0xA9>", "<0xC3>"}) == "\uFFFD\uFFFD\uFFFD");
  CHECK(decoded(steps, {"<0x41>", "<0x4>", "<0xZZ>", "<0xc3>", "<0xa9>"}) == "A<0x4><0xZZ>\u00E9");
}

TEST_CASE("SentencePiece: underscores to spaces, bytes, and no space in front") {
  const std::vector<decoder> steps{replace{pattern::literal("\u2581"), " "}, byte_fallback_decoder{}, fuse_decoder{},
                                   strip_decoder{" ", 1, 0}};
  CHECK(decoded(steps, {"\u2581Hey", "\u2581you", "<0x0A>"}) == "Hey you\n");
  CHECK(decoded(steps, {"\u2581\u2581Hey"}) == " Hey");
  CHECK(decoded(steps, {"<0x20>", "Hey"}) == "Hey");
}

TEST_CASE("strip drops so many at each end of a token") {
  CHECK(decoded({strip_decoder{"x", 2, 1}}, {"xxxaxx", "bx", "x", ""}) == "xaxb");
  CHECK(decoded({fuse_decoder{}, strip_decoder{"x", 1, 2}}, {"x", "xa", "xx", "x"}) == "xax");
  CHECK(decoded({strip_decoder{"\u00E9", 1, 0}}, {"\u00E9\u00E9a"}) == "\u00E9a");
}

TEST_CASE("word pieces stand apart unless they continue a word") {
  const strings tokens{"don", "'", "t", "un", "##able", ".", "##x", "do not"};
  CHECK(decoded({word_piece_decoder{"##", false}}, tokens) == "don ' t unable .x do not");
  CHECK(decoded({word_piece_decoder{}}, tokens) == "don ' t unable.x don't");
  CHECK(decoded({word_piece_decoder{}}, {"##able"}) == "##able");
}

TEST_CASE("metaspace drops the space that was written in front") {
  CHECK(decoded({metaspace_decoder{}}, {"\u2581Hey", "\u2581you"}) == "Hey you");
  CHECK(decoded({metaspace_decoder{"\u2581", false}}, {"\u2581Hey", "\u2581you"}) == " Hey you");
}

TEST_CASE("a suffix is a space unless it is last") {
  CHECK(decoded({bpe_decoder{}}, {"a", "b</w>", "c</w>"}) == "ab c");
}

TEST_CASE("without a decoder tokens stand apart") { CHECK(decoded({space_decoder{}}, {"a", "b", "c"}) == "a b c"); }

TEST_CASE("behind a step that joins, all is one token") {
  const replace whole{pattern::regex("^a|b$"), "-"};
  CHECK(decoded({whole}, {"ab", "ab"}) == "----");
  CHECK(decoded({fuse_decoder{}, whole}, {"ab", "ab"}) == "-ba-");
  CHECK(decoded({byte_level_decoder{}, whole}, {"ab", "ab"}) == "-ba-");
}

TEST_CASE("a chain starts afresh when it has finished") {
  const std::vector<decoder> steps{byte_fallback_decoder{}, metaspace_decoder{}};
  decoder_chain chain(steps);
  std::string out;
  for (int i = 0; i < 2; ++i) {
    for (const char* t : {"\u2581a", "\u2581b", "<0xC3>"}) chain.push(t, out);
    chain.finish(out);
  }
  CHECK(out == "a b\uFFFDa b\uFFFD");
}
