// SPDX-License-Identifier: Apache-2.0
// Numbers rounded to 16-bit integers, and inner products of a block's codes with them: exact sums of four products and more in one
// instruction or two. Read next: kernel/rounded_row.hpp, kernel/dot.hpp.
#pragma once
#include <cmath>

#include "graft/simd/blocks.hpp"

namespace graft::simd {

/// Whether this instruction set multiplies vectors of 16-bit integers and adds neighbours, and the codes of this format are integers.
template <class B, class Arch>
inline constexpr bool multiplies_int16 = (std::same_as<B, q8_0_block> || std::same_as<B, q4_0_block>)&&
#if defined(__AVX512BW__) || !defined(__AVX512F__)
                                         detail::named_vectors<Arch>;
#else
                                         detail::is_vector<batch<float, Arch>, float, 32>;
#endif

#if defined(__AVX2__)

/// The 32 codes of a block in 16-bit lanes of two vectors.
struct int16_halves {
  __m256i first, second;
};

GRAFT_INLINE __m128i sixteen_bytes(const void* p) noexcept { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

/// The 32 codes of a block as 16-bit integers, in one vector or two halves. Halves are widened as they are loaded: taking a loaded vector
/// apart took 1.6 times as long (Zen 3).
template <class Arch>
GRAFT_INLINE auto int16_codes(const q8_0_block& b) noexcept {
#if defined(__AVX512BW__)
  if constexpr (width<float, Arch> == 16) return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b.q)));
  else
#endif
    return int16_halves{_mm256_cvtepi8_epi16(sixteen_bytes(b.q)), _mm256_cvtepi8_epi16(sixteen_bytes(b.q + 16))};
}
template <class Arch>
GRAFT_INLINE auto int16_codes(const q4_0_block& b) noexcept {
#if defined(__AVX512BW__)
  if constexpr (width<float, Arch> == 16) {
    const __m256i twice = _mm256_broadcastsi128_si256(sixteen_bytes(b.q));
    const __m256i nibbles = _mm256_and_si256(_mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 0, 4, 4)), _mm256_set1_epi8(15));
    return _mm512_cvtepi8_epi16(_mm256_sub_epi8(nibbles, _mm256_set1_epi8(8)));
  } else
#endif
  {
    const __m256i pairs = _mm256_cvtepu8_epi16(sixteen_bytes(b.q)), eight = _mm256_set1_epi16(8);
    return int16_halves{_mm256_sub_epi16(_mm256_and_si256(pairs, _mm256_set1_epi16(15)), eight), _mm256_sub_epi16(_mm256_srli_epi16(pairs, 4), eight)};
  }
}

/// Sums of products of the codes with 32 numbers x, spread over the lanes: exact, and then floats.
template <class Arch>
GRAFT_INLINE batch<float, Arch> inner_products(int16_halves codes, const std::int16_t* x) noexcept {
  const auto part = [](__m256i c, const std::int16_t* at) { return _mm256_madd_epi16(c, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))); };
  return batch<float, Arch>(_mm256_cvtepi32_ps(_mm256_add_epi32(part(codes.first, x), part(codes.second, x + 16))));
}

#else

struct int16_halves {};
template <class Arch, class B>
int16_halves int16_codes(const B&) = delete;
template <class Arch>
batch<float, Arch> inner_products(int16_halves, const std::int16_t*) = delete;

#endif

/// The lanes of v, at most 32767 in size, rounded to the nearest.
template <class Arch>
GRAFT_INLINE void store_int16(std::int16_t* to, batch<float, Arch> v) noexcept {
#if defined(__AVX512F__)
  if constexpr (detail::is_vector<batch<float, Arch>, float, 64>)
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(v)));
#endif
#if defined(__AVX2__)
  if constexpr (detail::is_vector<batch<float, Arch>, float, 32>) {
    const __m256i wide = _mm256_cvtps_epi32(v);
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
  }
#endif
  alignas(64) float lanes[static_cast<std::size_t>(width<float, Arch>)];
  v.store_aligned(lanes);
  for (index_t i = 0; i < width<float, Arch>; ++i) to[i] = static_cast<std::int16_t>(std::lrint(lanes[i]));
}

/// A vector of them as floats.
template <class Arch>
GRAFT_INLINE batch<float, Arch> load_int16(const std::int16_t* from) noexcept {
#if defined(__AVX512F__)
  if constexpr (detail::is_vector<batch<float, Arch>, float, 64>)
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#endif
#if defined(__AVX2__)
  if constexpr (detail::is_vector<batch<float, Arch>, float, 32>)
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#endif
  alignas(64) float lanes[static_cast<std::size_t>(width<float, Arch>)];
  for (index_t i = 0; i < width<float, Arch>; ++i) lanes[i] = from[i];
  return batch<float, Arch>::load_aligned(lanes);
}

#if defined(__AVX512BW__)

template <class Arch>
GRAFT_INLINE batch<float, Arch> inner_products(__m512i codes, const std::int16_t* x) noexcept {
  return batch<float, Arch>(_mm512_cvtepi32_ps(_mm512_madd_epi16(codes, _mm512_loadu_si512(x))));
}

#endif

}  // namespace graft::simd
