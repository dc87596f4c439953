// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding in the half-split convention of the published checkpoints. Read next: ops/attention.hpp.
#pragma once
#include <cstdint>
#include <span>

#include "graft/kernel/norm.hpp"

namespace graft::kernel {

/// For every head: (a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of the head, the angle of pair i at
/// position p being row p of the tables. With inverse, the angles are negated: that is the backward pass.
/// Shapes: x, y (N, H * D) contiguous, positions (N), cosine and sine (P, D / 2). y may be x; y = result + beta y.
template <class T, class Arch = simd::default_arch>
void rotate_positions(context& ctx, index_t rows, index_t heads, index_t head_size, const T* x, const std::int32_t* positions,
                      const T* cosine, const T* sine, bool inverse, T* y, T beta) {
  using batch = simd::batch<T, Arch>;
  const index_t half = head_size / 2, columns = heads * head_size;
  const batch sign(inverse ? T(-1) : T(1)), keep(beta);
  ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
    for (index_t n = first; n < last; ++n) {
      const T *c = cosine + positions[n] * half, *s = sine + positions[n] * half;
      for (index_t h = 0; h < heads; ++h) {
        const T* from = x + n * columns + h * head_size;
        T* to = y + n * columns + h * head_size;
        detail::for_each_vector<T, Arch>(half, [&](index_t i, index_t lanes) {
          const batch a = simd::load_first<T, Arch>(from + i, lanes), b = simd::load_first<T, Arch>(from + half + i, lanes);
          const batch cv = simd::load_first<T, Arch>(c + i, lanes), sv = sign * simd::load_first<T, Arch>(s + i, lanes);
          batch low = a * cv - b * sv, high = b * cv + a * sv;
          if (beta != T(0)) {
            low = simd::fma(keep, simd::load_first<T, Arch>(to + i, lanes), low);
            high = simd::fma(keep, simd::load_first<T, Arch>(to + half + i, lanes), high);
          }
          simd::store_first(to + i, low, lanes);
          simd::store_first(to + half + i, high, lanes);
        });
      }
    }
  });
}

}  // namespace graft::kernel
