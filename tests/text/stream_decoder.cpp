// SPDX-License-Identifier: Apache-2.0
#include "graft/text/stream_decoder.hpp"

#include "support/catch.hpp"

using namespace graft;
using ids_type = std::vector<token_id>;

namespace {

tokenizer with(std::vector<text::decoder> decoders, std::initializer_list<std::string_view> tokens) {
  text::tokenizer_parts p;
  for (std::string_view t : tokens) p.words.add(t, static_cast<token_id>(p.words.size()));
  p.added = {{.id = 0, .content = std::string(*tokens.begin()), .special = true}};
  p.decoders = std::move(decoders);
  return tokenizer(std::move(p));
}

const text::replace spaces{text::pattern::literal("\u2581"), " "};

/// One tokenizer for every way of decoding; token 0 is special.
std::vector<tokenizer> every_tokenizer() {
  using namespace text;
  const auto sentence_piece = {std::string_view("<s>"),    std::string_view("\u2581Hey"),    std::string_view("\u2581"),
                               std::string_view("a"),      std::string_view("<0xC3>"),       std::string_view("<0xA9>"),
                               std::string_view("<0x20>"), std::string_view("\u2581\u2581x")};
  const auto byte_level = {std::string_view("<s>"),          std::string_view("Hi"),
                           std::string_view("\u0120\u00C3"), std::string_view("\u00A9"),
                           std::string_view("\u00F0\u0141"), std::string_view("\u013A\u0122"),
                           std::string_view("\u0120"),       std::string_view("\u6F22")};
  const auto pieces = {std::string_view("[S]"),    std::string_view("un"),   std::string_view("##able"),
                       std::string_view("."),      std::string_view("'"),    std::string_view("s"),
                       std::string_view("do not"), std::string_view("b</w>")};
  return {with({spaces, byte_fallback_decoder{}, fuse_decoder{}, strip_decoder{" ", 1, 0}}, sentence_piece),
          with({spaces, byte_fallback_decoder{}, fuse_decoder{}, strip_decoder{" ", 2, 2}}, sentence_piece),
          with({byte_fallback_decoder{}, metaspace_decoder{}}, sentence_piece),
          with({byte_level_decoder{}}, byte_level),
          with({byte_level_decoder{}, strip_decoder{" ", 1, 1}, replace{pattern::regex("H|$"), "!"}}, byte_level),
          with({word_piece_decoder{}}, pieces),
          with({bpe_decoder{}, fuse_decoder{}, word_piece_decoder{}}, pieces),
          with({space_decoder{}}, pieces)};
}

}  // namespace

TEST_CASE("what is pushed, with what is held back, is what decoding all at once gives") {
  std::uint64_t state = 3;
  for (const tokenizer& t : every_tokenizer()) {
    for (int repeat = 0; repeat < 400; ++repeat) {
      ids_type ids;
      for (std::size_t i = 0; i < static_cast<std::size_t>(repeat % 13); ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ids.push_back(static_cast<token_id>((state >> 33) % 9));  // 8 does not exist
      }
      for (bool skip : {true, false}) {
        stream_decoder stream(t, {skip});
        std::string all;
        for (token_id id : ids) {
          const std::string text = stream.push(id);
          REQUIRE(text::is_utf8(text));
          all += text;
        }
        REQUIRE(all + stream.finish() == t.decode(ids, {skip}));
      }
    }
  }
}

TEST_CASE("text comes as soon as it is certain") {
  const auto all = every_tokenizer();
  stream_decoder sentence_piece(all[0]);
  CHECK(sentence_piece.push(0) == "");  // special
  CHECK(sentence_piece.push(1) == "Hey");
  CHECK(sentence_piece.push(1) == " Hey");
  CHECK(sentence_piece.push(4) == "");  // half a character
  CHECK(sentence_piece.push(5) == "");  // whole, but one more byte would make the run invalid
  CHECK(sentence_piece.push(3) == "\u00E9a");
  CHECK(sentence_piece.push(4) == "");
  CHECK(sentence_piece.finish() == "\uFFFD");
  CHECK(sentence_piece.push(1) == "Hey");  // another text

  stream_decoder byte_level(all[3]);
  CHECK(byte_level.push(1) == "Hi");
  CHECK(byte_level.push(2) == " ");
  CHECK(byte_level.push(3) == "\u00E9");
  CHECK(byte_level.push(4) == "");
  CHECK(byte_level.push(5) == "\U0001F600");
  CHECK(byte_level.finish() == "");
}

TEST_CASE("a stream keeps its tokenizer alive, and may move") {
  auto stream = std::make_unique<stream_decoder>(with({text::space_decoder{}}, {"<s>", "a", "b"}));
  stream_decoder moved = std::move(*stream);
  stream.reset();
  CHECK(moved.push(1) == "a");
  CHECK(moved.push(2) == " b");
}
