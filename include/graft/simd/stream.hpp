// SPDX-License-Identifier: Apache-2.0
// Stores that go past the caches, for results larger than these: a line that is written whole need not be read first, which is a third
// of what a copy moves. Read next: kernel/norm.hpp.
#pragma once
#include <cstdint>

#include "graft/simd/simd.hpp"

namespace graft::simd {

/// Writes one result of a task, whole vectors and parts of them. Results smaller than the caches stay in them, for whoever reads them next;
/// so do those that begin, or whose rows end, within a vector. What was written is seen by other threads from the writer's end on.
template <class T, class Arch = default_arch>
class result_writer {
 public:
  /// Results of `size` elements from `at` on, in rows of `columns`.
  result_writer(const T* at, index_t size, index_t columns) noexcept
      : past_caches_(size * static_cast<index_t>(sizeof(T)) >= beyond_caches && columns % width<T, Arch> == 0 &&
                     reinterpret_cast<std::uintptr_t>(at) % sizeof(batch<T, Arch>) == 0) {}
  result_writer(const result_writer&) = delete;
  result_writer& operator=(const result_writer&) = delete;
  ~result_writer() {
#if defined(__SSE2__)
    if (past_caches_) _mm_sfence();
#endif
  }

  /// Stores the first n lanes at p, all of them past the caches.
  GRAFT_INLINE void operator()(T* p, batch<T, Arch> v, index_t n) const noexcept {
    if (past_caches_) store_past_caches(p, v);
    else simd::store_first(p, v, n);
  }

 private:
  static constexpr index_t beyond_caches = index_t{32} << 20;
  bool past_caches_;

  /// As usual where there is no instruction for it.
  GRAFT_INLINE static void store_past_caches(T* p, batch<T, Arch> v) noexcept {
    [[maybe_unused]] const typename batch<T, Arch>::register_type r = v;
#if defined(__AVX512F__)
    if constexpr (sizeof r == 64) return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)r);
#endif
#if defined(__AVX__)
    if constexpr (sizeof r == 32) return _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)r);
#endif
#if defined(__SSE2__)
    if constexpr (sizeof r == 16) return _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)r);
#endif
    simd::store(p, v);
  }
};

}  // namespace graft::simd
