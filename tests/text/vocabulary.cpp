// SPDX-License-Identifier: Apache-2.0
#include "graft/text/vocabulary.hpp"

#include "support/catch.hpp"

using namespace graft;
using text::no_token;
using text::vocabulary;

TEST_CASE("tokens are found by text and by id, with gaps between ids") {
  vocabulary v;
  for (token_id id = 0; id < 5000; ++id) v.add(concat("t", id), id * 3);
  CHECK(v.size() == 5000);
  CHECK(v.limit() == 4999 * 3 + 1);
  std::size_t wrong = 0;
  for (token_id id = 0; id < 5000; ++id)
    wrong += v.find(concat("t", id)) != id * 3 || v.text_of(id * 3) != concat("t", id);
  CHECK(wrong == 0);
  CHECK(v.find("t5000") == no_token);
  CHECK(v.find("") == no_token);
  CHECK_FALSE(v.contains(1));
  CHECK_FALSE(v.contains(-1));
  CHECK_FALSE(v.contains(100000));
  CHECK(vocabulary().find("x") == no_token);
}

TEST_CASE("a text or an id that is taken, an id out of range and what is not UTF-8 are refused") {
  vocabulary v;
  v.add("a", 1);
  CHECK_THROWS_WITH(v.add("a", 2), "token \"a\" has id 2 and id 1");
  CHECK_THROWS_WITH(v.add("b", 1), "id 1 belongs to token \"b\" and to \"a\"");
  CHECK_THROWS_AS(v.add("b", -1), format_error);
  CHECK_THROWS_AS(v.add("b", text::max_token_id + 1), format_error);
  CHECK_THROWS_AS(v.add("\xE2\x82", 2), format_error);
  CHECK(v.size() == 1);
}
