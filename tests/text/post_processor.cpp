// SPDX-License-Identifier: Apache-2.0
#include "graft/text/post_processor.hpp"

#include "support/catch.hpp"

using namespace graft;
using namespace graft::text;
using ids_type = std::vector<token_id>;

static const std::vector<template_part> bert_pair{{template_part::special, 0, {101}},
                                                  {template_part::first, 0},
                                                  {template_part::special, 0, {102}},
                                                  {template_part::second, 1},
                                                  {template_part::special, 1, {102}}};

TEST_CASE("a template puts special tokens around two texts, and says which is which") {
  const encoding e = compose(bert_pair, ids_type{1, 2}, ids_type{3}, true);
  CHECK(e.ids == ids_type{101, 1, 2, 102, 3, 102});
  CHECK(e.type_ids == ids_type{0, 0, 0, 0, 1, 1});
  CHECK(special_tokens_in(bert_pair) == 3);
}

TEST_CASE("without special tokens the texts keep their types") {
  const encoding e = compose(bert_pair, ids_type{1, 2}, ids_type{3}, false);
  CHECK(e.ids == ids_type{1, 2, 3});
  CHECK(e.type_ids == ids_type{0, 0, 1});
}

TEST_CASE("the default adds nothing") {
  const post_processor none;
  CHECK(compose(none.single, ids_type{7}, {}, true).ids == ids_type{7});
  CHECK(compose(none.pair, ids_type{7}, ids_type{8}, true).type_ids == ids_type{0, 1});
}

TEST_CASE("a text is cut at either end") {
  ids_type ids{1, 2, 3, 4};
  keep(ids, 3, side::right);
  CHECK(ids == ids_type{1, 2, 3});
  keep(ids, 2, side::left);
  CHECK(ids == ids_type{2, 3});
  keep(ids, 5, side::left);
  CHECK(ids.size() == 2);
}

TEST_CASE("of two texts the longer gives way first") {
  const auto lengths = [](std::size_t a, std::size_t b, std::size_t room) {
    ids_type first(a), second(b);
    keep_longest_first(first, second, room, side::right);
    return std::pair(first.size(), second.size());
  };
  CHECK(lengths(3, 4, 7) == std::pair<std::size_t, std::size_t>(3, 4));
  CHECK(lengths(2, 10, 8) == std::pair<std::size_t, std::size_t>(2, 6));
  CHECK(lengths(10, 2, 8) == std::pair<std::size_t, std::size_t>(6, 2));
  CHECK(lengths(10, 10, 7) == std::pair<std::size_t, std::size_t>(3, 4));
  CHECK(lengths(11, 10, 7) == std::pair<std::size_t, std::size_t>(4, 3));
  CHECK(lengths(9, 9, 1) == std::pair<std::size_t, std::size_t>(0, 1));
  CHECK(lengths(9, 9, 0) == std::pair<std::size_t, std::size_t>(0, 0));
}
