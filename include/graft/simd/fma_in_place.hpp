// SPDX-License-Identifier: Apache-2.0
// A multiply-add that leaves its sum in the register where it was, for unrolled loops. Read next: kernel/tile.hpp, which unrolls.
#pragma once
#include "graft/simd/simd.hpp"

namespace graft::simd {

/// Whether sums stay in their registers, under every compiler: floats by AVX2.
template <class T, class Arch>
inline constexpr bool multiplies_in_place =
#if defined(__FMA__) && !defined(__AVX512F__)
    detail::is_vector<batch<T, Arch>, float, 32>;
#else
    false;
#endif

/// a * b + c in the register that holds c. Where an unrolled loop has as many sums as there are registers for, GCC makes it one of moves between
/// them if it may choose; Clang does not.
template <class T, class Arch>
GRAFT_INLINE batch<T, Arch> fma_in_place(batch<T, Arch> a, batch<T, Arch> b, batch<T, Arch> c) noexcept {
#if !defined(__clang__)
  if constexpr (multiplies_in_place<T, Arch>) {
    using native = typename batch<T, Arch>::register_type;
    native sum = c;
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(native(a)), "x"(native(b)));
    return batch<T, Arch>(sum);
  }
#endif
  return simd::fma(a, b, c);
}

}  // namespace graft::simd
