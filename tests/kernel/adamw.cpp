// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/adamw.hpp"

#include <cmath>

#include "support/kernels.hpp"

using namespace graft;

TEMPLATE_TEST_CASE("an AdamW pass follows its formula and touches nothing behind its end", "", float, double) {
  using T = TestType;
  const kernel::adamw_step step{.rate = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-4, .root_scale = 1.25, .shrink = 0.99};
  auto sizes = test::sizes_around_width<T>();
  sizes.push_back(3 * kernel::map_grain + 5);
  for (const index_t n : sizes) {
    const auto g = test::random_tensor<T, 1>({n}, 1);
    auto start = test::random_tensor<T, 2>({3, n + 1}, 2);  // rows: w, m, v
    for (index_t i = 0; i <= n; ++i) start(2, i) = std::abs(start(2, i));
    const auto after = test::on_any_threads([&](context& ctx) {
      auto s = start.clone();
      kernel::adamw<T>(ctx, n, &s(0, 0), g.data(), &s(1, 0), &s(2, 0), step);
      return s;
    });
    auto expected = test::filled<double>(3, n + 1, [&](index_t r, index_t i) { return start(r, i); });
    for (index_t i = 0; i < n; ++i) {
      const double gi = static_cast<double>(g(i));
      expected(1, i) = step.beta1 * expected(1, i) + (1 - step.beta1) * gi;
      expected(2, i) = step.beta2 * expected(2, i) + (1 - step.beta2) * gi * gi;
      expected(0, i) = step.shrink * expected(0, i) - step.rate * expected(1, i) / (step.root_scale * std::sqrt(expected(2, i)) + step.eps);
    }
    INFO("elements " << n);
    CHECK(test::near(after, expected, test::tolerance<T>(8)));
    for (index_t r = 0; r < 3; ++r) CHECK(after(r, n) == start(r, n));
  }
}
