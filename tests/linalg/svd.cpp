// SPDX-License-Identifier: Apache-2.0
#include "graft/linalg/svd.hpp"

#include <limits>

#include "support/catch.hpp"
#include "support/decompositions.hpp"
#include "support/near.hpp"

using namespace graft;
using test::near;
using test::random_tensor;

namespace {

template <class T>
tensor<double, 2> product(tensor_view<const T, 2> a, tensor_view<const T, 2> b) {
  auto c = tensor<double, 2>::zeros({a.shape[0], b.shape[1]});
  for (index_t i = 0; i < a.shape[0]; ++i)
    for (index_t k = 0; k < a.shape[1]; ++k)
      for (index_t j = 0; j < b.shape[1]; ++j) c(i, j) += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
  return c;
}
template <class T>
tensor<double, 2> put_together(const truncated_svd<T>& f) {
  auto scaled = f.u.clone();
  for (index_t i = 0; i < scaled.shape()[0]; ++i)
    for (index_t k = 0; k < f.s.size(); ++k) scaled(i, k) *= f.s(k);
  return product<T>(scaled.view(), f.v.transpose());
}
template <class X, class Y>
double distance(const tensor<X, 2>& x, const tensor<Y, 2>& y) {
  double sum = 0;
  detail::zip_elements(x.view(), y.view(), [&](const X& a, const Y& b) {
    const double d = static_cast<double>(a) - static_cast<double>(b);
    sum += d * d;
  });
  return std::sqrt(sum);
}
template <class T>
void check_shape_of(const truncated_svd<T>& f, index_t m, index_t n, index_t k) {
  REQUIRE(f.u.shape() == extents<2>{m, k});
  REQUIRE(f.v.shape() == extents<2>{n, k});
  REQUIRE(f.s.size() == k);
  auto identity = tensor<double, 2>::zeros({k, k});
  for (index_t i = 0; i < k; ++i) identity(i, i) = 1;
  const double rounding = test::tolerance<T>(m * n);  // as many reflections as the shorter side, each as long as the other
  CHECK(near(product<T>(f.u.transpose(), f.u.view()), identity, rounding));
  CHECK(near(product<T>(f.v.transpose(), f.v.view()), identity, rounding));
  for (index_t i = 0; i < k; ++i) CHECK((f.s(i) >= 0 && (i == 0 || f.s(i) <= f.s(i - 1))));
}

}  // namespace

TEMPLATE_TEST_CASE("a truncated SVD keeps the rank it is asked for, and says what it cut", "", float, double) {
  using T = TestType;
  for (const auto shape : {extents<2>{24, 9}, extents<2>{9, 24}, extents<2>{17, 17}, extents<2>{1, 5}, extents<2>{40, 1}}) {
    const auto w = random_tensor<T>(shape, 3);
    const index_t most = std::min(shape[0], shape[1]);
    double before = std::numeric_limits<double>::infinity();
    for (const index_t rank : {index_t{1}, index_t{4}, index_t{1000}}) {
      const auto f = svd(w, rank);
      check_shape_of(f, shape[0], shape[1], std::min(rank, most));
      const double lost = distance(put_together(f), w), rounding = test::tolerance<T>(shape[0] * shape[1]) * f.norm;  // as of u and v above
      CHECK(f.norm == Approx(distance(w, tensor<T, 2>::zeros(shape))).epsilon(1e-12));
      CHECK(std::abs(lost - f.error) <= rounding);
      CHECK(f.error <= before);
      if (rank >= most) CHECK(f.error <= 1e-14 * f.norm);
      before = f.error;
    }
  }
}

TEST_CASE("singular values are those the matrix was made of") {
  // Two rotations of the plane around diag(3, 1): what is best of rank 1 is 3 u v^T, and 1 is lost.
  const double c = std::cos(0.3), s = std::sin(0.3), d = std::cos(1.1), e = std::sin(1.1);
  const auto w = tensor<double, 2>::of({{3 * c * d + s * e, 3 * c * e - s * d}, {3 * s * d - c * e, 3 * s * e + c * d}});
  const auto f = svd(w, 1);
  CHECK(f.s(0) == Approx(3));
  CHECK(f.error == Approx(1));
  CHECK(f.norm == Approx(std::sqrt(10.0)));
  CHECK(f.relative_error() == Approx(std::sqrt(0.1)));
  CHECK(std::abs(f.u(0, 0)) == Approx(c));
  CHECK(std::abs(f.v(1, 0)) == Approx(e));
}

