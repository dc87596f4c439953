// SPDX-License-Identifier: Apache-2.0
// The register tile of bf16 products: rows of pairs against a panel of pairs, summed in float, by vectors or by matrix registers.
// Read next: kernel/bf16_operand.hpp, which packs them.
#pragma once
#include <algorithm>
#include <type_traits>

#include "graft/kernel/tile.hpp"
#include "graft/simd/bf16.hpp"
#include "graft/simd/processor.hpp"

namespace graft::kernel::detail {

/// Columns of a panel, and pairs that a matrix register takes at a time: depths are filled up to it with zeros.
inline constexpr index_t pair_columns = 48, pair_block = 16;
/// Rows that two matrix registers take at a time: packed rows have room up to it, which need not be filled.
inline constexpr index_t matrix_rows = 32;

class matrix_registers;
struct no_registers {
  ~no_registers() {}  // lest it be an unused variable
};

/// All rows of `a` against one panel of pairs, 48 columns wide, of which out.columns are wanted: run_panel for pairs, while matrix_registers
/// lives.
template <class Arch>
void run_pair_panel(index_t rows, index_t depth, const float* a, index_t lda, const float* b, tile_output<float> out, more_terms<float> more);

#if defined(GRAFT_BF16_PRODUCTS)

/// Adds `more` to the sums of Rows x 48 outputs and stores them.
template <int Rows, class Arch>
GRAFT_INLINE void finish_pair_tile(simd::batch<float, Arch> (&acc)[Rows][3], const tile_output<float>& out, more_terms<float> more) {
  for (index_t k = 0; k < more.depth; ++k, ++more.a, more.b += more.ldb) {
    simd::batch<float, Arch> b[3];
    GRAFT_UNROLL
    for (int j = 0; j < 3; ++j) b[j] = simd::load<float, Arch>(more.b + 16 * j);
    GRAFT_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const simd::batch<float, Arch> a(more.a[i * more.lda]);
      GRAFT_UNROLL
      for (int j = 0; j < 3; ++j) acc[i][j] = simd::fma(a, b[j], acc[i][j]);
    }
  }
  store_rows<float, Arch, Rows, 3>(acc, out);
}

/// run_tile for pairs: `depth` of them along the rows of a and down the columns of b.
template <int Rows, class Arch>
GRAFT_FOR_BF16 __attribute__((noinline)) void run_pair_tile(index_t depth, const float* a, index_t lda, const float* b,
                                                            const tile_output<float>& out, const more_terms<float>& more) {
  simd::batch<float, Arch> acc[Rows][3];
  GRAFT_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GRAFT_UNROLL
    for (int j = 0; j < 3; ++j) acc[i][j] = simd::batch<float, Arch>(0.f);
  }
  for (index_t k = 0; k < depth; ++k, ++a, b += pair_columns) {
    __m512 pairs[3];
    GRAFT_UNROLL
    for (int j = 0; j < 3; ++j) pairs[j] = _mm512_loadu_ps(b + 16 * j);
    GRAFT_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const __m512 row = _mm512_set1_ps(a[i * lda]);
      GRAFT_UNROLL
      for (int j = 0; j < 3; ++j) acc[i][j] = simd::add_pair_products(row, pairs[j], acc[i][j]);
    }
  }
  finish_pair_tile<Rows, Arch>(acc, out, more);
}

