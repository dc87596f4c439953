// SPDX-License-Identifier: Apache-2.0
#include "graft/simd/simd.hpp"

#include "graft/simd/convert.hpp"
#include "graft/simd/fma_in_place.hpp"
#include "support/catch.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <numeric>
#include <vector>

using namespace graft;

TEMPLATE_TEST_CASE("a block held in vectors is transposed", "", float, double) {
  constexpr index_t w = simd::width<TestType>;
  simd::batch<TestType> rows[w];
  TestType lanes[w];
  for (index_t i = 0; i < w; ++i) {
    for (index_t j = 0; j < w; ++j) lanes[j] = static_cast<TestType>(100 * i + j);
    rows[i] = simd::load(lanes);
  }
  simd::transpose(rows);
  for (index_t i = 0; i < w; ++i) {
    simd::store(lanes, rows[i]);
    for (index_t j = 0; j < w; ++j) REQUIRE(lanes[j] == static_cast<TestType>(100 * j + i));
  }
}

TEMPLATE_TEST_CASE_SIG("sums over lanes come out in the order of the vectors", "", ((class T, std::size_t N), T, N),
                       (float, 1), (float, 2), (float, 4), (float, 8), (double, 1), (double, 4), (double, 8)) {
  constexpr index_t w = simd::width<T>;
  simd::batch<T> v[N];
  T lanes[w];
  for (std::size_t i = 0; i < N; ++i) {
    for (index_t j = 0; j < w; ++j) lanes[j] = static_cast<T>((static_cast<index_t>(i) + 1) * (j + 1));
    v[i] = simd::load(lanes);
    CHECK(simd::sum(v[i]) == static_cast<T>((static_cast<index_t>(i) + 1) * w * (w + 1) / 2));
    CHECK(simd::maximum(v[i]) == static_cast<T>((static_cast<index_t>(i) + 1) * w));
  }
  T out[N];
  simd::sum_each(v, out);
  for (std::size_t i = 0; i < N; ++i) CHECK(out[i] == static_cast<T>((static_cast<index_t>(i) + 1) * w * (w + 1) / 2));
}

TEMPLATE_TEST_CASE("a multiply-add in place has the bits of any other, and leaves its factors alone", "", float, double) {
  constexpr index_t w = simd::width<TestType>;
  TestType a[w], b[w], c[w], expected[w], got[w];
  for (index_t i = 0; i < w; ++i) {
    a[i] = TestType(1) / static_cast<TestType>(i + 3);
    b[i] = TestType(1) / static_cast<TestType>(i + 7);
    c[i] = -a[i] * b[i];  // what is left is the rounding of the product
  }
  const auto x = simd::load(a), y = simd::load(b), z = simd::load(c);
  simd::store(expected, simd::fma(x, y, z));
  simd::store(got, simd::fma_in_place(x, y, z));
  CHECK(std::equal(got, got + w, expected));
  simd::store(got, x);
  CHECK(std::equal(got, got + w, a));
  simd::store(got, z);
  CHECK(std::equal(got, got + w, c));
}

TEMPLATE_TEST_CASE("partial loads and stores leave the rest alone", "", float, double) {
  constexpr index_t w = simd::width<TestType>;
  for (index_t n = 0; n < w; ++n) {
    std::vector<TestType> from(static_cast<std::size_t>(n)), to(static_cast<std::size_t>(w), TestType(-1));
    std::iota(from.begin(), from.end(), TestType(1));
    const auto v = simd::load_partial<TestType>(from.data(), n);
    CHECK(simd::sum(v) == static_cast<TestType>(n * (n + 1) / 2));
    simd::store_partial(to.data(), v, n);
    for (index_t i = 0; i < w; ++i) CHECK(to[static_cast<std::size_t>(i)] == static_cast<TestType>(i < n ? i + 1 : -1));
  }
}

TEMPLATE_TEST_CASE("the lanes that are not kept become zero, whatever they held", "", float, double) {
  constexpr index_t w = simd::width<TestType>;
  const simd::batch<TestType, simd::default_arch> v(TestType(2)), infinite(std::numeric_limits<TestType>::infinity());
  for (index_t n = 0; n <= w; ++n) {
    CHECK(simd::sum(simd::keep_first(v, n)) == static_cast<TestType>(2 * n));
    if (n == 0) CHECK(simd::sum(simd::keep_first(infinite, n)) == 0);
  }
}