TEMPLATE_TEST_CASE("the SVD of a product is that of the matrix it never forms", "", float, double) {
  using T = TestType;
  for (const index_t inner : {index_t{3}, index_t{12}, index_t{30}}) {  // thin, thicker than one side, than both
    const auto b = random_tensor<T>(extents<2>{20, inner}, 1), a = random_tensor<T>(extents<2>{inner, 11}, 2);
    const auto w = product<T>(b.view(), a.view());
    const auto all = svd(w, 11).s;
    for (const index_t rank : {index_t{1}, index_t{3}, index_t{40}}) {
      const auto f = svd_of_product(b, a, rank);
      const auto dense = svd(w, rank);
      check_shape_of(f, 20, 11, std::min({rank, inner, index_t{11}}));
      CHECK(f.norm == Approx(dense.norm).epsilon(1e-12));
      CHECK(std::abs(f.error - dense.error) <= 1e-12 * dense.norm);
      // Both compute in double, where rounding turns what is kept towards what is cut off, the more the closer their singular values are.
      const index_t k = f.s.size();
      const double turned = all(k - 1) / (all(k - 1) - (k < 11 ? all(k) : 0));
      INFO("inner " << inner << ", rank " << rank << ", turned " << turned);
      CHECK(near(put_together(f), put_together(dense), test::tolerance<T>(8 * inner) + turned * test::tolerance<double>(8 * inner)));
    }
    CHECK(norm_of_product<T>(b, a) == Approx(svd(w, 1).norm).epsilon(1e-12));
  }
}

TEST_CASE("the norm of a product survives cancellation") {
  // [b, -b - tiny] [a; a] = -tiny a: sixteen orders below the squares of its terms.
  const auto b = random_tensor<double>(extents<2>{9, 2}, 1), a = random_tensor<double>(extents<2>{2, 7}, 2);
  tensor<double, 2> left({9, 4}), right({4, 7}), tiny({9, 2});
  for (double& v : tiny.span()) v = 0x1p-30;
  for (index_t k = 0; k < 2; ++k)
    for (index_t i = 0; i < 9; ++i) left(i, k) = b(i, k), left(i, k + 2) = -b(i, k) - tiny(i, k);
  for (index_t k = 0; k < 4; ++k)
    for (index_t j = 0; j < 7; ++j) right(k, j) = a(k % 2, j);
  CHECK(norm_of_product<double>(left, right) == Approx(norm_of_product<double>(tiny, a)).epsilon(1e-5));
}

TEST_CASE("views of any strides are decomposed; zeros have no error") {
  const auto w = random_tensor<double>(extents<2>{8, 6}, 4);
  const auto strided = w.slice(1, 0, 6, 2);
  CHECK(near(put_together(svd<double>(strided, 3)), strided.clone(), 1e-13));
  CHECK(near(put_together(svd<double>(strided.transpose(), 3)).view(), strided.transpose(), 1e-13));
  const auto zeros = svd(tensor<float, 2>::zeros({5, 4}), 2);
  CHECK(zeros.relative_error() == 0);
  CHECK(distance(put_together(zeros), tensor<float, 2>::zeros({5, 4})) == 0);
}

TEST_CASE("what has no decomposition is refused") {
  auto w = random_tensor<float>(extents<2>{3, 4}, 1);
  CHECK_THROWS_WITH(svd(w, 0), "svd: rank is 0, expected 1 or more");
  CHECK_THROWS_WITH(svd(tensor<float, 2>({0, 4}), 1), "svd: a matrix of shape (0, 4) has no elements");
  CHECK_THROWS_WITH(svd_of_product(w, w, 1), "svd_of_product: the factors (3, 4) and (3, 4) have no product");
  CHECK_THROWS_AS(norm_of_product<float>(w, w), shape_error);
  w(1, 2) = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH(svd(w, 1), "svd: a matrix of shape (3, 4) holds NaN or infinity");
  CHECK_THROWS_AS(svd_of_product(w, tensor<float, 2>::zeros({4, 2}), 1), state_error);
}
