// SPDX-License-Identifier: Apache-2.0
#include "graft/text/unicode.hpp"

#include "support/catch.hpp"

using namespace graft::text;

static std::string lower(char32_t c) {
  std::string s;
  append_lower_case(s, c);
  return s;
}
static std::string form(std::string s, normal_form f) {
  to_normal_form(s, f);
  return s;
}

TEST_CASE("white space is the 25 characters of Unicode's property") {
  std::size_t count = 0;
  for (char32_t c = 0; c < 0x110000; ++c) count += is_space(c);
  CHECK(count == 25);
  CHECK(is_space(0x85));
  CHECK(is_space(0x3000));
  CHECK_FALSE(is_space(0x180E));  // it was one until Unicode 6.3
  CHECK_FALSE(is_space(0x200B));
}

TEST_CASE("punctuation is category P and the ASCII symbols") {
  for (char32_t c : U"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") CHECK(is_punctuation(c) == (c != 0));
  CHECK(is_punctuation(0x3002));        // ideographic full stop
  CHECK(is_punctuation(0x2014));        // em dash
  CHECK_FALSE(is_punctuation(0x20AC));  // the euro sign is a symbol
  CHECK_FALSE(is_punctuation('a'));
}

TEST_CASE("numbers, words, marks and controls go by category") {
  CHECK(is_numeric('7'));
  CHECK(is_numeric(0xBD));    // a fraction
  CHECK(is_numeric(0x2167));  // Roman eight
  CHECK_FALSE(is_numeric(0x4E00));
  CHECK(is_word_character('_'));
  CHECK(is_word_character(0x301));   // a combining accent
  CHECK(is_word_character(0x24B6));  // a circled letter, which is a symbol by category
  CHECK(is_word_character(0x200D));
  CHECK_FALSE(is_word_character(0xBD));
  CHECK(is_mark(0x903));
  CHECK_FALSE(is_nonspacing_mark(0x903));
  CHECK(is_control(0x200B));
  CHECK(is_control(0xE000));
  CHECK_FALSE(is_control('\n'));
  CHECK_FALSE(is_control(0x378));  // not assigned
  CHECK(is_ideograph(0x4E2D));
  CHECK_FALSE(is_ideograph(0x3042));
}

TEST_CASE("lower case looks at one character alone") {
  CHECK(lower('Q') == "q");
  CHECK(lower(0xC9) == "\u00E9");
  CHECK(lower(0x3A3) == "\u03C3");  // never the final sigma
  CHECK(lower(0x130) == "i\u0307");
  CHECK(lower(0x4E2D) == "\u4E2D");
}

TEST_CASE("the four normal forms") {
  CHECK(form("e\u0301\uFB01", normal_form::nfc) == "\u00E9\uFB01");
  CHECK(form("\u00E9\uFB01", normal_form::nfd) == "e\u0301\uFB01");
  CHECK(form("e\u0301\uFB01", normal_form::nfkc) == "\u00E9fi");
  CHECK(form("\u00E9\uFB01", normal_form::nfkd) == "e\u0301fi");
  CHECK(form("\uD55C", normal_form::nfd) == "\u1112\u1161\u11AB");
  CHECK(form(std::string("a\0b\u00E9", 5), normal_form::nfd) == std::string("a\0be\u0301", 6));
  CHECK(form("", normal_form::nfc) == "");
}
