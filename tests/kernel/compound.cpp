// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <functional>
#include <utility>

#include "graft/kernel/compound_product.hpp"

#include "support/kernels.hpp"

using namespace graft;
using namespace graft::kernel;

namespace {

using matrix = std::vector<double>;

matrix cayley_of(index_t n, const matrix& p) {
  matrix a(static_cast<std::size_t>(n * n)), room(a.size());
  cayley(n, p.data(), a.data(), room.data());
  return a;
}
matrix pyramid_of(index_t n, const matrix& angles) {
  matrix a(static_cast<std::size_t>(n * n));
  pyramid(n, angles.data(), a.data());
  return a;
}
matrix random_numbers(index_t count, std::uint64_t seed, double scale = 1) {
  const auto t = test::random_tensor<double, 1>({count}, seed);
  matrix m(t.span().begin(), t.span().end());
  for (double& v : m) v *= scale;
  return m;
}
matrix random_rotation(index_t n, std::uint64_t seed) { return cayley_of(n, random_numbers(rotation_parameters(n), seed, 0.7)); }

matrix product(index_t n, const matrix& a, const matrix& b) {
  matrix c(a.size());
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j)
      c[static_cast<std::size_t>(i * n + j)] = test::plain_sum(n, [&](index_t k) { return a[static_cast<std::size_t>(i * n + k)] * b[static_cast<std::size_t>(k * n + j)]; });
  return c;
}
/// max|m m^T - 1|
double orthogonality_error(index_t n, const matrix& m) {
  double worst = 0;
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j)
      worst = std::max(worst, std::abs(test::plain_sum(n, [&](index_t k) { return m[static_cast<std::size_t>(i * n + k)] * m[static_cast<std::size_t>(j * n + k)]; }) - (i == j)));
  return worst;
}
double largest_difference(const matrix& a, const matrix& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::isnan(a[i]) ? 1e30 : std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

/// C_k(A) with everything it is built from.
matrix built(index_t n, index_t k, const matrix& a) {
  context ctx;
  const subset_tables subsets(n, k);
  const kernel::detail::compound_before before(ctx, subsets, k, a.data());
  matrix c(static_cast<std::size_t>(subsets.count(k) * subsets.count(k)));
  compound_matrix(ctx, subsets, k, a.data(), before.data(), c.data());
  return c;
}
/// The same from determinants by the sum over permutations.
matrix by_permutations(index_t n, index_t k, const matrix& a) {
  const subset_tables subsets(n, k);
  const index_t size = subsets.count(k);
  matrix c;
  for (index_t i = 0; i < size; ++i)
    for (index_t j = 0; j < size; ++j) {
      std::vector<index_t> order(static_cast<std::size_t>(k));
      for (index_t e = 0; e < k; ++e) order[static_cast<std::size_t>(e)] = e;
      double det = 0;
      do {
        double term = 1;
        for (index_t r = 0; r < k; ++r) {
          term *= a[static_cast<std::size_t>(subsets.members(k, i)[r] * n + subsets.members(k, j)[order[static_cast<std::size_t>(r)]])];
          for (index_t s = r + 1; s < k; ++s)
            if (order[static_cast<std::size_t>(r)] > order[static_cast<std::size_t>(s)]) term = -term;
        }
        det += term;
      } while (std::next_permutation(order.begin(), order.end()));
      c.push_back(det);
    }
  return c;
}
matrix differences(const matrix& at, const std::function<double(const matrix&)>& f) {
  matrix d(at.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    matrix above = at, below = at;
    above[i] += 1e-5;
    below[i] -= 1e-5;
    d[i] = (f(above) - f(below)) / 2e-5;
  }
  return d;
}

const matrix example_p = {.1, .2, -.3, .4, .5, -.6}, example_w = {1, -1, 2, 0, 1, 3};

/// dL/d(free numbers) of L = w . C_k(A(free)) x by a route, and L.
std::pair<double, matrix> example_gradient(index_t n, index_t k, const matrix& free, bool by_pyramid, compound_route route, tensor<double, 2>* dx = nullptr) {
  context ctx;
  const subset_tables subsets(n, k);
  const index_t size = subsets.count(k);
  const matrix a = by_pyramid ? pyramid_of(n, free) : cayley_of(n, free);
  tensor<double, 2> x({1, size}), w({1, size}), y({1, size}), room({1, size});
  for (index_t i = 0; i < size; ++i) x(0, i) = static_cast<double>(i + 1), w(0, i) = i < 6 ? example_w[static_cast<std::size_t>(i)] : 0.5;
  compound_product<double>(ctx, subsets, k, a.data(), route, x.view(), y.view(), 0.0);
  matrix da(a.size()), out(free.size()), work(2 * a.size());
  compound_product_gradient<double>(ctx, subsets, k, a.data(), route, x.view(), w.view(), room.view(), 0.0, da.data());
  if (by_pyramid) pyramid_gradient(n, free.data(), a.data(), da.data(), out.data(), 0.0, work.data());
  else cayley_gradient(n, a.data(), da.data(), out.data(), 0.0, work.data());
  if (dx != nullptr) *dx = std::move(room);
  return {test::plain_sum(size, [&](index_t i) { return w(0, i) * y(0, i); }), out};
}

std::vector<compound_route> routes_of(index_t k) {
  if (k == 2) return {compound_route::dense, compound_route::gates, compound_route::sandwich, compound_route::automatic};
  return {compound_route::dense, compound_route::gates, compound_route::automatic};
}

}  // namespace