TEST_CASE("vector conversion of 16-bit storage equals the scalar one for every value") {
  constexpr index_t w = simd::width<float>;
  index_t wrong = 0;
  for (std::uint32_t first = 0; first < 65536; first += w) {
    f16 h[w];
    bf16 b[w];
    float from_h[w], from_b[w];
    for (index_t i = 0; i < w; ++i) h[i].bits = b[i].bits = static_cast<std::uint16_t>(first + static_cast<std::uint32_t>(i));
    simd::store(from_h, simd::load_as<float>(h));
    simd::store(from_b, simd::load_as<float>(b));
    for (index_t i = 0; i < w; ++i) {
      const auto same = [](float x, float y) { return x == y || (std::isnan(x) && std::isnan(y)); };
      wrong += !same(from_h[i], to_float(h[i])) + !same(from_b[i], to_float(b[i]));
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("erf of vectors is that of doubles within two roundings, everywhere") {
  const auto of_vector = [](float x) { return simd::erf(simd::batch<float>(x)).get(0); };
  const auto follows = [&](float x) {
    const double expected = std::erf(static_cast<double>(x));
    INFO("x " << x);
    REQUIRE(std::abs(static_cast<double>(of_vector(x)) - expected) <= 2 * static_cast<double>(std::numeric_limits<float>::epsilon()) * std::abs(expected));
    REQUIRE(of_vector(-x) == -of_vector(x));
  };
  for (int i = -2000; i < 2000; ++i) follows(static_cast<float>(i) / 317);
  for (int exponent = -37; exponent < 4; ++exponent) follows(std::ldexp(1.37f, exponent));
  for (int half = 1; half < 32; ++half) {  // where one polynomial ends and the next begins, of eight or of sixteen
    float x = static_cast<float>(half) * 17 / 128;
    for (int n = 0; n < 20; ++n) x = std::nextafter(x, 0.f);
    for (int n = 0; n < 40; ++n, x = std::nextafter(x, 9.f)) follows(x);
  }
  const float infinite = std::numeric_limits<float>::infinity();
  CHECK((of_vector(infinite) == 1 && of_vector(-infinite) == -1 && of_vector(1e30f) == 1));
  CHECK(std::isnan(of_vector(std::numeric_limits<float>::quiet_NaN())));
  CHECK(std::signbit(of_vector(-0.f)));
}

TEMPLATE_TEST_CASE("functions of vectors agree with those of numbers", "", float, double) {
  constexpr index_t w = simd::width<TestType>;
  const auto agree = [](auto f, auto low, auto high, double ulps = 2) {
    for (TestType x = low; x < high; x += static_cast<TestType>(0.37)) {
      const auto expected = static_cast<double>(f(x));
      const double got = static_cast<double>(f(simd::batch<TestType>(x)).get(static_cast<std::size_t>(w - 1)));
      REQUIRE(std::abs(got - expected) <= ulps * std::numeric_limits<TestType>::epsilon() * (std::abs(expected) + 1e-30));
    }
  };
  agree([](auto x) { return simd::exp(x); }, TestType(-80), TestType(80));
  agree([](auto x) { return simd::exp2(x); }, TestType(-110), TestType(110));
  agree([](auto x) { return simd::tanh(x); }, TestType(-9), TestType(9));
  agree([](auto x) { return simd::erf(x); }, TestType(-3), TestType(3), std::is_same_v<TestType, double> ? 64 : 2);  // xsimd's in double
  agree([](auto x) { return simd::log(x); }, TestType(0.01), TestType(50));
  CHECK(simd::exp(simd::batch<TestType>(-std::numeric_limits<TestType>::infinity())).get(0) == 0);
}

TEST_CASE("exponentials are right to the last places, and know what is no number") {
  const auto check = [](auto f, double base, float low, float high, float beyond, double units) {
    const auto of_vector = [&](float x) { return f(simd::batch<float>(x)).get(static_cast<std::size_t>(simd::width<float> - 1)); };
    double worst = 0;
    for (std::uint32_t bits = 0; bits < 0xffff0000u; bits += 9973) {
      const float x = std::bit_cast<float>(bits);
      if (!(x > low && x < high)) continue;
      const double exact = std::pow(base, static_cast<double>(x));
      const double unit = std::ldexp(1.0, std::ilogb(exact) - 23);
      worst = std::max(worst, std::abs(static_cast<double>(of_vector(x)) - exact) / unit);
    }
    CAPTURE(base);
    CHECK(worst <= units);
    constexpr float infinity = std::numeric_limits<float>::infinity();
    CHECK(of_vector(0) == 1);
    CHECK(of_vector(-infinity) == 0);
    CHECK(of_vector(infinity) == infinity);
    CHECK(of_vector(beyond) == infinity);
    CHECK(of_vector(-200) == 0);
    CHECK(std::isnan(of_vector(std::numeric_limits<float>::quiet_NaN())));
  };
  constexpr bool ours = simd::width<float> == 16;  // xsimd's are infinite a little early
  check([](auto x) { return simd::exp(x); }, std::numbers::e, -87.3f, ours ? 88.7f : 88.3f, 89, 1.5);
  check([](auto x) { return simd::exp2(x); }, 2, -126.f, ours ? 128.f : 127.f, 128, 2.1);
}
