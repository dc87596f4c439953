// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/sort.hpp"

#include <cmath>
#include <limits>

#include "graft/tensor/gather.hpp"
#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::elements;
using test::layouts;
using test::some;

TEMPLATE_TEST_CASE("sort and argsort order every line of every axis and layout", "", float, std::int32_t, std::uint8_t) {
  auto t = some<TestType>(extents<3>{5, 40, 7}, 1);
  for (index_t i = 0; i < t.size(); i += 3) t.data()[i] = t.data()[0];  // ties
  for (const auto& l : layouts(t))
    for (std::size_t axis = 0; axis < 3; ++axis)
      for (const bool descending : {false, true}) {
        const auto a = static_cast<index_t>(axis);
        const auto values = sort(l.view, a, {.descending = descending});
        const auto positions = argsort(l.view, a, {.descending = descending});
        REQUIRE(test::equal_bits(take_along(l.view, positions, a), values));
        const auto v = values.permute(detail::axis_last<3>(axis));
        const auto p = positions.permute(detail::axis_last<3>(axis));
        test::for_each_position(v.shape, [&](const extents<3>& at) {
          const auto [i, j, k] = at;
          if (k == 0) return;
          REQUIRE((descending ? v(i, j, k) <= v(i, j, k - 1) : v(i, j, k) >= v(i, j, k - 1)));
          if (v(i, j, k) == v(i, j, k - 1)) REQUIRE(p(i, j, k) > p(i, j, k - 1));  // also: no position twice
        });
      }
}

TEST_CASE("top_k gives the largest, first ones first among equals") {
  const auto t = tensor<float, 2>::of({{1, 5, 3, 5, 2}, {-1, -1, -1, -1, -1}});
  const auto best = top_k(t, 3);
  CHECK(elements(best.values) == std::vector<float>{5, 5, 3, -1, -1, -1});
  CHECK(elements(best.indices) == std::vector<std::int64_t>{1, 3, 2, 0, 1, 2});
  CHECK(top_k(t, 0).values.shape() == extents<2>{2, 0});
  const auto x = some<float>(extents<3>{3, 4, 50}, 1);
  for (const auto& l : layouts(x))
    for (index_t k : {1, 7, 50}) {
      const auto whole = argsort(x, -1, {.descending = true});
      const auto some_best = top_k(l.view, k);
      CHECK(test::equal_bits(some_best.indices, whole.slice(2, 0, k).clone()));
      CHECK(test::equal_bits(some_best.values, take_along(x, some_best.indices)));
    }
  CHECK_THROWS_WITH(top_k(t, 6), "top_k: 6 of the 5 elements of the last axis of (2, 5)");
  CHECK_THROWS_AS(top_k(t, -1), shape_error);
}

TEST_CASE("a NaN sorts as larger than every number") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto t = tensor<float, 1>::of({2, nan, -1, nan, std::numeric_limits<float>::infinity()});
  CHECK(elements(argsort(t)) == std::vector<std::int64_t>{2, 0, 4, 1, 3});
  CHECK(elements(argsort(t, 0, {.descending = true})) == std::vector<std::int64_t>{1, 3, 4, 0, 2});
  CHECK(elements(top_k(t, 3).indices) == std::vector<std::int64_t>{1, 3, 4});
  const auto s = sort(t);
  CHECK(s(0) == -1);
  CHECK(std::isnan(s(3)));
  CHECK(std::isnan(s(4)));
}

TEST_CASE("nothing sorts to nothing") {
  CHECK(sort(tensor<float, 2>({3, 0})).shape() == extents<2>{3, 0});
  CHECK(argsort(tensor<float, 2>({0, 3}), 0).shape() == extents<2>{0, 3});
  CHECK(top_k(tensor<float, 2>({0, 3}), 2).indices.shape() == extents<2>{0, 2});
  CHECK_THROWS_WITH(sort(tensor<float, 2>({3, 0}), 5), "sort: axis 5 of a tensor of rank 2");
}
