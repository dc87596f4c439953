// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/arithmetic.hpp"

#include <cmath>
#include <limits>

#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::layouts;
using test::some;

namespace {

/// f(a, b) element by element, for equal shapes.
template <class T, std::size_t Rank, class F>
tensor<T, Rank> plain(const tensor<T, Rank>& a, const tensor<T, Rank>& b, F f) {
  tensor<T, Rank> c(a.shape());
  for (index_t i = 0; i < c.size(); ++i) c.data()[i] = static_cast<T>(f(a.data()[i], b.data()[i]));
  return c;
}

template <class T, std::size_t Rank>
tensor<T, Rank> without_zeros(tensor<T, Rank> t) {
  for (T& v : t.span()) v = v == T(0) ? T(1) : v;
  return t;
}

}  // namespace

TEMPLATE_TEST_CASE("+ - * / work on every layout", "", float, std::int32_t) {
  using T = TestType;
  const double near = std::floating_point<T> ? test::tolerance<T>(1) : 0;
  const auto a = some<T>(extents<2>{5, 37}, 1), b = without_zeros(some<T>(extents<2>{5, 37}, 2));
  for (const auto& x : layouts(a))
    for (const auto& y : layouts(b)) {
      INFO(x.name << ", " << y.name);
      CHECK(test::near(x.view + y.view, plain(a, b, [](T v, T w) { return v + w; }), near));
      CHECK(test::near(x.view - y.view, plain(a, b, [](T v, T w) { return v - w; }), near));
      CHECK(test::near(x.view * y.view, plain(a, b, [](T v, T w) { return v * w; }), near));
      CHECK(test::near(x.view / y.view, plain(a, b, [](T v, T w) { return v / w; }), near));
    }
}

TEMPLATE_TEST_CASE("+ - * / take numbers on either side, of every element type", "", float, double, std::int8_t, std::uint8_t, std::int16_t,
                   std::int64_t) {
  using T = TestType;
  const auto a = without_zeros(some<T>(extents<1>{37}, 1));
  const auto small = map([](T v) { return static_cast<T>(v / 10); }, a);  // products that fit
  const auto each = [&](const tensor<T, 1>& got, const tensor<T, 1>& from, auto f) {
    for (index_t i = 0; i < 37; ++i) REQUIRE(static_cast<double>(got(i)) == Approx(static_cast<double>(static_cast<T>(f(from(i))))).epsilon(1e-6));
  };
  each(small + T(2), small, [](T v) { return v + 2; });
  each(100 - small, small, [](T v) { return 100 - v; });
  each(2 * small, small, [](T v) { return 2 * v; });
  each(100 / a, a, [](T v) { return 100 / v; });
  if constexpr (std::is_signed_v<T>) each(-a, a, [](T v) { return -v; });
}

TEST_CASE("shapes broadcast in arithmetic") {
  const auto m = tensor<float, 2>::of({{1, 2, 3}, {4, 5, 6}});
  const auto row = tensor<float, 1>::of({10, 20, 30});
  CHECK(test::near(m + row, tensor<float, 2>::of({{11, 22, 33}, {14, 25, 36}}), 0));
  CHECK(test::near(row * m.slice(1, 0, 1), tensor<float, 2>::of({{10, 20, 30}, {40, 80, 120}}), 0));
  CHECK_THROWS_WITH(m + (tensor<float, 2>::zeros({2, 4})), "add: shapes (2, 3) and (2, 4) do not broadcast at axis 1");
  CHECK_THROWS_WITH(m - m.transpose(), "subtract: shapes (2, 3) and (3, 2) do not broadcast at axis 0");
  CHECK_THROWS_WITH(m * m.transpose(), "multiply: shapes (2, 3) and (3, 2) do not broadcast at axis 0");
  CHECK_THROWS_WITH(m / m.transpose(), "divide: shapes (2, 3) and (3, 2) do not broadcast at axis 0");
}

