// SPDX-License-Identifier: Apache-2.0
// Loads that widen a storage type to the compute type on the way. Read next: kernel/panel.hpp.
#pragma once
#include <cstdint>
#include <cstring>

#include "graft/core/dtype.hpp"
#include "graft/simd/simd.hpp"

namespace graft::simd {

namespace detail {

template <class U, index_t N>
struct raw_vector {
  typedef U type __attribute__((vector_size(sizeof(U) * static_cast<std::size_t>(N))));
};

/// N 16-bit words, widened to 32 bits. Where one instruction does that it is named: compilers take halves and join them.
template <index_t N>
GRAFT_INLINE auto load_words(const void* p) noexcept {
  using wide = typename raw_vector<std::uint32_t, N>::type;
#if defined(__AVX512F__)
  if constexpr (N == 16) return (wide)_mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return (wide)_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
#endif
  typename raw_vector<std::uint16_t, N>::type words;
  std::memcpy(&words, p, sizeof words);
  return __builtin_convertvector(words, wide);
}

}  // namespace detail

/// `width<float>` bf16 values as float.
template <class Arch = default_arch>
GRAFT_INLINE batch<float, Arch> load_as_float(const bf16* p) noexcept {
  using native = typename batch<float, Arch>::register_type;
  const auto bits = detail::load_words<width<float, Arch>>(p) << 16;
  return batch<float, Arch>((native)bits);
}

/// `width<float>` f16 values as float, exactly.
template <class Arch = default_arch>
GRAFT_INLINE batch<float, Arch> load_as_float(const f16* p) noexcept {
  using native = typename batch<float, Arch>::register_type;
#if defined(__AVX512F__)
  if constexpr (detail::is_vector<batch<float, Arch>, float, 64>)
    return batch<float, Arch>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#endif
#if defined(__F16C__)
  if constexpr (detail::is_vector<batch<float, Arch>, float, 32>)
    return batch<float, Arch>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#endif
  // As to_float(f16): shift into place, let a multiplication rebias the exponent, fill up that of infinities and NaNs.
  using floats = typename detail::raw_vector<float, width<float, Arch>>::type;
  const auto words = detail::load_words<width<float, Arch>>(p);
  const auto magnitude = (words & 0x7fffu) << 13;
  auto bits = (decltype(magnitude))((floats)magnitude * 0x1p112f);
  bits |= (decltype(magnitude))(magnitude >= 0x0f800000u) & (magnitude | 0x7f800000u);
  bits |= (words & 0x8000u) << 16;
  return batch<float, Arch>((native)bits);
}

/// `width<T>` elements of storage type E as T.
template <class T, class Arch = default_arch, class E>
GRAFT_INLINE batch<T, Arch> load_as(const E* p) noexcept {
  if constexpr (std::same_as<E, T>) {
    return load<T, Arch>(p);
  } else if constexpr (std::same_as<T, float> && storage_only<E>) {
    return load_as_float<Arch>(p);
  } else {
    alignas(64) T lanes[static_cast<std::size_t>(width<T, Arch>)];
    for (index_t i = 0; i < width<T, Arch>; ++i) lanes[i] = convert<T>(p[i]);
    return batch<T, Arch>::load_aligned(lanes);
  }
}

/// The first n < width elements as T; the other lanes are zero.
template <class T, class Arch = default_arch, class E>
GRAFT_INLINE batch<T, Arch> load_partial_as(const E* p, index_t n) noexcept {
  if constexpr (std::same_as<E, T>) {
    return load_partial<T, Arch>(p, n);
  } else {
    alignas(64) T lanes[static_cast<std::size_t>(width<T, Arch>)] = {};
    for (index_t i = 0; i < n; ++i) lanes[i] = convert<T>(p[i]);
    return batch<T, Arch>::load_aligned(lanes);
  }
}

}  // namespace graft::simd
