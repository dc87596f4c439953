// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/matmul.hpp"

#include "graft/core/thread_pool.hpp"
#include "graft/tensor/create.hpp"
#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::layouts;
using test::some;

namespace {

tensor<float, 2> plain_product(tensor_view<const float, 2> a, tensor_view<const float, 2> b) {
  tensor<float, 2> c({a.shape[0], b.shape[1]});
  for (index_t i = 0; i < c.shape()[0]; ++i)
    for (index_t j = 0; j < c.shape()[1]; ++j) {
      double sum = 0;
      for (index_t k = 0; k < a.shape[1]; ++k) sum += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
      c(i, j) = static_cast<float>(sum);
    }
  return c;
}

}  // namespace

TEST_CASE("products of matrices of any size and layout agree with the plain sum") {
  for (index_t n : {1, 5, 17, 40})
    for (index_t m : {1, 7, 33})
      for (index_t k : {1, 3, 50}) {
        const auto a = some<float>(extents<2>{n, k}, 1), b = some<float>(extents<2>{k, m}, 2);
        const auto expected = plain_product(a, b);
        for (const auto& x : layouts(a))
          for (const auto& y : layouts(b)) {
            INFO(n << " x " << k << " by " << k << " x " << m << ", " << x.name << ", " << y.name);
            REQUIRE(test::near(matmul(x.view, y.view), expected, test::tolerance<float>(k)));
          }
      }
}

TEST_CASE("a vector is a row on the left and a column on the right") {
  const auto a = some<float>(extents<2>{4, 30}, 1);
  const auto x = some<float>(extents<1>{30}, 2), y = some<float>(extents<1>{4}, 3);
  for (const auto& m : layouts(a))
    for (const auto& v : layouts(x)) {
      const auto right = matmul(m.view, v.view);
      STATIC_REQUIRE(std::same_as<decltype(right), const tensor<float, 1>>);
      REQUIRE(test::near(right.view(), plain_product(a, x.reshape(30, 1)).select(1, 0), test::tolerance<float>(30)));
    }
  for (const auto& m : layouts(a))
    for (const auto& v : layouts(y))
      REQUIRE(test::near(matmul(v.view, m.view).view(), plain_product(y.reshape(1, 4), a).row(0), test::tolerance<float>(4)));
}

TEST_CASE("batches are multiplied matrix by matrix, and broadcast") {
  const auto a = some<float>(extents<3>{3, 4, 20}, 1), b = some<float>(extents<3>{3, 20, 6}, 2);
  const auto check = [](const auto& c, index_t i, const auto& x, const auto& y) {
    CHECK(test::near(c.row(i), plain_product(x, y).view(), test::tolerance<float>(20)));
  };
  for (const auto& x : layouts(a))
    for (const auto& y : layouts(b)) {
      const auto c = matmul(x.view, y.view);
      CHECK(c.shape() == extents<3>{3, 4, 6});
      for (index_t i = 0; i < 3; ++i) check(c, i, a.row(i), b.row(i));
    }
  for (const auto& x : layouts(a)) {
    const auto one = matmul(x.view, b.row(1));  // one matrix for the batch
    const auto v = matmul(x.view, b.select(2, 0).row(2));
    for (index_t i = 0; i < 3; ++i) {
      check(one, i, a.row(i), b.row(1));
      CHECK(test::near(v.row(i), plain_product(a.row(i), b.row(2)).select(1, 0), test::tolerance<float>(20)));
    }
  }
  const auto left = matmul(a.row(2), b), stretched = matmul(a.slice(0, 1, 2), b);
  for (index_t i = 0; i < 3; ++i) {
    check(left, i, a.row(2), b.row(i));
    check(stretched, i, a.row(1), b.row(i));
  }
  const auto four = matmul(a.reshape(3, 1, 4, 20), b);
  CHECK(four.shape() == extents<4>{3, 3, 4, 6});
  CHECK(test::near(four.row(2).row(1), plain_product(a.row(2), b.row(1)).view(), test::tolerance<float>(20)));
  CHECK(matmul(a.row(0).row(0), b).shape() == extents<2>{3, 6});
}

TEMPLATE_TEST_CASE("16-bit storage on the right is widened on the way", "", bf16, f16) {
  const auto a = some<float>(extents<2>{9, 33}, 1);
  const auto b = cast<TestType>(some<float>(extents<2>{33, 40}, 2));
  const auto expected = plain_product(a, cast<float>(b));
  for (const auto& x : layouts(a)) {
    CHECK(test::near(matmul(x.view, b), expected, test::tolerance<float>(33)));
    CHECK(test::near(matmul(x.view, b.transpose().clone().transpose()), expected, test::tolerance<float>(33)));
    CHECK(test::near(matmul(x.view, b.slice(1, 0, 40, 2)), plain_product(a, cast<float>(b.slice(1, 0, 40, 2))), test::tolerance<float>(33)));
  }
}

TEST_CASE("products of nothing are zeros of the right shape") {
  CHECK(test::near(matmul(tensor<float, 2>({2, 0}), tensor<float, 2>({0, 3})), zeros<float>(2, 3), 0));
  CHECK(matmul(tensor<float, 2>({0, 4}), zeros<float>(4, 3)).shape() == extents<2>{0, 3});
  CHECK(matmul(zeros<float>(3, 4), tensor<float, 2>({4, 0})).shape() == extents<2>{3, 0});
  CHECK(matmul(tensor<float, 3>({0, 4, 5}), zeros<float>(5, 6)).shape() == extents<3>{0, 4, 6});
  CHECK(dot(tensor<float, 1>(), tensor<float, 1>()) == 0);
}

TEST_CASE("dot multiplies vectors of any stride") {
  for (index_t n : {1, 5, 16, 100}) {
    const auto a = some<float>(extents<1>{n}, 1), b = some<float>(extents<1>{n}, 2);
    double expected = 0;
    for (index_t i = 0; i < n; ++i) expected += static_cast<double>(a(i)) * static_cast<double>(b(i));
    for (const auto& x : layouts(a))
      for (const auto& y : layouts(b)) CHECK(dot(x.view, y.view) == Approx(expected).margin(static_cast<double>(n) * 1.2e-7));
  }
  CHECK_THROWS_WITH(dot(zeros<float>(3), zeros<float>(4)), "dot: the vectors have 3 and 4 elements");
}

TEST_CASE("matmul names shapes that do not fit") {
  CHECK_THROWS_WITH(matmul(zeros<float>(2, 3), zeros<float>(4, 5)), "matmul: a has 3 columns, b has 4 rows (a is (2, 3), b is (4, 5))");
  CHECK_THROWS_WITH(matmul(zeros<float>(2, 3, 4), zeros<float>(3, 4, 5)), "matmul, batch axes: shapes (2) and (3) do not broadcast at axis 0");
}

TEST_CASE("threads change no bit of a product") {
  const auto a = some<float>(extents<2>{130, 200}, 1), b = some<float>(extents<2>{200, 150}, 2);
  thread_pool pool(3);
  context ctx(pool);
  CHECK(test::equal_bits(matmul(ctx, a, b), matmul(a, b)));
  CHECK(test::equal_bits(matmul(ctx, b.transpose(), a.transpose()), matmul(b.transpose(), a.transpose())));
}
