// SPDX-License-Identifier: Apache-2.0
// The operands of bf16 products: rounded while they are packed, two neighbouring values of k in the place of one float.
// Read next: kernel/gemm.hpp.
#pragma once
#include "graft/core/context.hpp"
#include "graft/kernel/bf16_tile.hpp"
#include "graft/kernel/operand.hpp"

namespace graft::kernel::detail {

/// Whether a product that could go by bf16 pairs does: its context asks for them, and the processor and its size let it gain.
inline bool goes_in_bf16(const context& ctx, index_t rows, index_t columns, index_t depth) {
  return ctx.products == product_precision::bf16 && rows >= 32 && columns >= 32 && depth >= 32 && simd::gains_by_bf16();
}
template <class T, class Arch>
inline constexpr bool could_go_in_bf16 = std::same_as<T, float> && simd::knows_bf16<Arch>;

/// Pairs that hold `steps` values of k, whole blocks of them.
constexpr index_t whole_pairs(index_t steps) noexcept { return (steps + 2 * pair_block - 1) / (2 * pair_block) * pair_block; }

template <class Arch>
struct rounded_rows;  // rows of floats, in pairs along k
template <class Arch, class E>
struct row_pairs;  // panels whose columns are rows of w
template <class Arch, class E>
struct column_pairs;  // panels that are column ranges of w

#if defined(GRAFT_BF16_PRODUCTS)

/// The pairs of 32 values from p on, of which the first `count` are there; the others are zero.
template <class Arch, class P>
GRAFT_FOR_BF16 GRAFT_INLINE __m512 load_pairs(P p, index_t count) noexcept {
  if (count >= 32) {
    if constexpr (std::same_as<P, const bf16*>) return _mm512_loadu_ps(p);
    else return simd::pairs_along(simd::load_as<float, Arch>(p), simd::load_as<float, Arch>(p + 16));
  }
  const __m512 zero = _mm512_setzero_ps();
  const auto part = [&](index_t first) -> __m512 {
    const index_t here = count - first;
    if (here >= 16) return simd::load_as<float, Arch>(p + first);
    return here <= 0 ? zero : __m512(simd::load_partial_as<float, Arch>(p + first, here));
  };
  const __m512 low = part(0), high = part(16);
  return simd::pairs_along(low, high);
}

/// rows[i][k / 2] = the pair at k of row i of x, `count` rows, ld pairs of each.
template <class Arch>
GRAFT_FOR_BF16 void round_rows(const float* x, index_t row_step, index_t count, index_t steps, float* rows, index_t ld) {
  for (index_t i = 0; i < count; ++i, x += row_step, rows += ld)
    for (index_t k = 0; k < ld; k += 16) _mm512_storeu_ps(rows + k, load_pairs<Arch>(x + 2 * k, steps - 2 * k));
}

/// panel[k / 2][j] = the pair at k of row j of w; zeros up to 48 columns.
template <class Arch, class P>
GRAFT_FOR_BF16 void pack_row_pairs(P w, index_t row_step, index_t count, index_t steps, float* panel) {
  for (index_t j = 0; j < pair_columns; j += 16)
    for (index_t k = 0; k < steps; k += 32) {
      simd::batch<float, Arch> block[16];
      GRAFT_UNROLL
      for (index_t i = 0; i < 16; ++i) block[i] = j + i < count ? load_pairs<Arch>(w + (j + i) * row_step + k, steps - k) : _mm512_setzero_ps();
      simd::transpose(block);
      GRAFT_UNROLL
      for (index_t i = 0; i < 16; ++i) simd::store(panel + (k / 2 + i) * pair_columns + j, block[i]);
    }
}

/// panel[k / 2][j] = (w[k][j], w[k + 1][j]); zeros up to 48 columns and whole blocks of pairs.
template <class Arch, class P>
GRAFT_FOR_BF16 void pack_column_pairs(P w, index_t row_step, index_t count, index_t steps, float* panel) {
  const auto part = [&](index_t k, index_t j) -> __m512 {
    if (k >= steps || j >= count) return _mm512_setzero_ps();
    const P from = w + k * row_step + j;
    return j + 16 <= count ? __m512(simd::load_as<float, Arch>(from)) : __m512(simd::load_partial_as<float, Arch>(from, count - j));
  };
  for (index_t k = 0; k < 2 * whole_pairs(steps); k += 2, panel += pair_columns) {
    for (index_t ahead = 0; ahead < 2 && k + 16 + ahead < steps; ++ahead)
      for (index_t j = 0; j < count; j += line_values<P>) simd::prefetch(w + (k + 16 + ahead) * row_step + j);
    for (index_t j = 0; j < pair_columns; j += 16) {
      const __m512 first = part(k, j), second = part(k + 1, j);
      _mm512_storeu_ps(panel + j, simd::pairs_across(first, second));
    }
  }
}

template <class Arch>
struct rounded_rows {
  static constexpr broadcast lies = broadcast::from_rows;
  static constexpr bool packed = true, pairs = true;
  static constexpr index_t most = 512, deepest = panel_depth;
  tensor_view<const float, 2> a;

  panel_view<float> operator()(index_t i, index_t count, index_t k, index_t steps, float* scratch) const {
    const index_t ld = whole_pairs(steps);
    round_rows<Arch>(a.data + i * a.stride[0] + k, a.stride[0], count, steps, scratch, ld);
    return {scratch, ld};
  }
};

template <class Arch, class E>
struct row_pairs {
  static constexpr bool across_rows = false;
  static constexpr index_t together = 1;
  stored_view<E> w;

  panel_view<float> operator()(index_t j, index_t count, index_t k, index_t steps, float* scratch) const {
    pack_row_pairs<Arch>(stored_pointer<E>(w.data + j * w.stride[0] + k), w.stride[0], count, steps, scratch);
    return {scratch, pair_columns};
  }
};

template <class Arch, class E>
struct column_pairs {
  static constexpr bool across_rows = true;
  static constexpr index_t together = 1;
  stored_view<E> w;

  panel_view<float> operator()(index_t j, index_t count, index_t k, index_t steps, float* scratch) const {
    pack_column_pairs<Arch>(stored_pointer<E>(w.data + k * w.stride[0] + j), w.stride[0], count, steps, scratch);
    return {scratch, pair_columns};
  }
};

#endif

}  // namespace graft::kernel::detail
