// SPDX-License-Identifier: Apache-2.0
// Exponentials: on AVX-512, which has an instruction that scales by 2^n and knows infinities and what is too small, and powers of two on
// AVX2. Read next: simd/simd.hpp, which includes it.
#pragma once
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include "graft/core/macros.hpp"

namespace graft::simd::detail {

/// 2^x = 2^n 2^f as below. Pairs of terms are summed side by side: it is the length of the chain that fills the processor's schedulers.
/// Error below 2.1 units in the last place; 0 where 2^n is no normal number, infinite from 127.5 on.
GRAFT_INLINE __m256 exp2(__m256 x) noexcept {
  const auto constant = [](float c) GRAFT_INLINED { return _mm256_set1_ps(c); };
  x = _mm256_min_ps(constant(128.f), _mm256_max_ps(constant(-127.f), x));  // in this order NaN stays NaN
  const __m256 shift = constant(12582912.f);  // 1.5 * 2^23: a sum with it has its whole part in the lowest bits
  const __m256 nearest = _mm256_add_ps(x, shift), f = _mm256_sub_ps(x, _mm256_sub_ps(nearest, shift)), square = _mm256_mul_ps(f, f);
  const __m256 low = _mm256_fmadd_ps(constant(2.402223647e-1f), f, constant(6.931468248e-1f));
  const __m256 high = _mm256_fmadd_ps(constant(1.322567929e-3f), square, _mm256_fmadd_ps(constant(9.671827778e-3f), f, constant(5.550892279e-2f)));
  const __m256 p = _mm256_fmadd_ps(_mm256_fmadd_ps(high, square, low), f, constant(1.f));
  const __m256i power = _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(nearest), 23), _mm256_set1_epi32(127 << 23));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

#if defined(__AVX512DQ__)

/// e^x = 2^n e^r with n whole and |r| <= log(2) / 2: a polynomial fitted to (e^r - 1 - r) / r^2 there.
/// Error below 1.1 units in the last place.
GRAFT_INLINE __m512 exp(__m512 x) noexcept {
  const auto constant = [](float c) GRAFT_INLINED { return _mm512_set1_ps(c); };
  x = _mm512_min_ps(constant(89.f), _mm512_max_ps(constant(-105.f), x));  // in this order NaN stays NaN
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, constant(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_fnmadd_ps(n, constant(-2.12194440e-4f), _mm512_fnmadd_ps(n, constant(0.693359375f), x));  // log 2 in two parts
  __m512 p = _mm512_fmadd_ps(constant(1.39261836e-3f), r, constant(8.36317905e-3f));
  p = _mm512_fmadd_ps(p, r, constant(4.16665546e-2f));
  p = _mm512_fmadd_ps(p, r, constant(1.66665770e-1f));
  p = _mm512_fmadd_ps(p, r, constant(0.5f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r);
  return _mm512_scalef_ps(_mm512_add_ps(p, constant(1.f)), n);
}

/// 2^x = 2^n 2^f with n whole and |f| <= 1/2, cut off without error: a polynomial fitted to (2^f - 1) / f there.
/// Error below 2.1 units in the last place.
GRAFT_INLINE __m512 exp2(__m512 x) noexcept {
  const auto constant = [](float c) GRAFT_INLINED { return _mm512_set1_ps(c); };
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_fmadd_ps(constant(1.326459111e-3f), f, constant(9.671619162e-3f));
  p = _mm512_fmadd_ps(p, f, constant(5.550735071e-2f));
  p = _mm512_fmadd_ps(p, f, constant(2.402224094e-1f));
  p = _mm512_fmadd_ps(p, f, constant(6.931470037e-1f));
  p = _mm512_fmadd_ps(p, f, constant(1.f));
  return _mm512_scalef_ps(p, _mm512_sub_ps(x, f));
}

#endif

}  // namespace graft::simd::detail
#endif
