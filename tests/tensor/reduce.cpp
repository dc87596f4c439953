// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/reduce.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "graft/tensor/shape.hpp"
#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::layouts;
using test::some;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();

/// f(elements of a line, as double) for every line along an axis.
template <class T, std::size_t Rank, class F>
tensor<double, Rank - 1> plain(const tensor<T, Rank>& x, std::size_t axis, F f) {
  tensor<double, Rank - 1> out(detail::without_axis(x.shape(), axis));
  index_t n = 0;
  test::for_each_position(out.shape(), [&](const extents<Rank - 1>& at) {
    std::vector<double> line;
    for (index_t i = 0; i < x.shape()[axis]; ++i) {
      index_t offset = 0;
      for (std::size_t k = 0, from = 0; k < Rank; ++k) offset = offset * x.shape()[k] + (k == axis ? i : at[from++]);
      line.push_back(static_cast<double>(x.data()[offset]));
    }
    out.data()[n++] = f(line);
  });
  return out;
}

using line = std::vector<double>;
double plain_sum(const line& v) {
  double s = 0;
  for (const double x : v) s += x;
  return s;
}
double plain_mean(const line& v) { return plain_sum(v) / static_cast<double>(v.size()); }
double plain_variance(const line& v) {
  double s = 0;
  for (const double x : v) s += (x - plain_mean(v)) * (x - plain_mean(v));
  return s / static_cast<double>(v.size());
}
double plain_logsumexp(const line& v) {
  double s = 0;
  for (const double x : v) s += std::exp(x);
  return std::log(s);
}
double plain_argmax(const line& v) { return static_cast<double>(std::max_element(v.begin(), v.end()) - v.begin()); }
double plain_argmin(const line& v) { return static_cast<double>(std::min_element(v.begin(), v.end()) - v.begin()); }

double plain_max(const line& v) { return *std::max_element(v.begin(), v.end()); }
double plain_min(const line& v) { return *std::min_element(v.begin(), v.end()); }

void expect(const char* what, const test::comparison& c) {
  INFO(what);
  CHECK(c);
}

template <class T, std::size_t Rank>
void check_axes(extents<Rank> shape) {
  auto t = some<T>(shape, 7);
  if (t.size() > 9) t.data()[5] = t.data()[7] = t.data()[0];  // ties
  for (const auto& l : layouts(t))
    for (std::size_t a = 0; a < Rank; ++a) {
      const auto axis = static_cast<index_t>(a), from_end = axis - static_cast<index_t>(Rank);
      INFO(to_string(shape) << ", axis " << a << ", " << l.name);
      // In double, n terms differ by (n + 4) eps of the sum of their sizes, and no largest result here is below 1/16 of
      // their mean size; the result is rounded to T once.
      const index_t n = shape[a];
      const double wide = 16 * static_cast<double>(n) * test::tolerance<double>(n);
      const double near = wide + (std::same_as<T, float> ? static_cast<double>(std::numeric_limits<float>::epsilon()) : 0);
      expect("sum", test::near(sum(l.view, axis), plain(t, a, plain_sum), std::integral<T> ? 0 : near));
      expect("mean", test::near(mean(l.view, from_end), plain(t, a, plain_mean), near));
      expect("variance", test::near(variance(l.view, axis), plain(t, a, plain_variance), near));
      expect("logsumexp", test::near(logsumexp(l.view, axis), plain(t, a, plain_logsumexp), near));
      expect("max", test::near(max(l.view, axis), plain(t, a, plain_max), 0));
      expect("min", test::near(min(l.view, from_end), plain(t, a, plain_min), 0));
      expect("argmax", test::near(argmax(l.view, axis), plain(t, a, plain_argmax), 0));
      expect("argmin", test::near(argmin(l.view, axis), plain(t, a, plain_argmin), 0));
    }
}

template <class T, std::size_t Rank>
void check_whole(extents<Rank> shape) {
  auto t = some<T>(shape, 9);
  if (t.size() > 9) t.data()[5] = t.data()[7] = t.data()[0];
  const index_t n = t.size();
  const line all(t.span().begin(), t.span().end());
  const double wide = 16 * static_cast<double>(n) * test::tolerance<double>(n);
  const double near = wide + (std::same_as<T, float> ? static_cast<double>(std::numeric_limits<float>::epsilon()) : 0);
  for (const auto& l : layouts(t)) {
    INFO(to_string(shape) << ", " << l.name);
    const auto agrees = [&](auto got, double expected) { return std::abs(static_cast<double>(got) - expected) <= near * std::max(1.0, std::abs(expected)); };
    CHECK(agrees(sum(l.view), plain_sum(all)));
    CHECK(agrees(mean(l.view), plain_mean(all)));
    CHECK(agrees(variance(l.view), plain_variance(all)));
    CHECK(agrees(logsumexp(l.view), plain_logsumexp(all)));
    CHECK(static_cast<double>(max(l.view)) == plain_max(all));
    CHECK(static_cast<double>(min(l.view)) == plain_min(all));
    CHECK(static_cast<double>(argmax(l.view)) == plain_argmax(all));
    CHECK(static_cast<double>(argmin(l.view)) == plain_argmin(all));
  }
}

}  // namespace

