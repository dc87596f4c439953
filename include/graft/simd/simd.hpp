// SPDX-License-Identifier: Apache-2.0
// Vectors of numbers: the only include of xsimd, and what its releases lack or disagree on. Everything here also takes
// plain numbers, so that one generic lambda serves both. Write `simd::` before each name: argument-dependent lookup would
// find xsimd's as well. Read next: simd/convert.hpp, kernel/elementwise.hpp.
#pragma once
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <xsimd/xsimd.hpp>

#include "graft/core/extents.hpp"
#include "graft/core/macros.hpp"
#include "graft/simd/erf.hpp"
#include "graft/simd/exp.hpp"

namespace graft::simd {

using default_arch = xsimd::default_arch;

template <class T, class Arch = default_arch>
using batch = xsimd::batch<T, Arch>;

/// Lanes of a vector of T.
template <class T, class Arch = default_arch>
inline constexpr index_t width = static_cast<index_t>(batch<T, Arch>::size);

/// How many vector registers the instruction set names: the register tiles of kernels follow from it.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int registers = 32;
#else
inline constexpr int registers = 16;
#endif

template <class B>
concept any_batch = requires { typename B::register_type; typename B::arch_type; };

namespace detail {
/// Whether a batch is a register of `Bytes` bytes of E: where an instruction is named, this guards it.
template <class Batch, class E, std::size_t Bytes>
inline constexpr bool is_vector = std::same_as<typename Batch::value_type, E> && sizeof(Batch) == Bytes;
}  // namespace detail

template <class T, class Arch = default_arch>
GRAFT_INLINE batch<T, Arch> load(const T* p) noexcept { return batch<T, Arch>::load_unaligned(p); }

template <class T, class Arch>
GRAFT_INLINE void store(T* p, batch<T, Arch> v) noexcept { v.store_unaligned(p); }

/// v in a register from here on. Compilers would rather load it anew as an operand of every multiply-add that uses it, and loads are
/// what a register tile has few to spare of.
template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> in_register(batch<T, Arch> v) noexcept {
  typename batch<T, Arch>::register_type r = v;
#if defined(__x86_64__)
  asm("" : "+v"(r));
#elif defined(__aarch64__)
  asm("" : "+w"(r));
#endif
  return batch<T, Arch>(r);
}

#if defined(__AVX2__)
namespace detail {
/// All bits in the first n of eight lanes, none in the others.
GRAFT_INLINE __m256i first_of_eight(index_t n) noexcept {
  alignas(64) static constexpr std::int32_t lanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lanes + 8 - n));
}
/// Stores by halves: some processors take long over masked stores.
GRAFT_INLINE void store_first_of_eight(float* p, __m256 v, index_t n) noexcept {
  __m128 rest = _mm256_castps256_ps128(v);
  if ((n & 4) != 0) {
    _mm_storeu_ps(p, rest);
    p += 4;
    rest = _mm256_extractf128_ps(v, 1);
  }
  if ((n & 2) != 0) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
    p += 2;
    rest = _mm_movehl_ps(rest, rest);
  }
  if ((n & 1) != 0) _mm_store_ss(p, rest);
}
}  // namespace detail
#endif

/// The first n < width elements; the other lanes are zero.
template <class T, class Arch = default_arch>
GRAFT_INLINE batch<T, Arch> load_partial(const T* p, index_t n) noexcept {
#if defined(__AVX512F__)
  if constexpr (detail::is_vector<batch<T, Arch>, float, 64>)
    return batch<T, Arch>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p));
  if constexpr (detail::is_vector<batch<T, Arch>, double, 64>)
    return batch<T, Arch>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1u), p));
#endif
#if defined(__AVX2__)
  if constexpr (detail::is_vector<batch<T, Arch>, float, 32>) return batch<T, Arch>(_mm256_maskload_ps(p, detail::first_of_eight(n)));
#endif
  alignas(64) T lanes[static_cast<std::size_t>(width<T, Arch>)] = {};
  for (index_t i = 0; i < n; ++i) lanes[i] = p[i];
  return batch<T, Arch>::load_aligned(lanes);
}

/// Stores the first n < width lanes.
template <class T, class Arch>
GRAFT_INLINE void store_partial(T* p, batch<T, Arch> v, index_t n) noexcept {
#if defined(__AVX512F__)
  if constexpr (detail::is_vector<batch<T, Arch>, float, 64>) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), v);
    return;
  }
  if constexpr (detail::is_vector<batch<T, Arch>, double, 64>) {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), v);
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (detail::is_vector<batch<T, Arch>, float, 32>) return detail::store_first_of_eight(p, v, n);
#endif
  alignas(64) T lanes[static_cast<std::size_t>(width<T, Arch>)];
  v.store_aligned(lanes);
  for (index_t i = 0; i < n; ++i) p[i] = lanes[i];
}

