// SPDX-License-Identifier: Apache-2.0
// Panels: a tile's width of columns, cut from a matrix in any storage type and laid out for the tile to stream.
// Read next: kernel/operand.hpp.
#pragma once
#include <algorithm>

#include "graft/kernel/tile.hpp"
#include "graft/simd/blocks.hpp"
#include "graft/simd/convert.hpp"

namespace graft::kernel {

/// How many values of k one pass of a tile covers at most. Outputs are read and written again with every pass, so few passes are
/// best; a panel of this depth, 384 KiB of the widest tile's columns, still stays in the second-level cache.
inline constexpr index_t panel_depth = 2048;

/// Splits a depth into equal passes of at most `most`.
constexpr index_t pass_depth(index_t depth, index_t most) noexcept {
  const index_t passes = (depth + most - 1) / most;
  return passes <= 1 ? most : ((depth + passes - 1) / passes + 15) / 16 * 16;
}

/// A number of elements rounded up to whole vectors.
template <class T, class Arch>
constexpr index_t whole_vectors(index_t elements) noexcept {
  constexpr index_t lanes = simd::width<T, Arch>;
  return (elements + lanes - 1) / lanes * lanes;
}

// Below, P is what values are read through: a pointer to elements in any storage type, or a block_pointer.

/// Values that a line of memory holds, or a little less.
template <class P>
inline constexpr index_t line_values = 64 / static_cast<index_t>(sizeof(*P{}));
template <class B>
inline constexpr index_t line_values<block_pointer<B>> = 64 * B::count / static_cast<index_t>(sizeof(B));

/// panel[k][j] = w[j][k] for `count` rows of w, zeros up to `ld` columns (a multiple of the vector width): transposed
/// through registers, decoded on the way.
template <class T, class Arch = simd::default_arch, class P>
void pack_rows(P w, index_t row_step, index_t count, index_t depth, T* panel, index_t ld) {
  constexpr index_t lanes = simd::width<T, Arch>;
  using batch = simd::batch<T, Arch>;
  for (index_t j = 0; j < ld; j += lanes) {
    const index_t rows = count - j < lanes ? count - j : lanes;
    for (index_t k = 0; k < depth; k += lanes) {
      const index_t steps = depth - k < lanes ? depth - k : lanes;
      batch block[static_cast<std::size_t>(lanes)];
      if (rows == lanes && steps == lanes) {
        GRAFT_UNROLL
        for (index_t i = 0; i < lanes; ++i) block[i] = simd::load_as<T, Arch>(w + (j + i) * row_step + k);
      } else {
        for (index_t i = 0; i < lanes; ++i)
          block[i] = i >= rows        ? batch(T(0))
                     : steps == lanes ? simd::load_as<T, Arch>(w + (j + i) * row_step + k)
                                      : simd::load_partial_as<T, Arch>(w + (j + i) * row_step + k, steps);
      }
      simd::transpose(block);
      for (index_t i = 0; i < steps; ++i) simd::store(panel + (k + i) * ld + j, block[i]);
    }
  }
}

/// panels[j / width][k][j % width] = w[k][j] for `count` columns, zeros up to whole vectors: neighbouring panels of `width` columns
/// each, copied row by row of w, decoded on the way.
template <class T, class Arch = simd::default_arch, class P>
void pack_columns(P w, index_t row_step, index_t count, index_t depth, T* panels, index_t width) {
  constexpr index_t lanes = simd::width<T, Arch>;
  for (index_t k = 0; k < depth; ++k, w += row_step, panels += width) {
    index_t j = 0;
    const P ahead = w + 16 * row_step;
    for (; j < count; j += line_values<P>) simd::prefetch(ahead + j);
    if constexpr (!std::is_pointer_v<P>) simd::prefetch(ahead + (count - 1));  // blocks lie across lines
    j = 0;
    for (T* panel = panels; j < count; panel += depth * width) {
      const index_t end = std::min(j + width, count);
      T* to = panel;
      for (; j + lanes <= end; j += lanes, to += lanes) simd::store(to, simd::load_as<T, Arch>(w + j));
      if (j < end) simd::store(to, simd::load_partial_as<T, Arch>(w + j, end - j));
      j = end;
    }
  }
}

}  // namespace graft::kernel
