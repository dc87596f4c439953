// SPDX-License-Identifier: Apache-2.0
// The operands of dense products as tiles read them: rows and panels, where they lie or packed, in any storage type.
// Read next: kernel/gemm.hpp.
#pragma once
#include <type_traits>

#include "graft/core/frozen_array.hpp"
#include "graft/core/tensor.hpp"
#include "graft/kernel/panel.hpp"

namespace graft::kernel::detail {

/// A part of an operand as a tile reads it: in the matrix itself, or packed.
template <class T>
struct panel_view {
  const T* data;
  index_t row_step;
  index_t panel_step = 0;  // from one panel to its neighbour, where there are several
  read_ahead<T> next{};    // the neighbour, where it has to be asked for
};

/// How many values of k are taken at a time from columns: lines that hold some of the next columns too stay at hand.
inline constexpr index_t column_depth = 384;

/// Whether rows of `row` values lie a page of memory or more apart: every step down a column is another page then, and the lines of a column
/// share few sets of the caches.
template <class T>
constexpr bool page_a_row(index_t row) noexcept { return row * static_cast<index_t>(sizeof(T)) >= 4096; }

/// Rows read where they are, in the rows or the columns of a: at most `most` at a time, which stay near, and `deepest` values of k.
template <class T, broadcast Lies = broadcast::from_rows>
struct raw_rows {
  static constexpr broadcast lies = Lies;
  static constexpr bool packed = false;
  static constexpr index_t most = 512, deepest = Lies == broadcast::from_rows ? panel_depth : column_depth;
  tensor_view<const T, 2> a;

  panel_view<T> operator()(index_t i, index_t, index_t k, index_t, T*) const {
    const index_t ld = a.stride[0];
    return {a.data + (Lies == broadcast::from_rows ? i * ld + k : k * ld + i), ld};
  }
};

template <class T>
using raw_columns = raw_rows<T, broadcast::from_columns>;

/// Rows that are columns of a, transposed while packed.
template <class T, class Arch>
struct turned_columns {
  static constexpr broadcast lies = broadcast::from_rows;
  static constexpr bool packed = true;
  static constexpr index_t most = 256, deepest = column_depth;
  tensor_view<const T, 2> a;

  panel_view<T> operator()(index_t i, index_t count, index_t k, index_t steps, T* scratch) const {
    const index_t ld = whole_vectors<T, Arch>(steps);
    pack_rows<T, Arch>(a.data + k * a.stride[0] + i, a.stride[0], steps, count, scratch, ld);
    return {scratch, ld};
  }
};

/// Panels whose columns are rows of w, transposed while packed.
template <class T, class Arch, class E>
struct row_panels {
  static constexpr bool across_rows = false;
  static constexpr index_t together = 1;
  stored_view<E> w;

  panel_view<T> operator()(index_t j, index_t count, index_t k, index_t steps, T* scratch) const {
    const index_t ld = whole_vectors<T, Arch>(count);
    pack_rows<T, Arch>(w.data + j * w.stride[0] + k, w.stride[0], count, steps, scratch, ld);
    return {scratch, ld};
  }
};

/// Panels that are column ranges of w: copied when many rows reuse them, read in place otherwise. Narrow ones are copied a few at a
/// time, so that three lines of memory of every row are used up at once, which is what the processor's own prefetching needs.
template <class T, class Arch, class E>
struct column_panels {
  static constexpr bool across_rows = true;
  static constexpr index_t width = tile_shape<T, Arch>::columns, together = std::max<index_t>(1, 3 * line_values<const T*> / width);
  stored_view<E> w;
  bool many_rows;  // so many that panels are best copied

  /// Those of w for a product of `rows` rows. Where rows of w are pages, copies pay for fewer rows. The storage type has no say, so that
  /// decoded weights give the same bits.
  static column_panels of(stored_view<E> w, index_t rows) {
    return {w, rows > (together > 1 ? 16 : page_a_row<T>(w.shape[1]) ? 64 : 256)};
  }

  /// How many values of k a pass should take. In place: the lines that a panel touches must still be at hand when its neighbour, which
  /// has the rest of them, comes along. Copies must stay in the second-level cache.
  index_t deepest(index_t rows) const noexcept {
    if (!many_rows) return rows <= 16 ? 32 : rows <= 64 ? 64 : 256;
    if (together > 1) return rows <= 64 ? 512 : 1024;
    return rows <= 128 ? 1024 : panel_depth;
  }

  panel_view<T> operator()(index_t j, index_t count, index_t k, index_t steps, T* scratch) const {
    const auto from = w.data + k * w.stride[0] + j;
    if constexpr (std::is_same_v<T, E>)
      if (!many_rows && count % simd::width<T, Arch> == 0)
        return {from, w.stride[0], width, {from + width, w.stride[0], steps}};
    pack_columns<T, Arch>(from, w.stride[0], count, steps, scratch, width);
    return {scratch, width, steps * width};
  }
};

/// Calls f with the matrix seen as elements of T, bf16 or f16, or as blocks. Throws dtype_error for other storage types.
template <class T, class F>
void visit_storage(const matrix_ref& m, F&& f) {
  if (m.type == dtype_of<T>) return f(plain_matrix<T>(m));
  if (m.type == dtype::bf16) return f(plain_matrix<bf16>(m));
  if (m.type == dtype::f16) return f(plain_matrix<f16>(m));
  if (is_block_format(m.type)) return visit_blocks(m.type, [&]<class B>(B*) { f(block_matrix<B>(m)); });
  throw_error<dtype_error>("a ", name_of(m.type), " matrix cannot be multiplied in ", name_of(dtype_of<T>),
                           ": convert it first");
}

}  // namespace graft::kernel::detail