/// The first n <= width elements; the other lanes are zero.
template <class T, class Arch = default_arch>
GRAFT_INLINE batch<T, Arch> load_first(const T* p, index_t n) noexcept {
  return n == width<T, Arch> ? simd::load<T, Arch>(p) : simd::load_partial<T, Arch>(p, n);
}

/// Stores the first n <= width lanes.
template <class T, class Arch>
GRAFT_INLINE void store_first(T* p, batch<T, Arch> v, index_t n) noexcept {
  if (n == width<T, Arch>) simd::store(p, v);
  else simd::store_partial(p, v, n);
}

/// The first n <= width lanes of v; the others become zero, whatever they held.
template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> keep_first(batch<T, Arch> v, index_t n) noexcept {
#if defined(__AVX512F__)
  if constexpr (detail::is_vector<batch<T, Arch>, float, 64>)
    return batch<T, Arch>(_mm512_maskz_mov_ps(static_cast<__mmask16>((1u << n) - 1u), v));
  if constexpr (detail::is_vector<batch<T, Arch>, double, 64>)
    return batch<T, Arch>(_mm512_maskz_mov_pd(static_cast<__mmask8>((1u << n) - 1u), v));
#endif
#if defined(__AVX2__)
  if constexpr (detail::is_vector<batch<T, Arch>, float, 32>)
    return batch<T, Arch>(_mm256_and_ps(v, _mm256_castsi256_ps(detail::first_of_eight(n))));
#endif
  alignas(64) T lanes[static_cast<std::size_t>(width<T, Arch>)];
  v.store_aligned(lanes);
  return load_partial<T, Arch>(lanes, n);
}

// Fused multiply-add, rounded once wherever the hardware has it. xsimd before 11 multiplies and adds on AVX-512, which
// Clang does not contract, so the instruction is named here.

/// a * b + c
template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> fma(batch<T, Arch> a, batch<T, Arch> b, batch<T, Arch> c) noexcept {
#if defined(__AVX512F__)
  if constexpr (detail::is_vector<batch<T, Arch>, float, 64>) return _mm512_fmadd_ps(a, b, c);
  else if constexpr (detail::is_vector<batch<T, Arch>, double, 64>) return _mm512_fmadd_pd(a, b, c);
  else
#endif
    return xsimd::fma(a, b, c);
}
template <std::floating_point T>
GRAFT_INLINE T fma(T a, T b, T c) noexcept { return a * b + c; }

namespace detail {

template <class T, class Arch, std::size_t... I>
GRAFT_INLINE batch<T, Arch> interleave_low(batch<T, Arch> a, batch<T, Arch> b, std::index_sequence<I...>) noexcept {
  constexpr std::size_t w = sizeof...(I);
  using native = typename batch<T, Arch>::register_type;
  return batch<T, Arch>(__builtin_shufflevector(native(a), native(b), (I % 2 * w + I / 2)...));
}
template <class T, class Arch, std::size_t... I>
GRAFT_INLINE batch<T, Arch> interleave_high(batch<T, Arch> a, batch<T, Arch> b, std::index_sequence<I...>) noexcept {
  constexpr std::size_t w = sizeof...(I);
  using native = typename batch<T, Arch>::register_type;
  return batch<T, Arch>(__builtin_shufflevector(native(a), native(b), (I % 2 * w + w / 2 + I / 2)...));
}
template <std::size_t Step, class T, class Arch, std::size_t... I>
GRAFT_INLINE batch<T, Arch> exchange(batch<T, Arch> a, std::index_sequence<I...>) noexcept {
  using native = typename batch<T, Arch>::register_type;
  return batch<T, Arch>(__builtin_shufflevector(native(a), native(a), (I ^ Step)...));
}
template <std::size_t Count, class T, class Arch, std::size_t... I>
GRAFT_INLINE batch<T, Arch> repeat(batch<T, Arch> a, std::index_sequence<I...>) noexcept {
  using native = typename batch<T, Arch>::register_type;
  return batch<T, Arch>(__builtin_shufflevector(native(a), native(a), (I % Count)...));
}
template <class T, class Arch>
using lanes = std::make_index_sequence<static_cast<std::size_t>(width<T, Arch>)>;

template <std::size_t Step, class T, class Arch, class Combine>
GRAFT_INLINE batch<T, Arch> fold(batch<T, Arch> v, Combine combine) noexcept {
  if constexpr (Step == 0) return v;
  else return fold<Step / 2>(combine(v, exchange<Step>(v, lanes<T, Arch>{})), combine);
}

}  // namespace detail

