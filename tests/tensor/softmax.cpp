// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/softmax.hpp"

#include <cmath>
#include <limits>

#include "graft/core/thread_pool.hpp"
#include "graft/tensor/arithmetic.hpp"
#include "graft/tensor/reduce.hpp"
#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;

TEMPLATE_TEST_CASE("softmax and log_softmax agree with their definitions over every axis and layout", "", float, double) {
  const auto x = map([](auto v) { return v * decltype(v)(8); }, test::some<TestType>(extents<3>{3, 17, 5}, 1));
  for (const auto& l : test::layouts(x))
    for (index_t axis : {0, 1, 2, -1}) {
      INFO("axis " << axis << ", " << l.name);
      const auto wide = map([](TestType v) { return std::exp(static_cast<double>(v)); }, x);
      const std::size_t a = detail::checked_axis("test", axis, 3);
      const auto expected = wide / insert_axis(sum(wide, axis), static_cast<index_t>(a));
      CHECK(test::near(softmax(l.view, axis), expected, test::tolerance<TestType>(17)));
      CHECK(test::near(log_softmax(l.view, axis), map([](double v) { return std::log(v); }, expected), test::tolerance<TestType>(4)));
    }
}

TEST_CASE("softmax stays finite for large numbers, and is NaN where nothing is possible") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const auto x = tensor<float, 2>::of({{1000, 1000}, {-infinity, 0}, {-infinity, -infinity}});
  const auto y = softmax(x);
  CHECK(y(0, 0) == 0.5f);
  CHECK(y(1, 0) == 0);
  CHECK(y(1, 1) == 1);
  CHECK(std::isnan(y(2, 0)));
  CHECK(log_softmax(x)(0, 1) == Approx(-std::log(2.0)));
  CHECK(log_softmax(x)(1, 0) == -infinity);
  CHECK(log_softmax(tensor<float, 1>::of({0, 200}))(0) == -200);  // softmax itself would be 0
}

TEST_CASE("softmax takes threads, a vector and nothing at all") {
  const auto x = test::some<float>(extents<2>{300, 200}, 1);
  thread_pool pool(3);
  context ctx(pool);
  CHECK(test::equal_bits(softmax(ctx, x), softmax(x)));
  CHECK(sum(softmax(x.row(0))) == Approx(1));
  CHECK(softmax(tensor<float, 2>({0, 4})).shape() == extents<2>{0, 4});
  CHECK(softmax(tensor<float, 2>({4, 0})).shape() == extents<2>{4, 0});
  CHECK_THROWS_WITH(softmax(x, 2), "softmax: axis 2 of a tensor of rank 2");
}
