// SPDX-License-Identifier: Apache-2.0
#include "graft/text/word_piece.hpp"

#include "support/catch.hpp"

using namespace graft;
using namespace graft::text;

static vocabulary numbered(std::initializer_list<std::string_view> tokens) {
  vocabulary v;
  for (std::string_view t : tokens) v.add(t, static_cast<token_id>(v.size()));
  return v;
}

static std::string encoded(const auto& model, const vocabulary& words, std::string_view word) {
  std::vector<token_id> ids;
  model.encode(words, word, ids);
  std::string s;
  for (token_id id : ids) s += concat(s.empty() ? "" : " ", words.text_of(id));
  return s;
}

TEST_CASE("the longest known start of a word, again and again") {
  const vocabulary words = numbered({"[UNK]", "un", "u", "##aff", "##able", "##a", "##\u00E9", "\u00E9t"});
  const word_piece model(words, {});
  CHECK(encoded(model, words, "unaffable") == "un ##aff ##able");
  CHECK(encoded(model, words, "una\u00E9") == "un ##a ##\u00E9");
  CHECK(encoded(model, words, "\u00E9t\u00E9") == "\u00E9t ##\u00E9");
  CHECK(encoded(model, words, "unaffablex") == "[UNK]");  // one unknown part makes the word unknown
  CHECK(encoded(model, words, "able") == "[UNK]");        // known only as a continuation
  CHECK(encoded(model, words, "") == "");
}

TEST_CASE("a word longer than the limit, in characters, is unknown") {
  const vocabulary words = numbered({"[UNK]", "\u00E9", "##\u00E9"});
  const word_piece model(words, {.max_characters = 3});
  CHECK(encoded(model, words, "\u00E9\u00E9\u00E9") == "\u00E9 ##\u00E9 ##\u00E9");
  CHECK(encoded(model, words, "\u00E9\u00E9\u00E9\u00E9") == "[UNK]");
}

TEST_CASE("whole words are tokens or unknown") {
  const vocabulary words = numbered({"<unk>", "yes"});
  CHECK(encoded(word_level("<unk>"), words, "yes") == "yes");
  CHECK(encoded(word_level("<unk>"), words, "no") == "<unk>");
}

TEST_CASE("a word needs the unknown token only when it is unknown") {
  const vocabulary words = numbered({"yes"});
  CHECK(encoded(word_level("<unk>"), words, "yes") == "yes");
  CHECK_THROWS_AS(encoded(word_level("<unk>"), words, "no"), format_error);
  CHECK_THROWS_WITH(encoded(word_piece(words, {}), words, "no"),
                    "encoding \"no\": the vocabulary lacks the unknown token \"[UNK]\"");
}