TEST_CASE("binomials are exact, and capped where they overflow", "") {
  CHECK(binomial(44, 2) == 946);
  CHECK(binomial(62, 31) == 465428353255261088);
  CHECK(binomial(5, 6) == 0);
  CHECK(binomial(2000, 900) == std::numeric_limits<index_t>::max());
}

TEST_CASE("subsets come in lexicographic order, and their tables agree", "") {
  for (const auto& [n, most] : {std::pair<index_t, index_t>{4, 4}, {7, 3}, {9, 2}}) {
    const subset_tables subsets(n, most);
    for (index_t k = 1; k <= most; ++k) {
      REQUIRE(subsets.count(k) == binomial(n, k));
      for (index_t c = 0; c < subsets.count(k); ++c) {
        const std::vector<std::int32_t> s(subsets.members(k, c), subsets.members(k, c) + k);
        CHECK(std::is_sorted(s.begin(), s.end()));
        if (c > 0) CHECK(std::lexicographical_compare(subsets.members(k, c - 1), subsets.members(k, c - 1) + k, s.begin(), s.end()));
        if (k == 2) CHECK(c == s[0] * n - s[0] * (s[0] + 1) / 2 + (s[1] - s[0] - 1));
        for (index_t e = 0; e < k; ++e) {
          auto less = s;
          less.erase(less.begin() + e);
          const index_t smaller = subsets.without(k, c)[e];
          CHECK(std::equal(less.begin(), less.end(), subsets.members(k - 1, smaller)));
          CHECK(subsets.with(k, smaller)[s[static_cast<std::size_t>(e)]] == c);
        }
      }
    }
  }
}

TEST_CASE("Cayley's transform and C_2, C_3, C_4 of it equal the worked example", "") {
  const matrix a = cayley_of(4, example_p);
  const matrix expected_a = {.78032589, .33997184, .20116677, -.48481191, -.19915510, .49869242, .76845705, .34801851,
                             -.48280024, -.20519010, .35787568, -.77248039, .34399517, -.77046872, .49084691, .21705894};
  CHECK(largest_difference(a, expected_a) < 5.1e-9);
  const matrix expected_c2 = {.45684973, .63971032, .17501509, .16093341, .36008851, .44256689, .00402334, .37638302, -.83685375, .16294508, -.36210018, .01810501,
                              -.71816536, .31382016, .33614967, .32186683, -.29973848, .28163347, .28163347, .29973848, .32186683, .33614967, -.31382016, -.71816536,
                              -.01810501, -.36210018, -.16294508, .83685375, .37638302, -.00402334, .44256689, -.36008851, .16093341, .17501509, -.63971032, .45684973};
  CHECK(largest_difference(built(4, 2, a), expected_c2) < 5.1e-9);
  const matrix c3 = built(4, 3, a);
  CHECK(largest_difference(matrix(c3.begin(), c3.begin() + 4), {.21705894, -.49084691, -.77046872, -.34399517}) < 5.1e-9);
  CHECK(largest_difference(built(4, 4, a), {1}) < 1e-14);
}