/// c = products, or c + products, of matrix_rows rows and Matrices * 16 columns of a panel, by matrix registers: up to six hold sums, one the
/// rows, one the panel.
template <int Matrices>
GRAFT_FOR_BF16_MATRICES void multiply_matrices(index_t depth, const float* a, index_t lda, const float* b, float* c, index_t ldc, bool add) {
  const auto a_bytes = static_cast<std::size_t>(lda) * sizeof(float), c_bytes = static_cast<std::size_t>(ldc) * sizeof(float);
  constexpr std::size_t panel_bytes = pair_columns * sizeof(float);
  const float* const lower = a + 16 * lda;
  float* const c_lower = c + 16 * ldc;
  if (add) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(3, c_lower, c_bytes);
    if constexpr (Matrices > 1) {
      _tile_loadd(1, c + 16, c_bytes);
      _tile_loadd(4, c_lower + 16, c_bytes);
    }
    if constexpr (Matrices > 2) {
      _tile_loadd(2, c + 32, c_bytes);
      _tile_loadd(5, c_lower + 32, c_bytes);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
  }
  for (index_t k = 0; k < depth; k += pair_block, b += pair_block * pair_columns) {
    _tile_loadd(6, a + k, a_bytes);
    _tile_loadd(7, b, panel_bytes);
    _tile_dpbf16ps(0, 6, 7);
    if constexpr (Matrices > 1) {
      _tile_loadd(7, b + 16, panel_bytes);
      _tile_dpbf16ps(1, 6, 7);
    }
    if constexpr (Matrices > 2) {
      _tile_loadd(7, b + 32, panel_bytes);
      _tile_dpbf16ps(2, 6, 7);
    }
    _tile_loadd(6, lower + k, a_bytes);  // and back, from the columns at hand
    if constexpr (Matrices > 2) {
      _tile_dpbf16ps(5, 6, 7);
      _tile_loadd(7, b + 16, panel_bytes);
    }
    if constexpr (Matrices > 1) {
      _tile_dpbf16ps(4, 6, 7);
      _tile_loadd(7, b, panel_bytes);
    }
    _tile_dpbf16ps(3, 6, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(3, c_lower, c_bytes);
  if constexpr (Matrices > 1) {
    _tile_stored(1, c + 16, c_bytes);
    _tile_stored(4, c_lower + 16, c_bytes);
  }
  if constexpr (Matrices > 2) {
    _tile_stored(2, c + 32, c_bytes);
    _tile_stored(5, c_lower + 32, c_bytes);
  }
}

inline void multiply_matrices(index_t columns, index_t depth, const float* a, index_t lda, const float* b, float* c, index_t ldc, bool add) {
  if (columns > 32) return multiply_matrices<3>(depth, a, lda, b, c, ldc, add);
  if (columns > 16) return multiply_matrices<2>(depth, a, lda, b, c, ldc, add);
  multiply_matrices<1>(depth, a, lda, b, c, ldc, add);
}

/// The matrix registers, where there are any, shaped for run_pair_panel as long as this lives.
class matrix_registers {
 public:
  GRAFT_FOR_BF16_MATRICES matrix_registers() noexcept {
    static constexpr shapes all;
    if (simd::runs_bf16_matrices()) _tile_loadconfig(&all);
  }
  GRAFT_FOR_BF16_MATRICES ~matrix_registers() {
    if (simd::runs_bf16_matrices()) _tile_release();
  }
  matrix_registers(const matrix_registers&) = delete;
  matrix_registers& operator=(const matrix_registers&) = delete;

 private:
  struct alignas(64) shapes {  // of all eight: 16 rows of 64 bytes each
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
};

template <class Arch>
void run_pair_panel(index_t rows, index_t depth, const float* a, index_t lda, const float* b, tile_output<float> out, more_terms<float> more) {
  const auto advance = [&](index_t done) {
    a += done * lda;
    more.a += done * more.lda;
    out.c += done * out.ldc;
    rows -= done;
  };
  if (simd::runs_bf16_matrices()) {  // all rows, however few: a row's sum must not depend on how many are with it
    alignas(64) float sums[matrix_rows * pair_columns];
    const auto finish = [&]<int Rows>(const float* from, std::integral_constant<int, Rows>) {
      simd::batch<float, Arch> acc[Rows][3];
      GRAFT_UNROLL
      for (int i = 0; i < Rows; ++i) {
        GRAFT_UNROLL
        for (int j = 0; j < 3; ++j) acc[i][j] = simd::load<float, Arch>(from + i * pair_columns + 16 * j);
      }
      finish_pair_tile<Rows, Arch>(acc, out, more);
      advance(Rows);
    };
    while (rows > 0) {
      const index_t here = std::min(rows, matrix_rows);
      multiply_matrices(out.columns, depth, a, lda, b, sums, pair_columns, false);
      const float *from = sums, *const end = sums + here * pair_columns;
      for (; from + 8 * pair_columns <= end; from += 8 * pair_columns) finish(from, std::integral_constant<int, 8>{});
      for (; from < end; from += pair_columns) finish(from, std::integral_constant<int, 1>{});
    }
    return;
  }
  while (rows >= 8) {
    run_pair_tile<8, Arch>(depth, a, lda, b, out, more);
    advance(8);
  }
  while (rows >= 2) {
    run_pair_tile<2, Arch>(depth, a, lda, b, out, more);
    advance(2);
  }
  while (rows >= 1) {
    run_pair_tile<1, Arch>(depth, a, lda, b, out, more);
    advance(1);
  }
}

/// c = products, or c + products, of whole matrix_rows and of 16, 32 or 48 columns, as run_pair_panel computes them, where c is at hand: matrix
/// registers store there what other caches would keep them waiting for.
template <class Arch>
void multiply_pairs(index_t rows, index_t columns, index_t depth, const float* a, index_t lda, const float* b, float* c, index_t ldc, bool add) {
  if (!simd::runs_bf16_matrices()) return run_pair_panel<Arch>(rows, depth, a, lda, b, {c, ldc, 1, add ? 1.f : 0.f, columns}, {});
  for (index_t i = 0; i < rows; i += matrix_rows) multiply_matrices(columns, depth, a + i * lda, lda, b, c + i * ldc, ldc, add);
}

#endif

}  // namespace graft::kernel::detail
