// SPDX-License-Identifier: Apache-2.0
// Numbers into the block formats, rounded as the programs that defined them do; arrays from any type into any other.
// Read next: nn/storage.hpp.
#pragma once
#include <algorithm>
#include <limits>
#include <memory>

#include "graft/core/blocks.hpp"
#include "graft/core/frozen_array.hpp"

namespace graft {

namespace detail {

/// The number of largest magnitude, with its sign, the first where several are; NaN when one is not finite.
inline float extreme(const float* x, index_t n) noexcept {
  float most = 0, size = 0;
  for (index_t i = 0; i < n; ++i) {
    const float a = __builtin_fabsf(x[i]);
    if (!(a <= std::numeric_limits<float>::max())) return std::numeric_limits<float>::quiet_NaN();
    if (a > size) size = a, most = x[i];
  }
  return most;
}

/// 1 / d; 0 where that would leave the range of float, as d itself does in half precision.
inline float inverse(float d) noexcept { return __builtin_fabsf(d) >= std::numeric_limits<float>::min() ? 1 / d : 0; }

/// x * y rounded to float, whatever the compiler fuses: through double, where the product is exact.
inline float product(float x, float y) noexcept { return static_cast<float>(static_cast<double>(x) * static_cast<double>(y)); }

/// Of the level nearest to x in [-1, 1]; of two as near, the lower.
inline std::uint8_t nearest_nf4(float x) noexcept {
  unsigned low = 0;
  for (unsigned step = 8; step != 0; step /= 2)
    if (x > 0.5f * (nf4_levels[low + step - 1] + nf4_levels[low + step])) low += step;
  return static_cast<std::uint8_t>(low);
}

/// Writes the code of value i, whose place holds zero.
inline void put_nibble(std::uint8_t* q, index_t i, unsigned code) noexcept {
  const nibble_place at = place_of_nibble(i);
  q[at.byte] = static_cast<std::uint8_t>(q[at.byte] | code << at.shift);
}

}  // namespace detail

/// The first n <= 32 values into a block, the others zero. scale = largest magnitude / 127; codes round half away from
/// zero, with the scale before its own rounding. Of numbers that are not finite comes a block of NaN.
inline q8_0_block quantize_q8_0(const float* x, index_t n) noexcept {
  q8_0_block b{};
  const float scale = __builtin_fabsf(detail::extreme(x, n)) / 127, inverse = detail::inverse(scale);
  b.scale = to_f16(scale);
  for (index_t i = 0; i < n && inverse != 0; ++i) b.q[i] = static_cast<std::int8_t>(__builtin_roundf(detail::product(x[i], inverse)));
  return b;
}

/// The same into 4 bits: scale = the number of largest magnitude / -8, so that it gets code 0 and the value exactly (but
/// for the scale's own rounding); codes round to nearest, at most 15.
inline q4_0_block quantize_q4_0(const float* x, index_t n) noexcept {
  q4_0_block b{};
  const float scale = detail::extreme(x, n) / -8, inverse = detail::inverse(scale);
  b.scale = to_f16(scale);
  for (index_t i = 0; i < q4_0_block::count; ++i) {
    const float v = i < n && inverse != 0 ? detail::product(x[i], inverse) + 8.5f : 8.5f;
    detail::put_nibble(b.q, i, static_cast<unsigned>(v < 15 ? v : 15.0f));
  }
  return b;
}

/// The first n <= 64 values into a block: each divided by the largest magnitude, then the nearest of nf4_levels.
inline nf4_block quantize_nf4(const float* x, index_t n) noexcept {
  nf4_block b{};
  b.largest = __builtin_fabsf(detail::extreme(x, n));
  for (index_t i = 0; i < nf4_block::count; ++i)
    detail::put_nibble(b.q, i, detail::nearest_nf4(i < n && b.largest > 0 ? x[i] / b.largest : 0.0f));
  return b;
}

template <block_format B>
B quantize(const float* x, index_t n) noexcept {
  if constexpr (std::same_as<B, q8_0_block>) return quantize_q8_0(x, n);
  else if constexpr (std::same_as<B, q4_0_block>) return quantize_q4_0(x, n);
  else return quantize_nf4(x, n);
}

namespace detail {

/// The rows of an array into blocks, by way of float.
template <block_format B>
void quantize_rows(const frozen_array& a, B* to) {
  const index_t columns = a.shape().empty() ? 1 : a.shape().back(), rows = columns == 0 ? 0 : a.size() / columns;
  const index_t step = row_bytes(a.type(), columns);
  tensor<float, 1> row({columns});
  for (index_t r = 0; r < rows; ++r) {
    convert_array(a.type(), std::span(&columns, 1), a.bytes().data() + r * step, row.data());
    for (index_t k = 0; k < columns; k += B::count) *to++ = quantize<B>(row.data() + k, std::min(columns - k, B::count));
  }
}

}  // namespace detail

/// A copy of an array in another type, each value rounded once; into block formats by way of float, rows filled up with zeros
/// to whole blocks. A number that is not finite makes its block NaN. Throws shape_error when it would be too large.
inline frozen_array convert_array(const frozen_array& a, dtype to) {
  const auto size = static_cast<index_t>(checked_bytes(to, a.shape()));
  auto bytes = std::make_shared<tensor<std::byte, 1>>(extents<1>{size});
  const auto into_blocks = [&]<class B>(B*) { detail::quantize_rows(a, reinterpret_cast<B*>(bytes->data())); };
  const auto into_elements = [&]<class E>(E*) {
    convert_array(a.type(), a.shape(), a.bytes().data(), reinterpret_cast<E*>(bytes->data()));
  };
  if (is_block_format(to)) visit_blocks(to, into_blocks);
  else visit_dtype(to, into_elements);
  return {to, a.shape(), bytes->data(), bytes};
}

}  // namespace graft