TEST_CASE("compound operators change tensors and views in place") {
  auto m = tensor<float, 2>::of({{1, 2, 3}, {4, 5, 6}});
  m += m;
  m.row(1) -= 1;
  m.transpose().row(0) *= tensor<float, 1>::of({10, 100});
  m.slice(1, 1, 3) /= 2.0f;
  CHECK(test::near(m, tensor<float, 2>::of({{20, 2, 3}, {700, 4.5, 5.5}}), 0));
  CHECK(&(m += 0) == &m);
  CHECK_THROWS_WITH((m.row(0) += m), "add: shape (2, 3) does not broadcast to (3)");

  auto square = some<double>(extents<2>{30, 30}, 3);
  const auto before = square.clone();
  square += square.transpose();
  test::for_each_position(square.shape(), [&](const extents<2>& at) { REQUIRE(square(at[0], at[1]) == before(at[0], at[1]) + before(at[1], at[0])); });
}

TEST_CASE("integers wrap around") {
  constexpr auto most = std::numeric_limits<std::int32_t>::max(), least = std::numeric_limits<std::int32_t>::min();
  const auto a = tensor<std::int32_t, 1>::of({most, least});
  CHECK((a + 1)(0) == least);
  CHECK((a - 1)(1) == most);
  CHECK((a * 2)(0) == -2);
  CHECK((-a)(1) == least);
  CHECK((a / -1)(1) == least);
  const auto b = tensor<std::uint8_t, 1>::of({200, 3});
  CHECK((b + b)(0) == 144);
  CHECK((b * b)(0) == 64);
  CHECK((-b)(1) == 253);
  CHECK((tensor<std::int16_t, 1>::of({-32768}) * -1)(0) == -32768);
  CHECK((tensor<std::int64_t, 1>::of({std::numeric_limits<std::int64_t>::max()}) + 1)(0) == std::numeric_limits<std::int64_t>::min());
}

TEST_CASE("dividing an integer by zero throws, a float becomes infinite") {
  CHECK_THROWS_WITH((tensor<std::int32_t, 1>::of({4, 7}) / tensor<std::int32_t, 1>::of({2, 0})), "divide: an integer (7) is divided by zero");
  CHECK((tensor<float, 1>::of({1}) / 0)(0) == std::numeric_limits<float>::infinity());
}

TEST_CASE("minus zero and NaN keep their signs and nature") {
  const auto t = tensor<float, 1>::of({0, 1, std::numeric_limits<float>::quiet_NaN()});
  CHECK(std::signbit((-t)(0)));
  CHECK(std::isnan((-t)(2)));
  CHECK(std::isnan((t + 1)(2)));
}

TEMPLATE_TEST_CASE("functions of every element agree with the standard library", "", float, double) {
  using T = TestType;
  const auto x = some<T>(extents<2>{3, 35}, 1);
  const auto positive = map([](auto v) { return v * v + decltype(v)(T(0.01)); }, x);
  const auto check = [&](const tensor<T, 2>& got, const tensor<T, 2>& in, auto f) {
    tensor<T, 2> expected(in.shape());
    for (index_t i = 0; i < in.size(); ++i) expected.data()[i] = static_cast<T>(f(static_cast<double>(in.data()[i])));
    CHECK(test::near(got, expected, test::tolerance<T>(4)));
  };
  check(exp(x), x, [](double v) { return std::exp(v); });
  check(log(positive), positive, [](double v) { return std::log(v); });
  check(sqrt(positive), positive, [](double v) { return std::sqrt(v); });
  check(tanh(x), x, [](double v) { return std::tanh(v); });
  check(sin(x), x, [](double v) { return std::sin(v); });
  check(cos(x), x, [](double v) { return std::cos(v); });
  check(abs(x), x, [](double v) { return std::abs(v); });
  const auto y = some<T>(extents<1>{35}, 2);
  const auto larger = maximum(x, y), smaller = minimum(x, T(0));
  test::for_each_position(x.shape(), [&](const extents<2>& at) {
    const auto [i, j] = at;
    REQUIRE(larger(i, j) == std::max(x(i, j), y(j)));
    REQUIRE(smaller(i, j) == std::min(x(i, j), T(0)));
  });
}
