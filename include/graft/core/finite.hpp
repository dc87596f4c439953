// SPDX-License-Identifier: Apache-2.0
// Whether bytes hold numbers that are all finite. Read next: io/checkpoint.hpp, fed/server.hpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "graft/core/dtype.hpp"
#include "graft/core/extents.hpp"

namespace graft {

namespace detail {

// The exponent field alone decides. Blocks are searched without a branch; only one that holds a hit is looked at again.
template <class Word>
index_t first_with_exponent(std::span<const std::byte> bytes, Word exponent) {
  constexpr std::size_t block = 4096;
  const std::size_t n = bytes.size() / sizeof(Word);
  const auto word = [&](std::size_t i) {
    Word w;
    std::memcpy(&w, bytes.data() + i * sizeof(Word), sizeof(Word));
    return w;
  };
  for (std::size_t first = 0; first < n; first += block) {
    const std::size_t last = n - first < block ? n : first + block;
    Word found = 0;
    for (std::size_t i = first; i < last; ++i) found = static_cast<Word>(found | static_cast<Word>((word(i) & exponent) == exponent));
    if (found != 0)
      for (std::size_t i = first; i < last; ++i)
        if ((word(i) & exponent) == exponent) return static_cast<index_t>(i);
  }
  return -1;
}

// Blocks hold such numbers when their scale, the word they begin with, is one.
template <class Word>
index_t first_block_with_exponent(std::span<const std::byte> bytes, block_layout b, Word exponent) {
  const auto size = static_cast<std::size_t>(b.bytes);
  for (std::size_t i = 0; (i + 1) * size <= bytes.size(); ++i) {
    Word w;
    std::memcpy(&w, bytes.data() + i * size, sizeof(Word));
    if ((w & exponent) == exponent) return static_cast<index_t>(i) * b.count;
  }
  return -1;
}

}  // namespace detail

/// The number of the first element that is NaN or infinite; -1 when there is none, as in any array of integers. In block
/// formats the first of its block, and the zeros that fill rows up are counted.
inline index_t first_not_finite(dtype type, std::span<const std::byte> bytes) {
  switch (type) {
    case dtype::f64: return detail::first_with_exponent<std::uint64_t>(bytes, 0x7ff0000000000000u);
    case dtype::f32: return detail::first_with_exponent<std::uint32_t>(bytes, 0x7f800000u);
    case dtype::bf16: return detail::first_with_exponent<std::uint16_t>(bytes, 0x7f80);
    case dtype::f16: return detail::first_with_exponent<std::uint16_t>(bytes, 0x7c00);
    case dtype::q8_0: case dtype::q4_0: return detail::first_block_with_exponent<std::uint16_t>(bytes, layout_of(type), 0x7c00);
    case dtype::nf4: return detail::first_block_with_exponent<std::uint32_t>(bytes, layout_of(type), 0x7f800000u);
    default: return -1;
  }
}

}  // namespace graft
