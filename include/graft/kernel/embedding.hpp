// SPDX-License-Identifier: Apache-2.0
// Table look-up: gather rows by number, and scatter gradients back. Read next: ops/embedding.hpp.
#pragma once
#include <cstdint>

#include "graft/core/context.hpp"
#include "graft/core/frozen_array.hpp"
#include "graft/simd/simd.hpp"

namespace graft::kernel {

/// y(n, .) = table(ids[n], .) + beta y(n, .), converting from the table's storage type. Shapes: table (V, C), y (N, C)
/// contiguous; ids below V.
template <class T>
void gather_rows(context& ctx, const matrix_ref& table, const std::int32_t* ids, index_t rows, T* y, T beta) {
  visit_matrix(table, [&]<class E>(tensor_view<const E, 2> from) {
    const index_t columns = from.shape[1];
    ctx.executor().parallel_for(rows, 1 + 8192 / (columns + 1), [&](index_t first, index_t last) {
      for (index_t n = first; n < last; ++n) {
        GRAFT_ASSERT(ids[n] >= 0 && ids[n] < from.shape[0]);
        const E* row = from.data + ids[n] * from.stride[0];
        T* to = y + n * columns;
        if (beta == T(0)) for (index_t c = 0; c < columns; ++c) to[c] = convert<T>(row[c]);
        else for (index_t c = 0; c < columns; ++c) to[c] = convert<T>(row[c]) + beta * to[c];
      }
    });
  });
}

/// dtable(ids[n], .) += dy(n, .), after dtable was scaled by beta. Tasks split the columns, so that rows which share an
/// id are added in order.
template <class T>
void scatter_rows(context& ctx, const T* dy, const std::int32_t* ids, index_t rows, tensor_view<T, 2> dtable, T beta) {
  const index_t columns = dtable.shape[1];
  ctx.executor().parallel_for(columns, 64, [&](index_t first, index_t last) {
    for (index_t v = 0; v < dtable.shape[0] && beta != T(1); ++v)
      for (index_t c = first; c < last; ++c) dtable(v, c) = beta == T(0) ? T(0) : beta * dtable(v, c);
    for (index_t n = 0; n < rows; ++n) {
      T* to = dtable.data + ids[n] * dtable.stride[0];
      for (index_t c = first; c < last; ++c) to[c] += dy[n * columns + c];
    }
  });
}

}  // namespace graft::kernel
