// SPDX-License-Identifier: Apache-2.0
#include "graft/nn/quantize.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "support/blocks.hpp"
#include "support/catch.hpp"

using namespace graft;

namespace {

template <class B>
std::vector<float> decoded(const B& b) {
  std::vector<float> v;
  for (index_t i = 0; i < B::count; ++i) v.push_back(value_at(b, i));
  return v;
}

}  // namespace

TEST_CASE("q8_0 takes a 127th of the largest magnitude as its scale and rounds half away from zero") {
  float x[32] = {-127, 0.5f, -0.5f, 2.5f, 1.49f, -1.51f, 126.5f};
  const auto b = quantize_q8_0(x, 32);
  CHECK(b.scale == to_f16(1));
  const int expected[] = {-127, 1, -1, 3, 1, -2, 127, 0};
  for (int i = 0; i < 8; ++i) CHECK(b.q[i] == expected[i]);
  // The codes come from the scale before it is rounded: the half nearest to 1 / 127 is 6e-5 less.
  float y[32] = {1, 63.499f / 127};
  CHECK(quantize_q8_0(y, 32).scale == to_f16(1.0f / 127));
  CHECK(quantize_q8_0(y, 32).q[0] == 127);
  CHECK(quantize_q8_0(y, 32).q[1] == 63);
}

TEST_CASE("q4_0 gives the number of largest magnitude code 0 and clamps its mirror image") {
  float x[32] = {-8, 8, 1.5f, -0.5f, 0.49f, 7.4f};
  x[16] = 6.5f;
  const auto b = quantize_q4_0(x, 32);
  CHECK(b.scale == to_f16(1));
  const std::vector<float> v = decoded(b);
  CHECK((v[0] == -8 && v[1] == 7 && v[2] == 2 && v[3] == 0 && v[4] == 0 && v[5] == 7 && v[16] == 7));
  CHECK((b.q[0] == (15 << 4 | 0) && b.q[1] == (8 << 4 | 15) && b.q[15] == (8 << 4 | 8)));
  float y[32] = {4, -4};  // the first of the two
  CHECK(quantize_q4_0(y, 32).scale == to_f16(-0.5f));
  CHECK(value_at(quantize_q4_0(y, 32), 0) == 4);
  CHECK(value_at(quantize_q4_0(y, 32), 1) == -3.5f);
}

TEST_CASE("nf4 takes the nearest level of what is left after division by the largest magnitude") {
  std::vector<float> x(64, 0.0f);
  for (int i = 0; i < 16; ++i) x[static_cast<std::size_t>(i)] = -3 * nf4_levels[i];
  for (int i = 0; i < 15; ++i) {  // a little to both sides of the middle between two levels
    const float middle = 3 * (nf4_levels[i] + nf4_levels[i + 1]) / 2;
    x[static_cast<std::size_t>(16 + i)] = middle - 1e-5f;
    x[static_cast<std::size_t>(32 + i)] = middle + 1e-5f;
  }
  const auto b = quantize_nf4(x.data(), 64);
  CHECK(b.largest == 3);
  for (int i = 0; i < 15; ++i) {
    CHECK(value_at(b, 16 + i) == 3 * nf4_levels[i]);
    CHECK(value_at(b, 32 + i) == 3 * nf4_levels[i + 1]);
  }
  CHECK((value_at(b, 0) == 3 && value_at(b, 7) == 0 && value_at(b, 15) == -3));
  // The table is not symmetric, but every number gets the nearest level.
  for (float v = -1; v <= 1; v += 0.00137f) {
    float best = 9;
    for (float level : nf4_levels) best = std::min(best, std::abs(level - v));
    REQUIRE(std::abs(nf4_levels[detail::nearest_nf4(v)] - v) <= best);
  }
}

TEMPLATE_LIST_TEST_CASE("what quantising loses is bounded by the scale of the block", "", test::every_block_format) {
  const auto values = test::random_tensor<float, 2>({40, 100}, 3);
  const auto a = convert_array(frozen_array(values.clone()), dtype_of<TestType>);
  const auto back = a.template to_tensor<float, 2>();
  for (index_t i = 0; i < 40; ++i)
    for (index_t first = 0; first < 100; first += TestType::count) {
      const index_t last = std::min<index_t>(first + TestType::count, 100);
      float largest = 0;
      for (index_t j = first; j < last; ++j) largest = std::max(largest, std::abs(values(i, j)));
      // Half a step, a whole one for what q4_0 clamps, half the widest gap of nf4; and the rounding of a half's 11 bits.
      const float step = std::same_as<TestType, q8_0_block> ? 0.5f / 127 : std::same_as<TestType, q4_0_block> ? 1.0f / 8 : 0.1520f;
      for (index_t j = first; j < last; ++j) REQUIRE(std::abs(back(i, j) - values(i, j)) <= largest * (step + 0x1p-11f));
    }
  const auto again = convert_array(convert_array(a, dtype::f32), a.type()).template to_tensor<float, 2>();
  CHECK(test::near(again, back, std::same_as<TestType, q4_0_block> || std::same_as<TestType, q8_0_block> ? 0x1p-10 : 0.0));
}

TEMPLATE_LIST_TEST_CASE("blocks of zeros, of tiny, of non-finite numbers and those that end early are themselves", "", test::every_block_format) {
  std::vector<float> x(static_cast<std::size_t>(TestType::count), 0.0f);
  const auto value = [&](index_t n, index_t i) { return value_at(quantize<TestType>(x.data(), n), i); };
  for (index_t i = 0; i < TestType::count; ++i) CHECK(value(TestType::count, i) == 0);
  x[3] = std::numeric_limits<float>::denorm_min();
  CHECK(std::abs(value(TestType::count, 3)) <= x[3]);
  CHECK(value(TestType::count, 4) == 0);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    x[3] = bad;
    for (index_t i : {0, 3, 31}) CHECK(std::isnan(value(TestType::count, i)));
    CHECK(value(3, 2) == 0);
  }
  x[0] = 5, x[3] = 7;
  CHECK(std::abs(value(1, 0) - 5) <= 5 * 0x1p-11f);  // what lies behind the end has no say
  for (index_t i = 1; i < TestType::count; ++i) CHECK(value(1, i) == 0);
}

TEST_CASE("a scale whose inverse is no number leaves the codes of zero") {
  float x[32] = {127 * 0x1p-140f, -8 * 0x1p-140f};
  for (const auto code : quantize_q8_0(x, 32).q) CHECK(code == 0);
  for (const auto codes : quantize_q4_0(x, 32).q) CHECK(codes == 0x88);
}

TEST_CASE("arrays of any shape and type become blocks and come back") {
  for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::nf4}) {
    const auto empty = convert_array(frozen_array(tensor<float, 2>({3, 0})), type);
    CHECK((empty.bytes().empty() && convert_array(empty, dtype::f32).size() == 0));
    const auto cube = convert_array(frozen_array(test::random_tensor<double, 3>({2, 3, 40}, 1)), type);
    CHECK(cube.bytes().size() == static_cast<std::size_t>(6 * row_bytes(type, 40)));
    const auto half = convert_array(cube, dtype::f16);
    CHECK(half.type() == dtype::f16);
    CHECK(test::near(half.to_tensor<float, 3>().view(), cube.to_tensor<float, 3>().view(), 0x1p-11));
  }
}
