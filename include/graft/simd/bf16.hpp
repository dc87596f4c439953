// SPDX-License-Identifier: Apache-2.0
// Products of bf16 values, summed in float: the instructions that some processors have. Read next: kernel/bf16_tile.hpp.
#pragma once
#include "graft/simd/convert.hpp"

// A source compiled for AVX-512 holds these functions whatever else its flags allow; the processor is asked before one is called.
#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__x86_64__)
#define GRAFT_BF16_PRODUCTS 1
#define GRAFT_FOR_BF16 __attribute__((target("avx512bf16")))
#define GRAFT_FOR_BF16_MATRICES __attribute__((target("amx-tile,amx-bf16,avx512bf16")))
#endif

namespace graft::simd {

/// Whether vectors of this instruction set have products of bf16 pairs.
template <class Arch>
inline constexpr bool knows_bf16 =
#if defined(GRAFT_BF16_PRODUCTS)
    detail::is_vector<batch<float, Arch>, float, 64>;
#else
    false;
#endif

#if defined(GRAFT_BF16_PRODUCTS)

// A vector of pairs is one of floats in name: lane i holds two bf16 values, the first in its lower half.

/// Pairs of neighbours among 32 values, the first 16 of them in `low`, rounded to the nearest.
GRAFT_FOR_BF16 GRAFT_INLINE __m512 pairs_along(__m512 low, __m512 high) noexcept { return (__m512)_mm512_cvtne2ps_pbh(high, low); }

/// Pairs of a value of `first` and the one of `second` in the same lane, rounded to the nearest.
GRAFT_FOR_BF16 GRAFT_INLINE __m512 pairs_across(__m512 first, __m512 second) noexcept {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2,
                                         17, 1, 16, 0);
  return (__m512)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(second, first));
}

/// sum + the inner product of every pair of a with that of b.
GRAFT_FOR_BF16 GRAFT_INLINE __m512 add_pair_products(__m512 a, __m512 b, __m512 sum) noexcept {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

#endif

}  // namespace graft::simd
