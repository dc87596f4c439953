// SPDX-License-Identifier: Apache-2.0
// The error function by tables of sixteen numbers, which are one register on AVX-512 and two on AVX2. Read next: simd/simd.hpp, which
// includes it.
#pragma once
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include <limits>

#include "graft/core/macros.hpp"

namespace graft::simd::detail {

/// Column n holds a polynomial in d = z - 0.27 n, lowest power first, fitted to erf(z) for |d| <= 0.135 with the smallest relative
/// error. Beyond the last erf is 1 in float.
alignas(64) inline constexpr float erf_pieces[6][16] = {
    {0.f, 2.974182367e-1f, 5.549392700e-1f, 7.480033040e-1f, 8.733261824e-1f, 9.437621832e-1f, 9.780380726e-1f, 9.924793243e-1f,
     9.977471232e-1f, 9.994108081e-1f, 9.998656511e-1f, 9.999733567e-1f, 9.999954104e-1f, 9.999992847e-1f, 9.999998808e-1f, 1.f},
    {1.128379166f, 1.049047232f, 8.429752588e-1f, 5.854832530e-1f, 3.514746130e-1f, 1.823699772e-1f, 8.178856224e-2f, 3.170382604e-2f,
     1.062210277e-2f, 3.076022258e-3f, 7.699253038e-4f, 1.665666496e-4f, 3.114641731e-5f, 5.033953585e-6f, 7.032209624e-7f, 8.490940928e-8f},
    {0.f, -2.832348943e-1f, -4.551976323e-1f, -4.742378592e-1f, -3.795948327e-1f, -2.462036610e-1f, -1.325002313e-1f, -5.992092565e-2f,
     -2.294333279e-2f, -7.474167272e-3f, -2.078440506e-3f, -4.945457331e-4f, -1.008613835e-4f, -1.765488560e-5f, -2.655027401e-6f, -3.433091820e-7f},
    {-3.761213422e-1f, -2.987262011e-1f, -1.171361953e-1f, 6.091861054e-2f, 1.561448425e-1f, 1.607906371e-1f, 1.158371121e-1f, 6.493347138e-2f,
     2.949888632e-2f, 1.108359173e-2f, 3.484925022e-3f, 9.238185594e-4f, 2.075210505e-4f, 3.964511416e-5f, 6.458489224e-6f, 8.990213587e-7f},
    {0.f, 1.335817128e-1f, 1.820441335e-1f, 1.328843534e-1f, 4.254142568e-2f, -2.585604414e-2f, -4.925887287e-2f, -4.128742218e-2f,
     -2.427073568e-2f, -1.105780154e-2f, -4.063945264e-3f, -1.229901216e-3f, -3.102751216e-4f, -6.577037857e-5f, -1.177909962e-5f, -1.789480734e-6f},
    {1.121033132e-1f, 7.598047704e-2f, -3.483934561e-3f, -6.067046896e-2f, -6.469555944e-2f, -3.400282562e-2f, -2.806052798e-3f, 1.163436938e-2f,
     1.201342139e-2f, 7.355303969e-3f, 3.312076675e-3f, 1.172478776e-3f, 3.364575387e-4f, 7.961721712e-5f, 1.570317545e-5f, 2.600311745e-6f},
};

/// a * b + c, rounded once; b, unless a is smaller; and row[n], by the four lowest bits of n.
GRAFT_INLINE __m256 fused(__m256 a, __m256 b, __m256 c) noexcept { return _mm256_fmadd_ps(a, b, c); }
GRAFT_INLINE __m256 smaller(__m256 a, __m256 b) noexcept { return _mm256_min_ps(a, b); }
GRAFT_INLINE __m256 look_up(const float (&row)[16], __m256i n) noexcept {
  const __m256 lower = _mm256_permutevar8x32_ps(_mm256_load_ps(row), n), upper = _mm256_permutevar8x32_ps(_mm256_load_ps(row + 8), n);
  return _mm256_blendv_ps(lower, upper, _mm256_castsi256_ps(_mm256_slli_epi32(n, 28)));
}
#if defined(__AVX512F__)
GRAFT_INLINE __m512 fused(__m512 a, __m512 b, __m512 c) noexcept { return _mm512_fmadd_ps(a, b, c); }
GRAFT_INLINE __m512 smaller(__m512 a, __m512 b) noexcept { return _mm512_min_ps(a, b); }
GRAFT_INLINE __m512 look_up(const float (&row)[16], __m512i n) noexcept { return _mm512_permutexvar_ps(n, _mm512_load_ps(row)); }
#endif

/// Error below 2.5 units in the last place, and 2.3e-7 of the value. Half the time of xsimd's, or less.
template <class V, class Whole>
GRAFT_INLINE V erf(V x) noexcept {
  typedef int words __attribute__((vector_size(sizeof(V))));
  const words bits = (words)x, sign = bits & (words{} + std::numeric_limits<int>::min());
  const V z = smaller(V{} + 4.17f, (V)(bits ^ sign));  // NaN stays NaN
  const V shift = V{} + 12582912.f;  // 1.5 * 2^23: a sum with it has its whole part in the lowest bits
  const V nearest = fused(z, V{} + 1 / 0.27f, shift);
  const V d = fused(nearest - shift, V{} - 0.27f, z), square = d * d;
  const auto coefficient = [&](int power) GRAFT_INLINED { return look_up(erf_pieces[power], (Whole)nearest); };
  const auto pair = [&](int power) GRAFT_INLINED { return fused(coefficient(power + 1), d, coefficient(power)); };  // short chains: see exp2
  return (V)((words)fused(fused(pair(4), square, pair(2)), square, pair(0)) | sign);
}
GRAFT_INLINE __m256 erf(__m256 x) noexcept { return erf<__m256, __m256i>(x); }
#if defined(__AVX512F__)
GRAFT_INLINE __m512 erf(__m512 x) noexcept { return erf<__m512, __m512i>(x); }
#endif

}  // namespace graft::simd::detail
#endif
