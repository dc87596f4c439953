// SPDX-License-Identifier: Apache-2.0
// Vectors from block formats: the row decoders of the kernels. A block_pointer is loaded from as a plain pointer is, at
// multiples of the vector width within a row. Read next: core/blocks.hpp for the formats, kernel/panel.hpp for the use.
#pragma once
#include "graft/core/blocks.hpp"
#include "graft/simd/convert.hpp"

namespace graft::simd {

namespace detail {

#if defined(__AVX2__)
/// `width<float>` bytes, each in its own 32-bit lane.
template <class Arch>
GRAFT_INLINE auto load_codes(const std::uint8_t* p) noexcept {
#if defined(__AVX512F__)
  if constexpr (width<float, Arch> == 16) return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  else
#endif
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
#endif

/// Whether the instructions named here work on these vectors.
template <class Arch>
inline constexpr bool named_vectors =
#if defined(__AVX512F__)
    is_vector<batch<float, Arch>, float, 64> || is_vector<batch<float, Arch>, float, 32>;
#elif defined(__AVX2__)
    is_vector<batch<float, Arch>, float, 32>;
#else
    false;
#endif

/// What a code in 4 bits stands for, before scaling: an integer from -8 to 7, or a level of NormalFloat. `q` points at the
/// bytes, `high` asks for their upper halves.
template <class B, class Arch>
GRAFT_INLINE batch<float, Arch> decode_nibbles(const std::uint8_t* q, bool high) noexcept {
  using vector = batch<float, Arch>;
  constexpr index_t w = width<float, Arch>;
#if defined(__AVX512F__)
  if constexpr (is_vector<vector, float, 64>) {  // a table of 16 numbers fits a register; its look-up ignores high bits
    const __m512i codes = _mm512_srl_epi32(load_codes<Arch>(q), _mm_cvtsi32_si128(high ? 4 : 0));
    if constexpr (std::same_as<B, nf4_block>) return vector(_mm512_permutexvar_ps(codes, _mm512_load_ps(nf4_levels)));
    else return vector(_mm512_permutexvar_ps(codes, _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7)));
  }
#endif
#if defined(__AVX2__)
  if constexpr (is_vector<vector, float, 32>) {
    const __m256i codes = _mm256_srl_epi32(load_codes<Arch>(q), _mm_cvtsi32_si128(high ? 4 : 0));
    if constexpr (std::same_as<B, nf4_block>) {  // two tables of 8: the fourth bit, moved to the sign, chooses
      const __m256 lower = _mm256_permutevar8x32_ps(_mm256_load_ps(nf4_levels), codes);
      const __m256 upper = _mm256_permutevar8x32_ps(_mm256_load_ps(nf4_levels + 8), codes);
      return vector(_mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28))));
    } else {
      return vector(_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(15)), _mm256_set1_epi32(8))));
    }
  }
#endif
  if constexpr (!named_vectors<Arch>) {
    alignas(64) float lanes[static_cast<std::size_t>(w)];
    for (index_t i = 0; i < w; ++i) {
      const unsigned code = high ? unsigned{q[i]} >> 4 : q[i] & 15u;
      lanes[i] = std::same_as<B, nf4_block> ? nf4_levels[code] : static_cast<float>(code) - 8;
    }
    return vector::load_aligned(lanes);
  }
}

template <class Arch>
GRAFT_INLINE batch<float, Arch> decode_bytes(const std::int8_t* q) noexcept {
  using vector = batch<float, Arch>;
#if defined(__AVX512F__)
  if constexpr (is_vector<vector, float, 64>)
    return vector(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q)))));
#endif
#if defined(__AVX2__)
  if constexpr (is_vector<vector, float, 32>)
    return vector(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q)))));
#endif
  if constexpr (!named_vectors<Arch>) {
    alignas(64) float lanes[static_cast<std::size_t>(width<float, Arch>)];
    for (index_t i = 0; i < width<float, Arch>; ++i) lanes[i] = static_cast<float>(q[i]);
    return vector::load_aligned(lanes);
  }
}

}  // namespace detail

/// What a block's codes are multiplied by, in every lane.
template <class Arch = default_arch>
GRAFT_INLINE batch<float, Arch> scale_of(const nf4_block& b) noexcept { return batch<float, Arch>(b.largest); }
template <class Arch = default_arch, block_format B>
GRAFT_INLINE batch<float, Arch> scale_of(const B& b) noexcept {
#if defined(__F16C__)
  // Four halves from memory, of which the codes behind the scale are ignored: one instruction less than the scale by itself.
  static_assert(offsetof(B, scale) == 0 && sizeof(B) >= 8);
  __m128 four;
  asm("vcvtph2ps %1, %0" : "=x"(four) : "m"(b));
  return batch<float, Arch>(_mm_cvtss_f32(four));
#else
  return batch<float, Arch>(to_float(b.scale));
#endif
}

/// The `width<float>` values from `at` on of a block, `at` a multiple of that, by its scale in every lane.
template <class Arch = default_arch, block_format B>
GRAFT_INLINE batch<float, Arch> decode(const B& b, index_t at, batch<float, Arch> scale) noexcept {
  if constexpr (std::same_as<B, q8_0_block>) return detail::decode_bytes<Arch>(b.q + at) * scale;
  else if constexpr (std::same_as<B, q4_0_block>) return detail::decode_nibbles<B, Arch>(b.q + (at & 15), (at & 16) != 0) * scale;
  else return detail::decode_nibbles<B, Arch>(b.q + (at / 32 * 16 + (at & 15)), (at & 16) != 0) * scale;
}

/// `width<T>` values as T.
template <class T, class Arch = default_arch, class B>
GRAFT_INLINE batch<T, Arch> load_as(block_pointer<B> p) noexcept {
  if constexpr (std::same_as<T, float> && width<float, Arch> <= 16) {
    return decode<Arch>(p.block(), p.offset(), scale_of<Arch>(p.block()));
  } else {
    alignas(64) T lanes[static_cast<std::size_t>(width<T, Arch>)];
    for (index_t i = 0; i < width<T, Arch>; ++i) lanes[i] = convert<T>(p[i]);
    return batch<T, Arch>::load_aligned(lanes);
  }
}

/// The first n < width values as T; the other lanes are zero.
template <class T, class Arch = default_arch, class B>
GRAFT_INLINE batch<T, Arch> load_partial_as(block_pointer<B> p, index_t n) noexcept {
  alignas(64) T lanes[static_cast<std::size_t>(width<T, Arch>)] = {};
  for (index_t i = 0; i < n; ++i) lanes[i] = convert<T>(p[i]);
  return batch<T, Arch>::load_aligned(lanes);
}

/// Asks for the memory of a value, as prefetch does.
template <class B>
GRAFT_INLINE void prefetch(block_pointer<B> p) noexcept { prefetch(&p.block()); }

}  // namespace graft::simd