/// a0 b0 a1 b1 ... of the lower halves.
template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> interleave_low(batch<T, Arch> a, batch<T, Arch> b) noexcept {
  return detail::interleave_low(a, b, detail::lanes<T, Arch>{});
}
/// The same of the upper halves.
template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> interleave_high(batch<T, Arch> a, batch<T, Arch> b) noexcept {
  return detail::interleave_high(a, b, detail::lanes<T, Arch>{});
}

/// Lane l takes what lane l ^ Step holds; Step is a power of two below the width.
template <std::size_t Step, class T, class Arch>
GRAFT_INLINE batch<T, Arch> exchange(batch<T, Arch> v) noexcept {
  return detail::exchange<Step>(v, detail::lanes<T, Arch>{});
}

/// Lane l takes what lane l % Count holds.
template <std::size_t Count, class T, class Arch>
GRAFT_INLINE batch<T, Arch> repeat(batch<T, Arch> v) noexcept {
  return detail::repeat<Count>(v, detail::lanes<T, Arch>{});
}

/// Sum over the lanes, always in the same tree order.
template <class T, class Arch>
GRAFT_INLINE T sum(batch<T, Arch> v) noexcept {
  return detail::fold<static_cast<std::size_t>(width<T, Arch>) / 2>(v, [](auto a, auto b) { return a + b; }).get(0);
}
/// Largest lane. With a NaN among the lanes the result is any of them.
template <class T, class Arch>
GRAFT_INLINE T maximum(batch<T, Arch> v) noexcept {
  return detail::fold<static_cast<std::size_t>(width<T, Arch>) / 2>(v, [](auto a, auto b) { return xsimd::max(a, b); }).get(0);
}

/// Whether any lane is not a number.
template <class T, class Arch>
GRAFT_INLINE bool has_nan(batch<T, Arch> v) noexcept { return xsimd::any(xsimd::isnan(v)); }

namespace detail {
#if defined(__AVX__)
/// Within halves first, which cost a shuffle less each than whole vectors; then halves change places.
template <class Arch>
GRAFT_INLINE void transpose_eight(batch<float, Arch> (&rows)[8]) noexcept {
  __m256 pairs[8], fours[8];
  GRAFT_UNROLL
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  GRAFT_UNROLL
  for (int i = 0; i < 8; i += 4) {
    GRAFT_UNROLL
    for (int j = 0; j < 2; ++j) {
      fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
      fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
    }
  }
  GRAFT_UNROLL
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}
#endif
}  // namespace detail

/// Transposes the square block held in `width` vectors.
template <class T, class Arch, std::size_t N>
GRAFT_INLINE void transpose(batch<T, Arch> (&rows)[N]) noexcept {
  static_assert(N == static_cast<std::size_t>(width<T, Arch>));
#if defined(__AVX__)
  if constexpr (detail::is_vector<batch<T, Arch>, float, 32>) return detail::transpose_eight(rows);
#endif
  batch<T, Arch> next[N];
  GRAFT_UNROLL
  for (std::size_t stage = 1; stage < N; stage *= 2) {
    GRAFT_UNROLL
    for (std::size_t i = 0; i < N / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + N / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + N / 2]);
    }
    GRAFT_UNROLL
    for (std::size_t i = 0; i < N; ++i) rows[i] = next[i];
  }
}

