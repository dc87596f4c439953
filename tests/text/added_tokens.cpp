// SPDX-License-Identifier: Apache-2.0
#include "graft/text/added_tokens.hpp"

#include "support/catch.hpp"

using namespace graft;
using namespace graft::text;

/// The text with every token as its id in brackets.
static std::string scanned(const std::vector<added_token>& tokens, std::string_view s) {
  added_token_finder finder;
  for (const added_token& t : tokens) finder.add(t, t.content);
  std::string out;
  finder.scan(
      s, [&](std::size_t begin, std::size_t end) { out += s.substr(begin, end - begin); },
      [&](token_id id) { out += concat("[", id, "]"); });
  return out;
}

TEST_CASE("the leftmost token is found, and of those the longest") {
  const std::vector<added_token> tokens{{.id = 1, .content = "<s>"},
                                        {.id = 2, .content = "<s></s>"},
                                        {.id = 3, .content = "></"},
                                        {.id = 4, .content = "\u00E9"}};
  CHECK(scanned(tokens, "a<s>b") == "a[1]b");
  CHECK(scanned(tokens, "<s></s><s></x") == "[2][1]</x");
  CHECK(scanned(tokens, "x></\u00E9") == "x[3][4]");
  CHECK(scanned(tokens, "<s") == "<s");
  CHECK(scanned(tokens, "") == "");
  CHECK(scanned({}, "<s>") == "<s>");
}

TEST_CASE("a single word does not match within a word") {
  const std::vector<added_token> tokens{{.id = 1, .content = "tok", .single_word = true}};
  CHECK(scanned(tokens, "tok atok toka (tok) tok\u0301 \u00E9tok tok") ==
        "[1] atok toka ([1]) tok\u0301 \u00E9tok [1]");
}

TEST_CASE("white space beside a token is taken on the side it asks for") {
  CHECK(scanned({{.id = 1, .content = "x", .strip_left = true}}, "a \u3000\nx b") == "a[1] b");
  CHECK(scanned({{.id = 1, .content = "x", .strip_right = true}}, "a x \u3000\nb") == "a [1]b");
  const added_token both{.id = 1, .content = "x", .strip_left = true, .strip_right = true};
  CHECK(scanned({both}, " x  x ") == "[1][1]");
}

TEST_CASE("of two tokens with one content the first counts") {
  CHECK(scanned({{.id = 1, .content = "x"}, {.id = 2, .content = "x"}}, "x") == "[1]");
}
