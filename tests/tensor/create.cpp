// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/create.hpp"

#include <cmath>
#include <limits>

#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::elements;

TEST_CASE("constant tensors take their shape as numbers, braces or extents") {
  const auto z = zeros<float>(2, 3);
  CHECK(z.shape() == extents<2>{2, 3});
  CHECK(elements(z) == std::vector<float>(6, 0.0f));
  CHECK(zeros<int>(z.shape()).shape() == z.shape());
  const auto f = full({2, 2}, 1.5f);
  STATIC_REQUIRE(std::same_as<decltype(f), const tensor<float, 2>>);
  CHECK(elements(f) == std::vector<float>(4, 1.5f));
  CHECK(elements(full(extents<1>{2}, 7)) == std::vector<int>{7, 7});
  CHECK(elements(eye<double>(3)) == std::vector<double>{1, 0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(to_float(eye<bf16>(2)(1, 1)) == 1);
  CHECK_THROWS_AS(zeros<float>(2, -1), shape_error);
}

TEST_CASE("arange counts, exactly for integers") {
  CHECK(elements(arange<int>(4)) == std::vector<int>{0, 1, 2, 3});
  CHECK(elements(arange<int>(2, 11, 3)) == std::vector<int>{2, 5, 8});
  CHECK(elements(arange<int>(2, 12, 3)) == std::vector<int>{2, 5, 8, 11});
  CHECK(elements(arange<int>(5, 0, -2)) == std::vector<int>{5, 3, 1});
  CHECK(arange<int>(3, 3).size() == 0);
  CHECK(arange<int>(3, 0).size() == 0);
  CHECK(elements(arange<float>(0, 1, 0.25f)) == std::vector<float>{0, 0.25f, 0.5f, 0.75f});
  CHECK(arange<double>(0, 1, 0.1).size() == 10);
  CHECK(elements(arange<std::int8_t>(-128, 127, 100)) == std::vector<std::int8_t>{-128, -28, 72});
  CHECK(elements(arange<std::int32_t>(std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max(), 2147483647)) ==
        std::vector<std::int32_t>{-2147483647 - 1, -1, 2147483646});
  const std::int64_t big = std::int64_t{1} << 60;
  CHECK(elements(arange<std::int64_t>(big, big + 3)) == std::vector<std::int64_t>{big, big + 1, big + 2});
  CHECK_THROWS_WITH(arange<int>(0, 5, 0), "arange: from 0 to 5 in steps of 0 has no end");
  CHECK_THROWS_AS(arange<float>(0, 1, std::nanf("")), option_error);
  CHECK_THROWS_AS(arange<double>(0, std::numeric_limits<double>::infinity()), option_error);
}

TEST_CASE("linspace includes both ends") {
  CHECK(elements(linspace<double>(0, 1, 5)) == std::vector<double>{0, 0.25, 0.5, 0.75, 1});
  CHECK(elements(linspace<float>(3, 1, 3)) == std::vector<float>{3, 2, 1});
  CHECK(elements(linspace<float>(3, 1, 1)) == std::vector<float>{3});
  CHECK(linspace<float>(0, 1, 0).size() == 0);
  CHECK(linspace<float>(0, 0.1f, 7)(6) == 0.1f);
  CHECK_THROWS_AS(linspace<float>(0, 1, -1), option_error);
}

TEST_CASE("random tensors repeat for a seed, and have the moments they should") {
  random_stream first(7), again(7);
  const auto u = random_uniform<double>(first, {100, 200}, -1, 3);
  CHECK(elements(u) == elements(random_uniform<double>(again, u.shape(), -1, 3)));
  const auto n = random_normal<double>(first, {100, 200}, 5, 2);
  CHECK(elements(n) == elements(random_normal<double>(again, {100, 200}, 5, 2)));
  const auto moments = [](const tensor<double, 2>& t) {
    double sum = 0, squares = 0;
    for (const double v : t.span()) sum += v, squares += v * v;
    const double mean = sum / static_cast<double>(t.size());
    return std::pair(mean, squares / static_cast<double>(t.size()) - mean * mean);
  };
  // 20 000 draws: four standard errors are 4 sqrt(variance / 20000)
  CHECK(moments(u).first == Approx(1).margin(0.033));
  CHECK(moments(u).second == Approx(16.0 / 12).margin(0.04));
  CHECK(moments(n).first == Approx(5).margin(0.057));
  CHECK(moments(n).second == Approx(4).margin(0.17));
  for (const double v : u.span()) REQUIRE((v >= -1 && v < 3));
}

TEST_CASE("cast converts between any two element types") {
  const auto f = tensor<float, 1>::of({1.5f, -2.75f, 300, -1e20f, std::nanf(""), 1e20f});
  CHECK(elements(cast<std::int32_t>(f)) == std::vector<std::int32_t>{1, -2, 300, std::numeric_limits<std::int32_t>::min(), 0, std::numeric_limits<std::int32_t>::max()});
  CHECK(elements(cast<std::uint8_t>(f)) == std::vector<std::uint8_t>{1, 0, 255, 0, 0, 255});
  CHECK(cast<std::int64_t>(tensor<double, 1>::of({9.3e18}))(0) == std::numeric_limits<std::int64_t>::max());
  CHECK(elements(cast<float>(cast<bf16>(f.slice(0, 0, 3)))) == std::vector<float>{1.5f, -2.75f, 300});
  CHECK(elements(cast<std::int8_t>(cast<f16>(f.slice(0, 0, 3)))) == std::vector<std::int8_t>{1, -2, 127});
  CHECK(elements(cast<std::uint8_t>(tensor<std::int32_t, 1>::of({-1, 257}))) == std::vector<std::uint8_t>{255, 1});
  const auto m = test::some<float>(extents<3>{2, 3, 4}, 1);
  for (const auto& l : test::layouts(m)) CHECK(test::equal_bits(cast<float>(cast<double>(l.view)), m));
}

TEST_CASE("copy_into and fill write views, broadcasting and overlapping") {
  auto t = zeros<float>(3, 4);
  fill(t.row(1), 5);
  copy_into(t.slice(1, 2, 4), tensor<float, 1>::of({7, 8}));
  CHECK(elements(t) == std::vector<float>{0, 0, 7, 8, 5, 5, 7, 8, 0, 0, 7, 8});
  auto line = arange<int>(6);
  copy_into(line.slice(0, 1, 6), line.slice(0, 0, 5));
  CHECK(elements(line) == std::vector<int>{0, 0, 1, 2, 3, 4});
  auto half = eye<bf16>(2);
  fill(half.row(0), to_bf16(3));
  CHECK(to_float(half(0, 1)) == 3);
  CHECK_THROWS_WITH(copy_into(t, zeros<float>(6)), "copy_into: shape (6) does not broadcast to (3, 4)");
}
