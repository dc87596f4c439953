// SPDX-License-Identifier: Apache-2.0
// What every kernel is tried with: sizes around the vector width, and several numbers of threads.
#pragma once
#include <vector>

#include "graft/core/context.hpp"
#include "graft/core/thread_pool.hpp"
#include "graft/simd/simd.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

namespace graft::test {

/// Sizes with no whole vector, with nothing left over, and with a rest of one and more.
template <class T>
std::vector<index_t> sizes_around_width() {
  constexpr index_t w = simd::width<T>;
  return {1, w - 1, w, w + 1, 3 * w + 2};
}

/// So many rows that three threads get some each, however short the rows.
inline index_t rows_for_threads(index_t columns) { return 3 * (1 + 8192 / (columns + 1)) + 1; }

/// f(context) -> tensor, on one thread; on two and three it must give the same bits.
template <class F>
auto on_any_threads(F f) {
  context serial;
  auto expected = f(serial);
  for (const index_t threads : {2, 3}) {
    thread_pool pool(threads);
    context ctx(pool);
    CHECK(equal_bits(f(ctx), expected));
  }
  return expected;
}

/// A tensor filled by f(n, c) in double.
template <class T, class F>
tensor<T, 2> filled(index_t rows, index_t columns, F f) {
  tensor<T, 2> t({rows, columns});
  for (index_t n = 0; n < rows; ++n)
    for (index_t c = 0; c < columns; ++c) t(n, c) = static_cast<T>(f(n, c));
  return t;
}

/// The sum of f(i) over i < n, in double.
template <class F>
double plain_sum(index_t n, F f) {
  double s = 0;
  for (index_t i = 0; i < n; ++i) s += static_cast<double>(f(i));
  return s;
}

}  // namespace graft::test
