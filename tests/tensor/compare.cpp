// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/compare.hpp"

#include <limits>

#include "graft/tensor/create.hpp"
#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::elements;

namespace {
using mask = std::vector<std::uint8_t>;
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
}  // namespace

TEST_CASE("comparisons give masks") {
  const auto a = tensor<float, 1>::of({1, 2, 3, not_a_number});
  const auto b = tensor<float, 1>::of({2, 2, 2, not_a_number});
  CHECK(elements(less(a, b)) == mask{1, 0, 0, 0});
  CHECK(elements(less_equal(a, b)) == mask{1, 1, 0, 0});
  CHECK(elements(greater(a, b)) == mask{0, 0, 1, 0});
  CHECK(elements(greater_equal(a, b)) == mask{0, 1, 1, 0});
  CHECK(elements(equal(a, b)) == mask{0, 1, 0, 0});
  CHECK(elements(not_equal(a, b)) == mask{1, 0, 1, 1});
  CHECK(elements(less(2, a)) == mask{0, 0, 1, 0});
  CHECK(elements(equal(tensor<std::int64_t, 1>::of({3, 4}), 4)) == mask{0, 1});
  CHECK_THROWS_WITH(less(a, tensor<float, 1>::of({1, 2})), "less: shapes (4) and (2) do not broadcast at axis 0");
  const auto m = test::some<float>(extents<2>{3, 20}, 1), n = test::some<float>(extents<2>{3, 20}, 2);
  for (const auto& x : test::layouts(m))
    for (const auto& y : test::layouts(n)) {
      const auto got = less(x.view, y.view);
      test::for_each_position(m.shape(), [&](const extents<2>& at) { REQUIRE(got(at[0], at[1]) == (m(at[0], at[1]) < n(at[0], at[1]))); });
    }
}

TEST_CASE("where picks by mask, all and any judge one") {
  const auto a = tensor<float, 2>::of({{1, -2}, {-3, 4}});
  CHECK(elements(where(less(a, 0), 0, a)) == std::vector<float>{1, 0, 0, 4});
  CHECK(elements(where(less(a, 0), a, a.row(0))) == std::vector<float>{1, -2, -3, -2});
  CHECK(all(less(a, 5)));
  CHECK_FALSE(all(less(a, 4)));
  CHECK(any(less(a, -2)));
  CHECK_FALSE(any(less(a, -3)));
  CHECK(all(less(tensor<float, 1>(), 0)));
  CHECK_FALSE(any(less(tensor<float, 1>(), 0)));
}

TEST_CASE("whole tensors are equal when shapes and elements are") {
  const auto a = test::some<float>(extents<2>{3, 5}, 1);
  for (const auto& l : test::layouts(a)) CHECK(all_equal(l.view, a));
  auto b = a.clone();
  b(2, 4) += 1;
  CHECK_FALSE(all_equal(a, b));
  CHECK_FALSE(all_equal(a, a.transpose()));
  CHECK_FALSE(all_equal(a, a.reshape(15)));
  CHECK_FALSE(all_equal(tensor<float, 1>::of({not_a_number}), tensor<float, 1>::of({not_a_number})));
  CHECK(all_equal(cast<bf16>(a), cast<bf16>(a)));
}

TEST_CASE("all_close allows a share of the second tensor and a constant") {
  const auto one = [](double v) { return tensor<double, 1>::of({v}); };
  CHECK(all_close(one(100.9), one(100), {.relative = 0.01, .absolute = 0}));
  CHECK_FALSE(all_close(one(101.1), one(100), {.relative = 0.01, .absolute = 0}));
  CHECK(all_close(one(0.4), one(0), {.relative = 0, .absolute = 0.5}));
  CHECK_FALSE(all_close(one(0.6), one(0), {.relative = 0, .absolute = 0.5}));
  CHECK(all_close(one(1 + 5e-6), one(1)));
  CHECK_FALSE(all_close(one(1 + 5e-5), one(1)));
  CHECK(all_close(tensor<float, 1>::of({infinity, -infinity}), tensor<float, 1>::of({infinity, -infinity})));
  CHECK_FALSE(all_close(tensor<float, 1>::of({infinity}), tensor<float, 1>::of({-infinity})));
  CHECK_FALSE(all_close(tensor<float, 1>::of({1}), tensor<float, 1>::of({infinity})));
  CHECK_FALSE(all_close(tensor<float, 1>::of({infinity}), tensor<float, 1>::of({1})));
  CHECK_FALSE(all_close(tensor<float, 1>::of({not_a_number}), tensor<float, 1>::of({not_a_number})));
  CHECK(all_close(cast<bf16>(tensor<float, 1>::of({1.5f})), tensor<double, 1>::of({1.5})));
  CHECK_THROWS_WITH(all_close(one(1), tensor<double, 1>::of({1, 1})), "all_close: the shapes differ: (1) and (2)");
}

TEST_CASE("max_abs_difference finds the largest, and every NaN") {
  const auto a = tensor<float, 2>::of({{1, 2}, {3, infinity}});
  CHECK(max_abs_difference(a, a) == 0);
  CHECK(max_abs_difference(a, tensor<float, 2>::of({{1, 2.5}, {-1, infinity}})) == 4);
  CHECK(std::isnan(max_abs_difference(a, tensor<float, 2>::of({{not_a_number, 2}, {300, infinity}}))));
  CHECK(max_abs_difference(tensor<float, 1>(), tensor<double, 1>()) == 0);
}
