// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/rounded_row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/kernels.hpp"

using namespace graft;

namespace {

/// x rounded to blocks and widened again.
tensor<float, 1> there_and_back(context& ctx, const tensor<float, 1>& x) {
  const index_t n = x.size();
  std::vector<kernel::rounded_block> blocks(static_cast<std::size_t>(kernel::rounded_blocks(n)));
  kernel::round_to_blocks<float>(ctx, n, x.data(), blocks.data());
  auto y = tensor<float, 1>::full({n + 1}, 77);
  kernel::values_of_blocks<float>(ctx, n, blocks.data(), y.data());
  CHECK(y(n) == 77);  // nothing behind the last value is written
  tensor<float, 1> values({n});
  std::copy_n(y.data(), n, values.data());
  return values;
}

}  // namespace

TEST_CASE("values in blocks of 16-bit integers move by half a step of the largest of their 32") {
  for (const index_t n : {1, 7, 31, 32, 33, 64, 100, 40000}) {
    auto x = test::random_tensor<float, 1>({n}, 1);
    for (index_t b = 0; b < n; b += 32)  // blocks of every size of numbers
      for (index_t i = b; i < std::min(b + 32, n); ++i) x(i) *= std::ldexp(1.0f, static_cast<int>(b / 32 % 60) - 30);
    const auto y = test::on_any_threads([&](context& ctx) { return there_and_back(ctx, x); });
    double somewhere = 0;
    for (index_t b = 0; b < n; b += 32) {
      double most = 0, moved = 0;
      for (index_t i = b; i < std::min(b + 32, n); ++i) {
        most = std::max(most, std::abs(static_cast<double>(x(i))));
        moved = std::max(moved, std::abs(static_cast<double>(x(i)) - static_cast<double>(y(i))));
      }
      CHECK(moved <= most / 65534 * (1 + 1e-2));  // floats round the scale and the products with it
      somewhere = std::max(somewhere, moved);
    }
    CHECK((n == 1 || somewhere > 0));
  }
}

TEST_CASE("zeros and multiples of the scale stay, what is not finite spoils its block alone") {
  context ctx;
  auto x = tensor<float, 1>::zeros({96});
  CHECK(test::equal_bits(there_and_back(ctx, x), x));
  for (index_t i = 0; i < 32; ++i) x(32 + i) = static_cast<float>(1024 * i), x(64 + i) = 1;
  x(32) = 32767, x(33) = -32767;
  CHECK(test::equal_bits(there_and_back(ctx, x), x));
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    x(40) = bad;
    const auto y = there_and_back(ctx, x);
    for (index_t i = 0; i < 96; ++i) CHECK(std::isfinite(y(i)) == (i < 32 || i >= 64));
  }
}
