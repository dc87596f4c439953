// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/gather.hpp"

#include "graft/core/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::elements;
using test::layouts;
using test::some;

TEST_CASE("take picks slices along any axis, in any layout") {
  const auto t = some<float>(extents<3>{4, 5, 6}, 1);
  const auto ids = tensor<std::int64_t, 1>::of({3, 0, 3});
  for (const auto& l : layouts(t))
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const auto got = take(l.view, ids, static_cast<index_t>(axis));
      CHECK(got.shape()[axis] == 3);
      test::for_each_position(got.shape(), [&](extents<3> at) {
        const float value = got(at[0], at[1], at[2]);
        at[axis] = ids(at[axis]);
        REQUIRE(value == t(at[0], at[1], at[2]));
      });
    }
  CHECK(elements(take(arange<int>(9), {8, 1})) == std::vector<int>{8, 1});
  CHECK(take(t, tensor<std::uint8_t, 1>::of({1})).shape() == extents<3>{1, 5, 6});
  CHECK(take(t, tensor<int, 1>()).shape() == extents<3>{0, 5, 6});
  CHECK_THROWS_WITH(take(t, {0, 4}), "take: index 4 does not lie in axis 0 of (4, 5, 6)");
  CHECK_THROWS_WITH(take(t, {-1}, 1), "take: index -1 does not lie in axis 1 of (4, 5, 6)");
}

TEST_CASE("take_along picks elements of every line") {
  const auto t = some<float>(extents<2>{3, 4}, 1);
  const auto ids = tensor<std::int32_t, 2>::of({{3, 0}, {1, 1}, {2, 3}});
  for (const auto& l : layouts(t))
    for (const auto& i : layouts(ids)) {
      const auto got = take_along(l.view, i.view);
      const auto down = take_along(l.view.transpose(), i.view.transpose(), 0);
      test::for_each_position(ids.shape(), [&](const extents<2>& at) {
        REQUIRE(got(at[0], at[1]) == t(at[0], ids(at[0], at[1])));
        REQUIRE(down(at[1], at[0]) == got(at[0], at[1]));
      });
    }
  CHECK_THROWS_WITH(take_along(t, tensor<int, 2>::of({{4}, {0}, {0}})), "take_along: index 4 does not lie in axis 1 of (3, 4)");
  CHECK_THROWS_WITH(take_along(t, ids, 0), "take_along: x is (3, 4), the indices are (3, 2)");
}

TEST_CASE("scatter_rows_add adds rows where they belong, all or none") {
  auto table = zeros<float>(5, 70);
  const auto rows = some<float>(extents<2>{4, 70}, 1);
  const auto ids = tensor<std::int64_t, 1>::of({2, 0, 2, 4});
  thread_pool pool(3);
  context ctx(pool);
  for (const auto& l : layouts(rows)) {
    fill(table, 1);
    scatter_rows_add(ctx, table, ids, l.view);
    for (index_t c = 0; c < 70; ++c) {
      REQUIRE(table(0, c) == 1 + rows(1, c));
      REQUIRE(table(1, c) == 1);
      REQUIRE(table(2, c) == 1 + rows(0, c) + rows(2, c));
      REQUIRE(table(4, c) == 1 + rows(3, c));
    }
  }
  auto block = zeros<float>(5, 80);
  scatter_rows_add(block.slice(1, 5, 75), ids, rows);
  CHECK(block(4, 5) == rows(3, 0));
  CHECK(block(4, 4) == 0);
  const auto before = table.clone();
  CHECK_THROWS_WITH(scatter_rows_add(table, tensor<int, 1>::of({0, 1, 2, 5}), rows), "scatter_rows_add: index 5 does not lie in axis 0 of (5, 70)");
  CHECK_THROWS_WITH(scatter_rows_add(table, ids.slice(0, 0, 3), rows), "scatter_rows_add: 3 indices into (5, 70) meet rows of shape (4, 70)");
  CHECK_THROWS_AS(scatter_rows_add(table.transpose(), ids, zeros<float>(4, 5)), shape_error);
  CHECK(test::equal_bits(table, before));
}