TEST_CASE("reductions agree with plain loops over every axis and layout") {
  for (index_t n : {1, 2, 7, 8, 9, 40, 130}) {
    check_axes<float, 1>({n});
    check_axes<float, 2>({n, 3});
    check_axes<double, 2>({3, n});
    check_axes<std::int32_t, 2>({3, n});
    check_axes<float, 3>({2, n, 70});
    check_axes<float, 4>({2, 3, n, 2});
    check_whole<float, 1>({n});
    check_whole<double, 2>({n, 3});
    check_whole<std::uint8_t, 3>({2, 3, n});
  }
}

TEST_CASE("long sums of floats are rounded once") {
  auto x = tensor<float, 1>::full({1 << 24}, 0.1f);
  const double exact = static_cast<double>(0.1f) * (1 << 24);
  CHECK(sum(x) == static_cast<float>(exact));
  CHECK(mean(x) == 0.1f);
  CHECK(sum(x.reshape(1 << 20, 16), 0)(3) == static_cast<float>(static_cast<double>(0.1f) * (1 << 20)));
  x(0) = 1e9f;
  CHECK(sum(x) == static_cast<float>(1e9 + exact - static_cast<double>(0.1f)));
}

TEST_CASE("sums of integers have 64 bits") {
  const auto x = tensor<std::uint8_t, 1>::full({1000}, 255);
  STATIC_REQUIRE(std::same_as<decltype(sum(x)), std::int64_t>);
  STATIC_REQUIRE(std::same_as<decltype(sum(x, 0)), tensor<std::int64_t, 0>>);
  STATIC_REQUIRE(std::same_as<decltype(mean(x)), double>);
  CHECK(sum(x) == 255000);
  CHECK(mean(x) == 255);
  CHECK(sum(tensor<std::int64_t, 1>::of({std::numeric_limits<std::int64_t>::max(), 1})) == std::numeric_limits<std::int64_t>::min());
}

TEST_CASE("the variance is right far from zero, and takes a correction") {
  const auto x = tensor<double, 1>::of({1e9 + 4, 1e9 + 7, 1e9 + 13, 1e9 + 16});
  CHECK(variance(x) == Approx(22.5).epsilon(1e-9));
  CHECK(variance(x, {.correction = 1}) == Approx(30).epsilon(1e-9));
  CHECK(variance(x, 0, {.correction = 1})() == Approx(30).epsilon(1e-9));
  CHECK(std::isnan(variance(tensor<float, 1>::of({3}), {.correction = 1})));
}

TEST_CASE("a NaN makes a result NaN, and is found as an extreme") {
  for (const index_t at : {0, 3, 8, 20}) {
    auto x = some<double>(extents<1>{21}, 1);
    x(at) = not_a_number;
    if (at != 20) x(20) = not_a_number;
    CHECK(std::isnan(sum(x)));
    CHECK(std::isnan(mean(x)));
    CHECK(std::isnan(variance(x)));
    CHECK(std::isnan(logsumexp(x)));
    CHECK(std::isnan(max(x)));
    CHECK(std::isnan(min(x)));
    CHECK(argmax(x) == at);
    CHECK(argmin(x) == at);
    const auto columns = stack(1, x, some<double>(extents<1>{21}, 2));
    CHECK(std::isnan(max(columns, 0)(0)));
    CHECK(argmin(columns, 0)(0) == at);
    CHECK_FALSE(std::isnan(max(columns, 0)(1)));
  }
}

TEST_CASE("infinities are handled as the limits they are") {
  CHECK(logsumexp(tensor<double, 1>::of({-infinity, -infinity})) == -infinity);
  CHECK(logsumexp(tensor<double, 1>::of({-infinity, 3})) == 3);
  CHECK(logsumexp(tensor<double, 1>::of({infinity, 3, infinity})) == infinity);
  CHECK(logsumexp(tensor<double, 1>::of({1000, 1000})) == Approx(1000 + std::log(2)));
  CHECK(logsumexp(tensor<double, 1>::of({-1000, -1000})) == Approx(-1000 + std::log(2)));
  CHECK(max(tensor<double, 1>::of({-infinity, -infinity})) == -infinity);
  CHECK(argmax(tensor<double, 1>::of({-infinity, -infinity})) == 0);
}

TEST_CASE("over nothing a sum is zero and an extreme is refused") {
  const tensor<float, 2> none({3, 0});
  CHECK(sum(none) == 0);
  CHECK(sum(none, 1).shape() == extents<1>{3});
  CHECK(sum(none, 1)(2) == 0);
  CHECK(sum(none, 0).size() == 0);
  CHECK(logsumexp(none, 1)(0) == -std::numeric_limits<float>::infinity());
  CHECK_THROWS_WITH(max(none, 1), "max: axis 1 of (3, 0) is empty");
  CHECK_THROWS_WITH(argmin(none, -1), "argmin: axis 1 of (3, 0) is empty");
  CHECK_THROWS_WITH(min(none), "min: a tensor of shape (3, 0) is empty");
  CHECK_THROWS_WITH(argmax(none), "argmax: a tensor of shape (3, 0) is empty");
  CHECK_THROWS_AS(mean(none, 1), shape_error);
  CHECK_THROWS_AS(variance(none), shape_error);
  CHECK(max(none, 0).size() == 0);
  CHECK_THROWS_WITH(sum(none, 2), "sum: axis 2 of a tensor of rank 2");
}