/// out[i] = sum over the lanes of v[i], for N a power of two: a tree that halves the vectors while it adds.
template <class T, class Arch, std::size_t N>
GRAFT_INLINE void sum_each(const batch<T, Arch> (&v)[N], T* out) noexcept {
  static_assert(std::has_single_bit(N));
  constexpr auto w = static_cast<std::size_t>(width<T, Arch>);
  if constexpr (N > w) {
    GRAFT_UNROLL
    for (std::size_t first = 0; first < N; first += w) {
      batch<T, Arch> part[w];
      GRAFT_UNROLL
      for (std::size_t i = 0; i < w; ++i) part[i] = v[first + i];
      sum_each(part, out + first);
    }
  } else {
    batch<T, Arch> tree[N];
    GRAFT_UNROLL
    for (std::size_t i = 0; i < N; ++i) tree[i] = v[i];
    GRAFT_UNROLL
    for (std::size_t n = N; n > 1; n /= 2) {  // pairs (i, i + n/2): the sums end up in the order of the inputs
      GRAFT_UNROLL
      for (std::size_t i = 0; i < n / 2; ++i)
        tree[i] = interleave_low(tree[i], tree[i + n / 2]) + interleave_high(tree[i], tree[i + n / 2]);
    }
    auto folded = tree[0];
    if constexpr (w > N) {
      const auto add = [](auto a, auto b) { return a + b; };
      if constexpr (w / N >= 2) folded = add(folded, detail::exchange<w / 2>(folded, detail::lanes<T, Arch>{}));
      if constexpr (w / N >= 4) folded = add(folded, detail::exchange<w / 4>(folded, detail::lanes<T, Arch>{}));
      if constexpr (w / N >= 8) folded = add(folded, detail::exchange<w / 8>(folded, detail::lanes<T, Arch>{}));
      if constexpr (w / N >= 16) folded = add(folded, detail::exchange<w / 16>(folded, detail::lanes<T, Arch>{}));
      simd::store_partial(out, folded, static_cast<index_t>(N));
    } else {
      simd::store(out, folded);
    }
  }
}

// Mathematics for vectors and for plain numbers under one name. OWN: floats, of so many bytes a vector at least, have a version of ours
// instead of xsimd's.
#define GRAFT_SIMD_OWN(name, bytes) \
  if constexpr (std::same_as<T, float> && sizeof(batch<T, Arch>) >= bytes) return detail::name(x); else
#if defined(__AVX512DQ__)
#define GRAFT_SIMD_OWN_WIDE(name) GRAFT_SIMD_OWN(name, 64)
#else
#define GRAFT_SIMD_OWN_WIDE(name)
#endif
#if defined(__AVX2__) && defined(__FMA__)
#define GRAFT_SIMD_OWN_ANY(name) GRAFT_SIMD_OWN(name, 32)
#else
#define GRAFT_SIMD_OWN_ANY(name)
#endif
#define GRAFT_SIMD_FUNCTION(name, own)                                         \
  template <class T, class Arch>                                               \
  GRAFT_INLINE batch<T, Arch> name(batch<T, Arch> x) noexcept { own return xsimd::name(x); } \
  template <std::floating_point T>                                             \
  GRAFT_INLINE T name(T x) noexcept { return std::name(x); }
GRAFT_SIMD_FUNCTION(log, )
GRAFT_SIMD_FUNCTION(tanh, )
GRAFT_SIMD_FUNCTION(sqrt, )
GRAFT_SIMD_FUNCTION(abs, )
GRAFT_SIMD_FUNCTION(sin, )
GRAFT_SIMD_FUNCTION(cos, )
GRAFT_SIMD_FUNCTION(erf, GRAFT_SIMD_OWN_ANY(erf))
/// e^x. xsimd's is a tenth to a third slower on AVX-512.
GRAFT_SIMD_FUNCTION(exp, GRAFT_SIMD_OWN_WIDE(exp))
/// 2^x. On AVX-512 and AVX2 in two thirds of the time of exp: what is divided by its sum, as a softmax is, had better be a power of two.
GRAFT_SIMD_FUNCTION(exp2, GRAFT_SIMD_OWN_ANY(exp2))
#undef GRAFT_SIMD_FUNCTION
#undef GRAFT_SIMD_OWN
#undef GRAFT_SIMD_OWN_WIDE
#undef GRAFT_SIMD_OWN_ANY

template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> max(batch<T, Arch> a, batch<T, Arch> b) noexcept { return xsimd::max(a, b); }
template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> min(batch<T, Arch> a, batch<T, Arch> b) noexcept { return xsimd::min(a, b); }
template <class T>
  requires std::is_arithmetic_v<T>
GRAFT_INLINE T max(T a, T b) noexcept { return a < b ? b : a; }
template <class T>
  requires std::is_arithmetic_v<T>
GRAFT_INLINE T min(T a, T b) noexcept { return b < a ? b : a; }

/// a where the condition holds, b elsewhere.
template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> select(xsimd::batch_bool<T, Arch> where, batch<T, Arch> a, batch<T, Arch> b) noexcept {
  return xsimd::select(where, a, b);
}
template <class T>
  requires std::is_arithmetic_v<T>
GRAFT_INLINE T select(bool where, T a, T b) noexcept { return where ? a : b; }

/// Asks for a line of memory, into the first-level cache, or only the second.
GRAFT_INLINE void prefetch(const void* p) noexcept { __builtin_prefetch(p); }
GRAFT_INLINE void prefetch_far(const void* p) noexcept { __builtin_prefetch(p, 0, 2); }

}  // namespace graft::simd
