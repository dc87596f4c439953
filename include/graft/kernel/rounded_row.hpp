// SPDX-License-Identifier: Apache-2.0
// Rows rounded to 16-bit integers, 32 values with a scale of their own: what meets weights in blocks where a context asks for it.
// Read next: kernel/dot.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "graft/core/context.hpp"
#include "graft/core/tensor.hpp"
#include "graft/simd/int16.hpp"

namespace graft::kernel::detail {

/// Value k of a row is values[k] * scales[k / 32], to 1 / 65534 of the largest of its 32.
struct rounded_row {
  static constexpr index_t block = 32;
  const std::int16_t* values;
  const float* scales;
};

/// Rows of floats, rounded. A value that is not finite makes its block's scale so.
template <class Arch>
class rounded_rows_of {
 public:
  rounded_rows_of(context& ctx, tensor_view<const float, 2> x)
      : blocks_((x.shape[1] + size - 1) / size),
        values_(ctx.pool().take(static_cast<std::size_t>(x.shape[0] * blocks_ * size) * sizeof(std::int16_t))),
        scales_(ctx.pool().take(static_cast<std::size_t>(x.shape[0] * blocks_) * sizeof(float))) {
    for (index_t r = 0; r < x.shape[0]; ++r)
      for (index_t b = 0; b < blocks_; ++b) scales(r)[b] = round(x.data + r * x.stride[0] + b * size, x.shape[1] - b * size, values(r) + b * size);
  }
  rounded_row operator()(index_t r) const noexcept { return {values(r), scales(r)}; }

 private:
  static constexpr index_t size = rounded_row::block;
  using batch = simd::batch<float, Arch>;

  std::int16_t* values(index_t r) const noexcept { return reinterpret_cast<std::int16_t*>(values_.data()) + r * blocks_ * size; }
  float* scales(index_t r) const noexcept { return reinterpret_cast<float*>(scales_.data()) + r * blocks_; }

  /// A block of which `left` values are there, the others being zeros. Returns its scale.
  static float round(const float* x, index_t left, std::int16_t* to) {
    constexpr index_t w = simd::width<float, Arch>, vectors = size / w;
    const batch zero(0.0f);
    batch part[vectors], most = zero, spoilt = zero;  // spoilt: 0, or not a number
    for (index_t i = 0; i < vectors; ++i) {
      const index_t lanes = std::clamp<index_t>(left - i * w, 0, w);
      part[i] = lanes == 0 ? zero : simd::load_first<float, Arch>(x + i * w, lanes);
      most = simd::max(most, simd::max(part[i], zero - part[i]));
      spoilt = simd::fma(part[i], zero, spoilt);
    }
    const float scale = simd::maximum(most) / 32767 + simd::sum(spoilt);
    const batch by(scale >= std::numeric_limits<float>::min() ? 1 / scale : 0.0f);  // what is below 4e-34 becomes 0
    for (index_t i = 0; i < vectors; ++i) simd::store_int16<Arch>(to + i * w, part[i] * by);
    return scale;
  }

  index_t blocks_;
  buffer_handle values_, scales_;
};

}  // namespace graft::kernel::detail
