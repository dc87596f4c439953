// SPDX-License-Identifier: Apache-2.0
#include "graft/text/pre_tokenizer.hpp"

#include "support/catch.hpp"

using namespace graft::text;
using strings = std::vector<std::string>;

static strings cut(const std::vector<pre_tokenizer>& steps, std::string s, bool opens_input = true) {
  pieces p{std::move(s), {}, opens_input};
  p.items.push_back({0, p.text.size()});
  match_workspace w;
  pre_tokenize(steps, p, w);
  strings out;
  for (std::size_t i = 0; i < p.items.size(); ++i) out.emplace_back(p[i]);
  return out;
}

TEST_CASE("without steps a text is one piece") { CHECK(cut({}, "a b") == strings{"a b"}); }

TEST_CASE("split cuts at a pattern, or at what lies between its matches") {
  CHECK(cut({text::split{pattern::regex("\\d"), split_behavior::isolated}}, "a12b") == strings{"a", "1", "2", "b"});
  CHECK(cut({text::split{pattern::regex("\\w+"), split_behavior::removed, true}}, "a, bc") == strings{"a", "bc"});
  CHECK(cut({text::split{pattern::literal("-"), split_behavior::merged_with_next}}, "a-b") == strings{"a", "-b"});
}

TEST_CASE("byte level writes bytes as characters, after cutting and after a space in front") {
  const pattern words = pattern::regex(gpt2_words);
  CHECK(cut({byte_level{false, words}}, "Hi \u00E9\n") == strings{"Hi", "\u0120\u00C3\u00A9", "\u010A"});
  CHECK(cut({byte_level{true, words}}, "Hi you") == strings{"\u0120Hi", "\u0120you"});
  CHECK(cut({byte_level{true, words}}, " Hi") == strings{"\u0120Hi"});
  CHECK(cut({byte_level{false, {}}}, "Hi you") == strings{"Hi\u0120you"});
}

TEST_CASE("digits stand alone or together") {
  CHECK(cut({digits{true}}, "a12\u00BDb") == strings{"a", "1", "2", "\u00BD", "b"});
  CHECK(cut({digits{false}}, "a12b3") == strings{"a", "12", "b", "3"});
  CHECK(cut({digits{true}, byte_level{false, pattern::regex(gpt2_words)}}, "x 12") == strings{"x", "\u0120", "1", "2"});
}

TEST_CASE("words, white space and punctuation") {
  CHECK(cut({words_and_symbols{}}, " don't  go\u3000!? ") == strings{"don", "'", "t", "go", "!?"});
  CHECK(cut({white_space_split{}}, " don't  go\u3000!? ") == strings{"don't", "go", "!?"});
  CHECK(cut({bert_words{}}, " don't  go!? ") == strings{"don", "'", "t", "go", "!", "?"});
  CHECK(cut({punctuation{}}, "a.,b") == strings{"a", ".", ",", "b"});
  CHECK(cut({punctuation{split_behavior::contiguous}}, "a.,b") == strings{"a", ".,", "b"});
  CHECK(cut({white_space_split{}}, "  \n").empty());
}

TEST_CASE("metaspace writes spaces as its own character and cuts before each") {
  const std::string m = "\u2581";
  CHECK(cut({metaspace{}}, "Hey  you") == strings{m + "Hey", m, m + "you"});
  CHECK(cut({metaspace{}}, " Hey") == strings{m + "Hey"});
  CHECK(cut({metaspace{m, prepend_scheme::never, true}}, "Hey you") == strings{"Hey", m + "you"});
  CHECK(cut({metaspace{m, prepend_scheme::always, false}}, "Hey you") == strings{m + "Hey" + m + "you"});
}

TEST_CASE("the scheme first writes in front of what opens the input, and of nothing else") {
  const std::string m = "\u2581";
  const metaspace first{m, prepend_scheme::first, false};
  CHECK(cut({first}, "a b") == strings{m + "a" + m + "b"});
  CHECK(cut({first}, "a b", false) == strings{"a" + m + "b"});
  CHECK(cut({white_space_split{}, first}, "a b") == strings{m + "a", "b"});
  CHECK(cut({white_space_split{}, first}, " a b") == strings{"a", "b"});  // what opened the input is gone
}