TEST_CASE("every route gives the worked example's values and gradients", "") {
  for (const auto route : routes_of(2)) {
    tensor<double, 2> dx;
    auto [loss, dp] = example_gradient(4, 2, example_p, false, route, &dx);
    CHECK(std::abs(loss - 20.27519614) < 5.1e-9);
    CHECK(largest_difference(matrix(dx.span().begin(), dx.span().end()), {.32609133, -.55139811, 2.00402334, 2.00362100, -1.42003621, 2.35425468}) < 5.1e-9);
    CHECK(largest_difference(dp, {17.39111591, .69043785, 1.34518287, -20.13799530, -16.01791295, 1.69867549}) < 5.1e-9);
    CHECK(largest_difference(example_gradient(4, 2, matrix(6), false, route).second, {6, -2, 16, -12, 26, -22}) < 1e-12);
    std::tie(loss, dp) = example_gradient(4, 2, {.1, .2, .3, .4, .5, .6}, true, route);
    CHECK(std::abs(loss - 29.83196449) < 5.1e-9);
    CHECK(largest_difference(dp, {-10.34160204, 10.72250229, .56162077, -8.50587584, 7.20999837, -1.55024134}) < 5.1e-9);

    context ctx;
    const subset_tables subsets(4, 2);
    tensor<double, 2> x({1, 6}), y({1, 6});
    for (index_t i = 0; i < 6; ++i) x(0, i) = static_cast<double>(i + 1);
    const auto applied = [&](const matrix& a) {
      compound_product<double>(ctx, subsets, 2, a.data(), route, x.view(), y.view(), 0.0);
      return matrix(y.span().begin(), y.span().end());
    };
    CHECK(largest_difference(applied(cayley_of(4, example_p)), {7.36089318, -2.80386240, 2.39649970, -2.68678334, 3.97404949, .44779722}) < 5.1e-9);
    const matrix a = pyramid_of(4, {.1, .2, .3, .4, .5, .6});
    CHECK(largest_difference(matrix(a.begin(), a.begin() + 4), {.49341216, -.76399828, .40798444, -.07999851}) < 5.1e-9);
    CHECK(largest_difference(applied(a), {.69171742, -1.57489654, -.39899260, 2.51261580, 1.83193227, 8.84380115}) < 5.1e-9);
  }
}

TEST_CASE("compound matrices hold the minors, multiply as their bases do, and change as the additive compound says", "") {
  for (const index_t k : {1, 2, 3, 4, 5}) {
    const matrix a = random_numbers(25, 3), b = random_numbers(25, 4);
    CHECK(largest_difference(built(5, k, a), by_permutations(5, k, a)) < 1e-13);  // not orthogonal, and k = n: the determinant
    CHECK(largest_difference(product(binomial(5, k), built(5, k, a), built(5, k, b)), built(5, k, product(5, a, b))) < 1e-12);
  }
  matrix skew(16), near_identity(16);
  const double upper[] = {1, 2, 3, 4, 5, 6};
  for (index_t i = 0, p = 0; i < 4; ++i)
    for (index_t j = i + 1; j < 4; ++j, ++p) skew[static_cast<std::size_t>(i * 4 + j)] = upper[p], skew[static_cast<std::size_t>(j * 4 + i)] = -upper[p];
  for (std::size_t i = 0; i < 16; ++i) near_identity[i] = 1e-7 * skew[i] + (i % 5 == 0);
  const matrix c = built(4, 2, near_identity);
  const double rows[2][6] = {{0, 4, 5, -2, -3, 0}, {-4, 0, 6, 1, 0, -3}};
  for (std::size_t i = 0; i < 12; ++i) CHECK(std::abs((c[i] - (i % 7 == 0)) * 1e7 - rows[i / 6][i % 6]) < 1e-5);
}

TEST_CASE("the gradient of a compound equals central differences, at the identity too", "") {
  context ctx;
  for (const index_t k : {2, 3, 4})
    for (const bool at_identity : {true, false}) {
      const matrix a = at_identity ? cayley_of(4, matrix(6)) : random_numbers(16, 5);
      const subset_tables subsets(4, k);
      const matrix g = random_numbers(subsets.count(k) * subsets.count(k), 6);
      matrix da(16);
      const kernel::detail::compound_before before(ctx, subsets, k, a.data());
      compound_matrix_gradient(ctx, subsets, k, before.data(), g.data(), da.data());
      CHECK(largest_difference(da, differences(a, [&](const matrix& m) {
              const matrix c = built(4, k, m);
              return test::plain_sum(static_cast<index_t>(g.size()), [&](index_t i) { return g[static_cast<std::size_t>(i)] * c[static_cast<std::size_t>(i)]; });
            })) < 1e-8);
    }
}

