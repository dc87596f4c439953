// SPDX-License-Identifier: Apache-2.0
// Table look-up: gather rows by number, and scatter gradients back. Read next: ops/embedding.hpp.
#pragma once
#include <algorithm>
#include <cstdint>

#include "graft/core/context.hpp"
#include "graft/core/frozen_array.hpp"
#include "graft/simd/blocks.hpp"

namespace graft::kernel {

namespace detail {

/// y = x + beta y over n values, x converted from its storage type, which P points to. With beta = 0 the old y is not read.
template <class T, class Arch, class P>
GRAFT_INLINE void blend_row(index_t n, P x, T beta, T* y) {
  constexpr index_t w = simd::width<T, Arch>;
  const simd::batch<T, Arch> keep(beta);
  index_t c = 0;
  for (; c + w <= n; c += w) {
    auto v = simd::load_as<T, Arch>(x + c);
    if (beta != T(0)) v = simd::fma(keep, simd::load<T, Arch>(y + c), v);
    simd::store(y + c, v);
  }
  if (const index_t rest = n - c; rest != 0) {
    auto v = simd::load_partial_as<T, Arch>(x + c, rest);
    if (beta != T(0)) v = simd::fma(keep, simd::load_partial<T, Arch>(y + c, rest), v);
    simd::store_partial(y + c, v, rest);
  }
}

}  // namespace detail

/// y(n, .) = table(ids[n], .) + beta y(n, .), converting from the table's storage type or block format. Shapes: table (V, C), y (N, C)
/// contiguous; ids below V.
template <class T, class Arch = simd::default_arch>
void gather_rows(context& ctx, const matrix_ref& table, const std::int32_t* ids, index_t rows, T* y, T beta) {
  visit_matrix(table, [&](auto from) {
    const index_t columns = from.shape[1];
    ctx.executor().parallel_for(rows, 1 + 8192 / (columns + 1), [&](index_t first, index_t last) {
      for (index_t n = first; n < last; ++n) {
        GRAFT_ASSERT(ids[n] >= 0 && ids[n] < from.shape[0]);
        detail::blend_row<T, Arch>(columns, from.data + ids[n] * from.stride[0], beta, y + n * columns);
      }
    });
  });
}

/// dtable(ids[n], .) += dy(n, .), after dtable was scaled by beta. Tasks split the rows of the table, each looking through
/// all ids, so that gradients which share an id are added in order.
template <class T, class Arch = simd::default_arch>
void scatter_rows(context& ctx, const T* dy, const std::int32_t* ids, index_t rows, tensor_view<T, 2> dtable, T beta) {
  const index_t columns = dtable.shape[1];
  ctx.executor().parallel_for(dtable.shape[0], 1 + 131072 / (columns + 1), [&](index_t first, index_t last) {
    for (index_t v = first; v < last && beta != T(1); ++v) {
      T* row = dtable.data + v * dtable.stride[0];
      if (beta == T(0)) std::fill_n(row, columns, T(0));
      else for (index_t c = 0; c < columns; ++c) row[c] *= beta;
    }
    for (index_t n = 0; n < rows; ++n)
      if (ids[n] >= first && ids[n] < last)
        detail::blend_row<T, Arch>(columns, dy + n * columns, T(1), dtable.data + ids[n] * dtable.stride[0]);
  });
}

}  // namespace graft::kernel
