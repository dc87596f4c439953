// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding in the half-split convention of the published checkpoints. Read next: ops/attention.hpp.
#pragma once
#include <cstdint>
#include <type_traits>

#include "graft/kernel/norm.hpp"

namespace graft::kernel {

namespace detail {

/// +sign in the lanes of the upper halves of heads, -sign in those of the lower.
template <index_t Half, class T, class Arch>
simd::batch<T, Arch> signs_of_halves(T sign) {
  T signs[static_cast<std::size_t>(simd::width<T, Arch>)];
  for (index_t l = 0; l < simd::width<T, Arch>; ++l) signs[l] = (l & Half) != 0 ? sign : -sign;
  return simd::load<T, Arch>(signs);
}

/// One row whose heads, of 2 Half channels, fill a vector or a part of one: the halves of a head meet by an exchange of lanes.
template <index_t Half, class T, class Arch>
void rotate_narrow_row(index_t columns, const T* x, const T* cosine, const T* sine, simd::batch<T, Arch> signs, T* y, T beta) {
  using batch = simd::batch<T, Arch>;
  constexpr auto half = static_cast<std::size_t>(Half);
  const batch c = simd::repeat<half>(simd::load_partial<T, Arch>(cosine, Half)), keep(beta);
  const batch s = simd::repeat<half>(simd::load_partial<T, Arch>(sine, Half)) * signs;
  for_each_vector<T, Arch>(columns, [&](index_t j, index_t lanes) GRAFT_INLINED {
    const batch v = simd::load_first<T, Arch>(x + j, lanes);
    batch turned = simd::fma(v, c, simd::exchange<half>(v) * s);
    if (beta != T(0)) turned = simd::fma(keep, simd::load_first<T, Arch>(y + j, lanes), turned);
    simd::store_first(y + j, turned, lanes);
  });
}

/// One head of 2 `half` channels.
template <class T, class Arch>
GRAFT_INLINE void rotate_wide_head(index_t half, const T* x, const T* cosine, const T* sine, T sign, T* y, T beta) {
  using batch = simd::batch<T, Arch>;
  const batch keep(beta);
  for_each_vector<T, Arch>(half, [&](index_t i, index_t lanes) GRAFT_INLINED {
    const batch a = simd::load_first<T, Arch>(x + i, lanes), b = simd::load_first<T, Arch>(x + half + i, lanes);
    const batch c = simd::load_first<T, Arch>(cosine + i, lanes), s = batch(sign) * simd::load_first<T, Arch>(sine + i, lanes);
    batch low = a * c - b * s, high = b * c + a * s;
    if (beta != T(0)) {
      low = simd::fma(keep, simd::load_first<T, Arch>(y + i, lanes), low);
      high = simd::fma(keep, simd::load_first<T, Arch>(y + half + i, lanes), high);
    }
    simd::store_first(y + i, low, lanes);
    simd::store_first(y + half + i, high, lanes);
  });
}

}  // namespace detail

/// For every head: (a, b) -> (a cos - b sin, b cos + a sin), a and b the halves of the head, the angle of pair i at
/// position p being row p of the tables. With inverse, the angles are negated: that is the backward pass.
/// Shapes: x, y (N, H * D) contiguous, positions (N), cosine and sine (P, D / 2). y may be x; y = result + beta y.
template <class T, class Arch = simd::default_arch>
void rotate_positions(context& ctx, index_t rows, index_t heads, index_t head_size, const T* x, const std::int32_t* positions,
                      const T* cosine, const T* sine, bool inverse, T* y, T beta) {
  const index_t half = head_size / 2, columns = heads * head_size;
  const T sign = inverse ? T(-1) : T(1);
  const auto each_row = [&](auto rotate) {
    ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
      for (index_t n = first; n < last; ++n) rotate(x + n * columns, cosine + positions[n] * half, sine + positions[n] * half, y + n * columns);
    });
  };
  const auto each_narrow_row = [&]<index_t Half>(std::integral_constant<index_t, Half>) {
    each_row([&, signs = detail::signs_of_halves<Half, T, Arch>(sign)](const T* from, const T* c, const T* s, T* to) {
      detail::rotate_narrow_row<Half, T, Arch>(columns, from, c, s, signs, to, beta);
    });
  };
  if constexpr (simd::width<T, Arch> >= 8)
    if (half == 4) return each_narrow_row(std::integral_constant<index_t, 4>{});
  if constexpr (simd::width<T, Arch> >= 16)
    if (half == 8) return each_narrow_row(std::integral_constant<index_t, 8>{});
  each_row([&](const T* from, const T* c, const T* s, T* to) {
    for (index_t h = 0; h < heads; ++h) detail::rotate_wide_head<T, Arch>(half, from + h * head_size, c, s, sign, to + h * head_size, beta);
  });
}

}  // namespace graft::kernel
