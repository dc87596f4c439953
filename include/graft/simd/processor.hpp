// SPDX-License-Identifier: Apache-2.0
// What the processor that runs this has, whatever the source was compiled for. Read next: simd/bf16.hpp.
#pragma once
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace graft::simd {

/// Whether it multiplies vectors of bf16 pairs (AVX-512 BF16).
inline bool runs_bf16() noexcept {
#if defined(__x86_64__)
  static const bool runs = (__builtin_cpu_init(), __builtin_cpu_supports("avx512bf16") != 0);
  return runs;
#else
  return false;
#endif
}

/// Whether it multiplies matrices of 16 x 32 bf16 values as well (AMX), and the system lets this process use their registers: Linux is
/// asked, once. Elsewhere nobody knows how to ask, so the answer is no.
inline bool runs_bf16_matrices() noexcept {
#if defined(__x86_64__) && defined(__linux__)
  static const bool runs = [] {
    constexpr unsigned tiles = 1u << 24, bf16_products = 1u << 22;
    constexpr long request_permission = 0x1023, tile_data = 18;
    unsigned a, b, c, d = 0;
    return runs_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & tiles) != 0 && (d & bf16_products) != 0 &&
           ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return runs;
#else
  return false;
#endif
}

/// Whether products of bf16 pairs take less time than those of floats. By Intel's vectors they do on Cooper Lake alone: an instruction that
/// takes twice as many of them then takes four times as long as a multiply-add (Emerald Rapids), for matrix registers are meant to be used.
inline bool gains_by_bf16() noexcept {
#if defined(__x86_64__)
  static const bool gains = runs_bf16_matrices() || (runs_bf16() && (!__builtin_cpu_is("intel") || __builtin_cpu_is("cooperlake")));
  return gains;
#else
  return false;
#endif
}

}  // namespace graft::simd
