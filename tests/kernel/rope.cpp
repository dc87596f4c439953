// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/rope.hpp"

#include <cmath>

#include "support/kernels.hpp"

using namespace graft;

TEMPLATE_TEST_CASE("pairs of a head's halves are turned by the angle of their position, and back", "", float, double) {
  using T = TestType;
  constexpr index_t heads = 3, positions = 11;
  auto halves = test::sizes_around_width<T>();
  halves.insert(halves.end(), {4, 8});  // heads of a vector or a part of it
  for (const index_t half : halves) {
    const index_t size = 2 * half, n = test::rows_for_threads(heads * size);
    const auto angle = test::random_tensor<double, 2>({positions, half}, 1);
    const auto cosine = test::filled<T>(positions, half, [&](index_t p, index_t i) { return std::cos(9 * angle(p, i)); });
    const auto sine = test::filled<T>(positions, half, [&](index_t p, index_t i) { return std::sin(9 * angle(p, i)); });
    const auto x = test::random_tensor<T, 2>({n, heads * size}, 2), start = test::random_tensor<T, 2>({n, heads * size}, 3);
    std::vector<std::int32_t> at;
    for (index_t r = 0; r < n; ++r) at.push_back(static_cast<std::int32_t>((r * 5) % positions));
    INFO("half a head " << half);
    for (const bool inverse : {false, true})
      for (const T beta : {T(0), T(0.5)}) {
        const auto y = test::on_any_threads([&](context& ctx) {
          auto out = start.clone();
          kernel::rotate_positions<T>(ctx, n, heads, size, x.data(), at.data(), cosine.data(), sine.data(), inverse, out.data(), beta);
          return out;
        });
        const auto expected = test::filled<double>(n, heads * size, [&](index_t r, index_t column) {
          const index_t i = column % size % half, first = column - column % size + i;
          const double a = static_cast<double>(x(r, first)), b = static_cast<double>(x(r, first + half));
          const auto p = at[static_cast<std::size_t>(r)];
          const double c = static_cast<double>(cosine(p, i)), s = (inverse ? -1 : 1) * static_cast<double>(sine(p, i));
          return (column % size < half ? a * c - b * s : b * c + a * s) + static_cast<double>(beta) * static_cast<double>(start(r, column));
        });
        CHECK(test::near(y, expected, test::tolerance<T>(3)));
      }
    context ctx;
    auto turned = x.clone();  // in place, there and back
    kernel::rotate_positions<T>(ctx, n, heads, size, turned.data(), at.data(), cosine.data(), sine.data(), false, turned.data(), T(0));
    CHECK_FALSE(test::near(turned, x, 0.01));
    kernel::rotate_positions<T>(ctx, n, heads, size, turned.data(), at.data(), cosine.data(), sine.data(), true, turned.data(), T(0));
    CHECK(test::near(turned, x, 2 * test::tolerance<T>(3)));
  }
}
