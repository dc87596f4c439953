// SPDX-License-Identifier: Apache-2.0
// Values rounded to 16-bit integers, 32 with a scale of their own: rows that meet weights in blocks where a context asks for it, and what a
// tape keeps for its backward pass where a context asks for that. Read next: kernel/dot.hpp, autograd/tape.hpp.
#pragma once
#include <algorithm>
#include <concepts>
#include <cstdint>
#include <limits>

#include "graft/core/context.hpp"
#include "graft/core/tensor.hpp"
#include "graft/simd/int16.hpp"

namespace graft::kernel {
namespace detail {

inline constexpr index_t values_a_scale = 32;

/// Rounds 32 values. Returns their scale; a value that is not finite makes it so.
template <class Arch>
GRAFT_INLINE float round_values(const float* x, std::int16_t* to) {
  using batch = simd::batch<float, Arch>;
  constexpr index_t w = simd::width<float, Arch>, vectors = values_a_scale / w;
  const batch zero(0.0f);
  batch part[vectors], most = zero, spoilt = zero;  // spoilt: 0, or not a number
  GRAFT_UNROLL
  for (index_t i = 0; i < vectors; ++i) {
    part[i] = simd::load<float, Arch>(x + i * w);
    most = simd::max(most, simd::abs(part[i]));
    spoilt = simd::fma(part[i], zero, spoilt);
  }
  const float largest = simd::maximum(most), scale = simd::has_nan(spoilt) ? std::numeric_limits<float>::quiet_NaN() : largest / 32767;
  const batch by(scale >= std::numeric_limits<float>::min() ? 32767 / largest : 0.0f);  // what is below 4e-34 becomes 0
  GRAFT_UNROLL
  for (index_t i = 0; i < vectors; ++i) simd::store_int16<Arch>(to + i * w, part[i] * by);
  return scale;
}

/// The same for the first `left` of them; the others are taken as zeros.
template <class Arch>
GRAFT_INLINE float round_values(const float* x, index_t left, std::int16_t* to) {
  if (left >= values_a_scale) return round_values<Arch>(x, to);
  float padded[values_a_scale] = {};
  std::copy_n(x, left, padded);
  return round_values<Arch>(padded, to);
}

/// Value k of a row is values[k] * scales[k / 32], to 1 / 65534 of the largest of its 32.
struct rounded_row {
  static constexpr index_t block = values_a_scale;
  const std::int16_t* values;
  const float* scales;
};

/// Rows of floats, rounded.
template <class Arch>
class rounded_rows_of {
 public:
  rounded_rows_of(context& ctx, tensor_view<const float, 2> x)
      : blocks_((x.shape[1] + size - 1) / size),
        values_(ctx.pool().take(static_cast<std::size_t>(x.shape[0] * blocks_ * size) * sizeof(std::int16_t))),
        scales_(ctx.pool().take(static_cast<std::size_t>(x.shape[0] * blocks_) * sizeof(float))) {
    for (index_t r = 0; r < x.shape[0]; ++r)
      for (index_t b = 0; b < blocks_; ++b)
        scales(r)[b] = round_values<Arch>(x.data + r * x.stride[0] + b * size, x.shape[1] - b * size, values(r) + b * size);
  }
  rounded_row operator()(index_t r) const noexcept { return {values(r), scales(r)}; }

 private:
  static constexpr index_t size = values_a_scale;

  std::int16_t* values(index_t r) const noexcept { return reinterpret_cast<std::int16_t*>(values_.data()) + r * blocks_ * size; }
  float* scales(index_t r) const noexcept { return reinterpret_cast<float*>(scales_.data()) + r * blocks_; }

  index_t blocks_;
  buffer_handle values_, scales_;
};

}  // namespace detail

/// 32 values of an array: values[i] * scale.
struct rounded_block {
  float scale;
  std::int16_t values[detail::values_a_scale];
};
constexpr index_t rounded_blocks(index_t n) noexcept { return (n + detail::values_a_scale - 1) / detail::values_a_scale; }

namespace detail {
inline constexpr index_t rounding_grain = 512;  // blocks
}

/// Rounds n values to rounded_blocks(n) blocks. A value that is not finite makes all of its block so. Cost: reads 4 bytes a value, writes 2.1.
template <class T, class Arch = simd::default_arch>
void round_to_blocks(context& ctx, index_t n, const T* x, rounded_block* to) {
  static_assert(std::same_as<T, float>);
  constexpr index_t size = detail::values_a_scale;
  ctx.executor().parallel_for(rounded_blocks(n), detail::rounding_grain, [&](index_t first, index_t last) {
    for (index_t b = first; b < last; ++b) to[b].scale = detail::round_values<Arch>(x + b * size, n - b * size, to[b].values);
  });
}

/// The n values that blocks hold.
template <class T, class Arch = simd::default_arch>
void values_of_blocks(context& ctx, index_t n, const rounded_block* from, T* x) {
  static_assert(std::same_as<T, float>);
  using batch = simd::batch<float, Arch>;
  constexpr index_t size = detail::values_a_scale, w = simd::width<float, Arch>;
  ctx.executor().parallel_for(rounded_blocks(n), detail::rounding_grain, [&](index_t first, index_t last) {
    for (index_t b = first; b < last; ++b) {
      const batch scale(from[b].scale);
      const auto value = [scale, values = from[b].values](index_t i) GRAFT_INLINED { return simd::load_int16<Arch>(values + i) * scale; };
      float* const to = x + b * size;
      const index_t left = std::min(size, n - b * size);
      if (left == size) {
        GRAFT_UNROLL
        for (index_t i = 0; i < size; i += w) simd::store(to + i, value(i));
      } else {
        for (index_t i = 0; i < left; i += w) simd::store_first(to + i, value(i), std::min(w, left - i));
      }
    }
  });
}

}  // namespace graft::kernel
