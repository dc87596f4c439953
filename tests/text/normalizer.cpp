// SPDX-License-Identifier: Apache-2.0
#include "graft/text/normalizer.hpp"

#include "support/catch.hpp"

using namespace graft;
using namespace graft::text;

static std::string normalized(const std::vector<normalizer>& steps, std::string s) {
  match_workspace w;
  normalize(steps, s, w);
  return s;
}

TEST_CASE("prepend leaves what is empty empty") {
  CHECK(normalized({prepend{"_"}}, "a") == "_a");
  CHECK(normalized({prepend{"_"}}, "") == "");
}

TEST_CASE("replace puts its content, as it stands, in the place of every match") {
  CHECK(normalized({replace{pattern::literal(" "), "\u2581"}}, "a b ") == "a\u2581b\u2581");
  CHECK(normalized({replace{pattern::regex(" {2,}"), "$0"}}, "a  b c") == "a$0b c");
  CHECK(normalized({replace{pattern::regex("x*"), "-"}}, "axb") == "-a-b-");
  CHECK(normalized({replace{pattern::regex("^"), "-"}}, "") == "");
}

TEST_CASE("lower case, accents and spaces") {
  CHECK(normalized({lowercase{}}, "\u00C9T\u00C9") == "\u00E9t\u00E9");
  CHECK(normalized({strip_accents{}}, "\u00E9e\u0301\u0903\u20DD") == "\u00E9e");  // takes nothing apart
  CHECK(normalized({normal_form::nfd, strip_accents{}}, "\u00E9") == "e");
  CHECK(normalized({strip_spaces{}}, " \u3000a b\n\u00A0") == "a b");
  CHECK(normalized({strip_spaces{true, false}}, " a ") == "a ");
  CHECK(normalized({strip_spaces{false, true}}, " a ") == " a");
  CHECK(normalized({strip_spaces{}}, " \n") == "");
}

TEST_CASE("BERT drops controls, sets ideographs apart, strips accents and lowers") {
  CHECK(normalized({bert_normalizer{}}, "H\u00C9\u0000L\u200Blo\tW\uFFFDor\u00A0ld") ==
        "he");  // the literal ends at NUL
  CHECK(normalized({bert_normalizer{}}, "H\u00C9L\u200Blo\tW\uFFFDor\u00A0ld\x01") == "hello wor ld");
  CHECK(normalized({bert_normalizer{}}, "a\u4E2D\u6587b") == "a \u4E2D  \u6587 b");
  CHECK(normalized({bert_normalizer{.clean = false}}, "a\tb") == "a\tb");
  CHECK(normalized({bert_normalizer{.strip_accents = false}}, "\u00C9") == "\u00E9");
  CHECK(normalized({bert_normalizer{.strip_accents = true, .lowercase = false}}, "\u00C9") == "E");
  CHECK(normalized({bert_normalizer{.set_apart_ideographs = false}}, "\u4E2D") == "\u4E2D");
}

TEST_CASE("normalizers run one after another") {
  CHECK(normalized({prepend{"\u2581"}, replace{pattern::literal(" "), "\u2581"}}, "a b") == "\u2581a\u2581b");
  CHECK(normalized({}, "a b") == "a b");
}

TEST_CASE("a text that grows beyond measure is stopped") {
  const replace doubled{pattern::literal("a"), "aa"};
  CHECK(normalized({doubled, doubled, doubled}, std::string(1000, 'a')).size() == 8000);
  CHECK_THROWS_AS(normalized(std::vector<normalizer>(40, doubled), std::string(1000, 'a')), format_error);
  CHECK_THROWS_AS(normalized({replace{pattern::regex(""), std::string(100000, 'x')}}, "abc"), format_error);
}