TEST_CASE("free numbers have the gradients of central differences by every route", "") {
  for (const index_t k : {1, 2, 3, 5})
    for (const bool by_pyramid : {false, true})
      for (const double size : {0.0, 0.8})
        for (const auto route : routes_of(k)) {
          const matrix free = random_numbers(10, 7, size);
          INFO("order " << k << (by_pyramid ? " pyramid" : " cayley") << " size " << size);
          CHECK(largest_difference(example_gradient(5, k, free, by_pyramid, route).second,
                                   differences(free, [&](const matrix& p) { return example_gradient(5, k, p, by_pyramid, route).first; })) < 1e-7);
        }
}

TEST_CASE("bases are rotations, of which the plane rotations are the product", "") {
  for (const index_t n : {1, 2, 3, 8, 44}) {
    const index_t count = rotation_parameters(n);
    for (const double size : {0.0, 0.3, 100.0}) {
      const matrix a = cayley_of(n, random_numbers(count, 1, size)), b = pyramid_of(n, random_numbers(count, 2, size));
      CHECK(orthogonality_error(n, a) < 1e-12);
      CHECK(orthogonality_error(n, b) < 1e-12);
      for (const matrix& m : {a, b}) {
        std::vector<plane_rotation> turns(static_cast<std::size_t>(count));
        matrix room(m.size()), product(m.size());
        plane_rotations(n, m.data(), turns.data(), room.data());
        for (index_t i = 0; i < n; ++i) product[static_cast<std::size_t>(i * n + i)] = 1;
        for (const auto& t : turns) kernel::detail::turn_rows<simd::default_arch>(n, t.cosine, t.sine, product.data() + t.first * n, product.data() + (t.first + 1) * n);
        CHECK(largest_difference(product, m) < 1e-12);
      }
    }
  }
}

TEMPLATE_TEST_CASE("every route equals the plain product, on rows that lie apart and with any number of threads", "", float, double) {
  using T = TestType;
  for (const auto& [n, k] : {std::pair<index_t, index_t>{2, 1}, {2, 2}, {9, 1}, {6, 2}, {9, 2}, {4, 3}, {7, 3}, {5, 4}})
    for (const index_t rows : {1, 5, 33, 700})
      for (const double beta : {0.0, 0.5}) {
        const matrix a = random_rotation(n, 9), c = by_permutations(n, k, a);
        const subset_tables subsets(n, k);
        const index_t size = subsets.count(k), wide = size + 3;
        const auto x = test::random_tensor<T, 2>({rows, wide}, 1), dy = test::random_tensor<T, 2>({rows, wide}, 2), start = test::random_tensor<T, 2>({rows, wide}, 3);
        const auto plain = [&](const tensor<T, 2>& from, bool transposed) {
          return test::filled<T>(rows, wide, [&](index_t r, index_t i) -> double {
            const double before = static_cast<double>(start(r, i));
            if (i < 1 || i > size) return before;
            return test::plain_sum(size, [&](index_t j) { return c[static_cast<std::size_t>(transposed ? j * size + i - 1 : (i - 1) * size + j)] * static_cast<double>(from(r, j + 1)); }) + beta * before;
          });
        };
        const auto part = [&](auto& t) { return t.view().slice(1, 1, 1 + size); };
        INFO("n " << n << " order " << k << " rows " << rows);
        tensor<double, 2> first_da;
        for (const auto route : routes_of(k)) {
          const auto forward = test::on_any_threads([&](context& ctx) {
            auto y = start.view().clone();
            compound_product<T>(ctx, subsets, k, a.data(), route, part(x), part(y), static_cast<T>(beta));
            return y;
          });
          CHECK(test::near(forward, plain(x, false), 8 * test::tolerance<T>(n + size)));
          const auto backward = test::on_any_threads([&](context& ctx) {
            auto dx = start.view().clone();
            compound_product_gradient<T>(ctx, subsets, k, a.data(), route, {}, part(dy), part(dx), static_cast<T>(beta), nullptr);
            return dx;
          });
          CHECK(test::near(backward, plain(dy, true), 8 * test::tolerance<T>(n + size)));
          const auto dp = test::on_any_threads([&](context& ctx) {  // of the free numbers: routes agree on these alone
            matrix da(a.size()), room(2 * a.size());
            compound_product_gradient<T>(ctx, subsets, k, a.data(), route, part(x), part(dy), {}, T(0), da.data());
            auto out = tensor<double, 2>::zeros({1, rotation_parameters(n)});
            cayley_gradient(n, a.data(), da.data(), out.data(), 0.0, room.data());
            return out;
          });
          if (first_da.size() == 0) first_da = dp.view().clone();
          if (n > 2 || k == 1) CHECK(test::near(dp, first_da, 8 * test::tolerance<T>(rows + size)));
        }
      }
}
