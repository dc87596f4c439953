// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding in the half-split convention of the published checkpoints. Read next: ops/attention.hpp.
#pragma once
#include <cstdint>
#include <span>

#include "graft/kernel/norm.hpp"

namespace graft::kernel {

namespace detail {

/// One row whose heads, of 2 Half channels, fill a vector or a part of one: the halves of a head meet by an exchange of lanes.
template <index_t Half, class T, class Arch>
void rotate_narrow_row(index_t columns, const T* x, const T* cosine, const T* sine, T sign, T* y, T beta) {
  using batch = simd::batch<T, Arch>;
  constexpr index_t w = simd::width<T, Arch>;
  alignas(64) T c[static_cast<std::size_t>(w)], s[static_cast<std::size_t>(w)];
  for (index_t l = 0; l < w; ++l) {
    c[l] = cosine[l % Half];
    s[l] = ((l & Half) != 0 ? sign : -sign) * sine[l % Half];
  }
  const batch cv = simd::load<T, Arch>(c), sv = simd::load<T, Arch>(s), keep(beta);
  for_each_vector<T, Arch>(columns, [&](index_t j, index_t lanes) GRAFT_INLINED {
    const batch v = simd::load_first<T, Arch>(x + j, lanes);
    batch turned = simd::fma(v, cv, simd::exchange<static_cast<std::size_t>(Half)>(v) * sv);
    if (beta != T(0)) turned = simd::fma(keep, simd::load_first<T, Arch>(y + j, lanes), turned);
    simd::store_first(y + j, turned, lanes);
  });
}

}  // namespace detail

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
      if constexpr (simd::width<T, Arch> >= 8)
        if (half == 4) {
          detail::rotate_narrow_row<4, T, Arch>(columns, x + n * columns, c, s, inverse ? T(-1) : T(1), y + n * columns, beta);
          continue;
        }
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
