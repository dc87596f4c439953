// SPDX-License-Identifier: Apache-2.0
#include "graft/simd/blocks.hpp"

#include "support/blocks.hpp"
#include "support/catch.hpp"

using namespace graft;

namespace {

/// Blocks in which every code stands in every place.
template <class B>
std::vector<B> all_codes() {
  std::vector<B> blocks(256);
  for (unsigned n = 0; n < 256; ++n) {
    const f16 scale = to_f16(0.01f * static_cast<float>(n) - 1);
    if constexpr (std::same_as<B, nf4_block>) blocks[n].largest = to_float(scale);
    else blocks[n].scale = scale;
    for (unsigned i = 0; i < sizeof blocks[n].q; ++i) blocks[n].q[i] = static_cast<std::remove_reference_t<decltype(blocks[n].q[i])>>(n + 37 * i);
  }
  return blocks;
}

template <class T, class Arch, class B>
void vectors_equal_values() {
  const auto blocks = all_codes<B>();
  const block_pointer<B> first{blocks.data()};
  constexpr index_t w = simd::width<T, Arch>;
  T lanes[w];
  index_t wrong = 0;
  for (index_t at = 0; at < 256 * B::count; at += w) {
    simd::store(lanes, simd::load_as<T, Arch>(first + at));
    for (index_t i = 0; i < w; ++i) {
      const index_t place = at + i;
      wrong += lanes[i] != static_cast<T>(value_at(blocks[static_cast<std::size_t>(place / B::count)], place % B::count));
    }
  }
  CHECK(wrong == 0);
  for (index_t n = 0; n < w; ++n) {
    simd::store(lanes, simd::load_partial_as<T, Arch>(first + B::count, n));
    for (index_t i = 0; i < w; ++i) CHECK(lanes[i] == (i < n ? static_cast<T>(value_at(blocks[1], i)) : T(0)));
  }
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("vectors from blocks hold the values that scalars do, on every instruction set there is", "", test::every_block_format) {
  vectors_equal_values<float, simd::default_arch, TestType>();
  vectors_equal_values<double, simd::default_arch, TestType>();
#if XSIMD_WITH_SSE2
  vectors_equal_values<float, xsimd::sse2, TestType>();
  vectors_equal_values<double, xsimd::sse2, TestType>();
#endif
#if XSIMD_WITH_AVX2
  vectors_equal_values<float, xsimd::avx2, TestType>();
  vectors_equal_values<double, xsimd::avx2, TestType>();
#endif
}
