// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/shape.hpp"

#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::elements;
using test::layouts;
using test::some;

TEST_CASE("an axis is inserted into views without a copy, and into temporaries by taking them over") {
  auto t = some<float>(extents<2>{3, 4}, 1);
  CHECK(insert_axis(t, 0).shape == extents<3>{1, 3, 4});
  CHECK(insert_axis(t, 1).shape == extents<3>{3, 1, 4});
  CHECK(insert_axis(t, -1).shape == extents<3>{3, 4, 1});
  CHECK(insert_axis(t.transpose(), 1)(3, 0, 2) == t(2, 3));
  insert_axis(t, 1)(2, 0, 3) = 9;
  CHECK(t(2, 3) == 9);
  STATIC_REQUIRE(std::same_as<decltype(insert_axis(std::as_const(t), 0)), tensor_view<const float, 3>>);
  const float* memory = t.data();
  const auto owned = insert_axis(std::move(t), 2);
  STATIC_REQUIRE(std::same_as<decltype(owned), const tensor<float, 3>>);
  CHECK(owned.data() == memory);
  CHECK_THROWS_WITH(insert_axis(owned, 4), "insert_axis: axis 4 of a tensor of rank 4");
}

TEST_CASE("split and concatenate undo each other over every axis and layout") {
  const auto t = some<std::int32_t>(extents<3>{4, 6, 8}, 1);
  for (const auto& l : layouts(t))
    for (index_t axis : {0, 1, 2, -1, -3}) {
      CHECK(test::equal_bits(concatenate(axis, split(l.view, 2, axis)), t));
      const index_t n = l.view.shape[detail::checked_axis("test", axis, 3)];
      const auto parts = split(l.view, {1, 0, n - 1}, axis);
      CHECK(parts.size() == 3);
      CHECK(test::equal_bits(concatenate(axis, parts[0], parts[1], parts[2]), t));
    }
  const auto thirds = split(t, 3, 1);
  CHECK(thirds[2](3, 1, 7) == t(3, 5, 7));
  CHECK_THROWS_WITH(split(t, 3, 0), "split: axis 0 of (4, 6, 8) does not fall into 3 equal parts");
  CHECK_THROWS_WITH(split(t, 0, 0), "split: axis 0 of (4, 6, 8) does not fall into 0 equal parts");
  CHECK_THROWS_WITH(split(t, {1, 4}, 0), "split: a part of 4 after 1 does not fit in axis 0 of (4, 6, 8)");
  CHECK_THROWS_WITH(split(t, {1, 2}, 0), "split: the parts make 3 of the 4 in axis 0 of (4, 6, 8)");
  CHECK_THROWS_WITH(concatenate(0, t, t.slice(1, 0, 2)), "concatenate: (4, 6, 8) and (4, 2, 8) differ at axis 1, not only at axis 0");
  CHECK_THROWS_AS(concatenate(0, std::vector<tensor_view<const float, 2>>{}), shape_error);
}

TEST_CASE("stack puts tensors side by side along a new axis") {
  const auto a = some<float>(extents<2>{3, 4}, 1), b = some<float>(extents<2>{3, 4}, 2);
  for (index_t axis : {0, 1, 2}) {
    const auto s = stack(axis, a, b);
    CHECK(s.shape()[static_cast<std::size_t>(axis)] == 2);
    CHECK(test::equal_bits(s.select(static_cast<std::size_t>(axis), 0).clone(), a));
    CHECK(test::equal_bits(s.select(static_cast<std::size_t>(axis), 1).clone(), b));
  }
  CHECK(stack(-1, a, b).shape() == extents<3>{3, 4, 2});
  CHECK_THROWS_WITH(stack(0, a, b.transpose()), "stack: the shapes differ: (3, 4) and (4, 3)");
}

TEST_CASE("tile repeats a whole, pad puts a frame around it") {
  const auto t = tensor<int, 2>::of({{1, 2}, {3, 4}});
  CHECK(elements(tile(t, 2)) == std::vector<int>{1, 2, 3, 4, 1, 2, 3, 4});
  CHECK(elements(tile(t, 2, 1)) == std::vector<int>{1, 2, 1, 2, 3, 4, 3, 4});
  CHECK(tile(t, 0).shape() == extents<2>{0, 2});
  CHECK_THROWS_AS(tile(t, -1), shape_error);
  CHECK_THROWS_AS(tile(t, std::numeric_limits<index_t>::max()), shape_error);
  CHECK(elements(pad(t, 1, 1, 0, 9)) == std::vector<int>{9, 1, 2, 9, 3, 4});
  CHECK(elements(pad(t.transpose(), 0, 0, 1)) == std::vector<int>{1, 3, 2, 4, 0, 0});
  CHECK_THROWS_AS(pad(t, 0, -1, 1), shape_error);
}
