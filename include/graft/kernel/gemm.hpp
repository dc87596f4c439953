// SPDX-License-Identifier: Apache-2.0
// Dense matrix products in the three forms a linear layer needs: forward (nt), input gradient (nn), weight gradient (tn).
// Weights are read raw, row-major, in any floating-point storage type. Read next: kernel/panel.hpp for how.
#pragma once
#include "graft/core/context.hpp"
#include "graft/core/frozen_array.hpp"
#include "graft/core/tensor.hpp"
#include "graft/kernel/dot.hpp"
#include "graft/kernel/panel.hpp"

namespace graft::kernel {

/// c = alpha * product + beta * c. With beta = 0 the old contents of c are not read.
struct product_scale {
  double alpha = 1, beta = 0;
};

namespace detail {

/// What one task computes: a block of rows against a group of panels, in passes over k. None of it changes a bit of the
/// result except `pass`, which follows from the shape alone.
struct task_shape {
  index_t rows, panels, pass;
};

/// Panels cut across the rows of a matrix touch every one of those rows: a group of neighbouring panels goes over a few
/// rows at a time, so that whole cache lines and pages are used up while they are at hand. Panels that are rows of a
/// matrix are read along k and need no company.
inline task_shape plan_tasks(index_t rows, index_t depth, index_t panels, bool across, store order, index_t concurrency) {
  index_t row_blocks = (rows + 511) / 512;  // more rows than this overflow the second-level cache
  const index_t wanted = concurrency == 1 ? 1 : 2 * concurrency;
  const index_t group = across ? (panels + wanted - 1) / wanted : 1, groups = (panels + group - 1) / group;
  if (groups * row_blocks < wanted && rows > 64) row_blocks = (wanted + groups - 1) / groups;  // every block packs its panels anew
  index_t block = (rows + row_blocks - 1) / row_blocks;
  block = (block + 7) / 8 * 8;
  const bool shallow = across && order == store::straight;  // few rows: go along the rows of the matrix, not down
  return {block, group, pass_depth(depth, shallow && rows <= 8 ? 32 : shallow && rows <= 32 ? 128 : panel_depth)};
}

/// Runs c = alpha a b + beta c by panels of b. `panel(first column, columns, first k, steps, scratch)` gives a pointer to
/// the panel and its row step: either packed into scratch or the matrix itself.
template <broadcast Lies, store Order, class T, class Arch, class Panel>
void run_panels(context& ctx, index_t rows, index_t depth, index_t columns, const T* a, index_t lda, Panel panel, T* c,
                index_t ldc, T alpha, T beta) {
  constexpr index_t width = tile_shape<T, Arch>::columns;
  const index_t panels = (columns + width - 1) / width;
  const task_shape plan = plan_tasks(rows, depth, panels, Panel::across_rows, Order, ctx.executor().concurrency());
  const index_t groups = (panels + plan.panels - 1) / plan.panels, blocks = (rows + plan.rows - 1) / plan.rows;
  ctx.scratch().reserve(static_cast<std::size_t>(panel_depth * width) * sizeof(T));
  ctx.executor().parallel_for(groups * blocks, 1, [&](index_t task, index_t) {
    const auto scratch = ctx.scratch().take();
    const index_t i = task / groups * plan.rows, block = std::min(rows - i, plan.rows);
    const index_t first = task % groups * plan.panels * width, last = std::min(columns, first + plan.panels * width);
    for (index_t k = 0; k < depth; k += plan.pass) {
      const index_t steps = std::min(depth - k, plan.pass);
      const T* from = Lies == broadcast::from_rows ? a + i * lda + k : a + k * lda + i;
      for (index_t j = first; j < last; j += width) {
        const index_t count = std::min(last - j, width);
        const auto [b, ldb] = panel(j, count, k, steps, scratch.template as<T>());
        T* const to = Order == store::straight ? c + i * ldc + j : c + j * ldc + i;
        run_panel<Lies, Order, T, Arch>(block, steps, from, lda, b, ldb, {to, ldc, alpha, k == 0 ? beta : T(1), count});
      }
    }
  });
}

template <class T>
struct panel_view {
  const T* data;
  index_t row_step;
};

/// Width of the scratch panel that holds `count` columns: whole vectors.
template <class T, class Arch>
constexpr index_t padded(index_t count) noexcept {
  return (count + simd::width<T, Arch> - 1) / simd::width<T, Arch> * simd::width<T, Arch>;
}

/// Panels whose columns are rows of w, transposed while packed.
template <class T, class Arch, class E>
struct row_panels {
  static constexpr bool across_rows = false;
  tensor_view<const E, 2> w;

  panel_view<T> operator()(index_t j, index_t count, index_t k, index_t steps, T* scratch) const {
    const index_t ld = padded<T, Arch>(count);
    pack_rows<T, Arch>(w.data + j * w.stride[0] + k, w.stride[0], count, steps, scratch, ld);
    return {scratch, ld};
  }
};

/// Panels that are column ranges of w: copied when many rows reuse them, read in place otherwise.
template <class T, class Arch, class E>
struct column_panels {
  static constexpr bool across_rows = true;
  tensor_view<const E, 2> w;
  bool reused;

  panel_view<T> operator()(index_t j, index_t count, index_t k, index_t steps, T* scratch) const {
    const E* from = w.data + k * w.stride[0] + j;
    if constexpr (std::is_same_v<T, E>)
      if (!reused && count % simd::width<T, Arch> == 0) return {from, w.stride[0]};
    const index_t ld = padded<T, Arch>(count);
    pack_columns<T, Arch>(from, w.stride[0], count, steps, scratch, ld);
    return {scratch, ld};
  }
};

/// Calls f with the matrix seen as elements of T, bf16 or f16. Throws dtype_error for other storage types.
template <class T, class F>
void visit_storage(const matrix_ref& m, F&& f) {
  const auto as = [&]<class E>(E*) {
    f(tensor_view<const E, 2>(reinterpret_cast<const E*>(m.data), {m.rows, m.cols},
                              {m.row_bytes / static_cast<index_t>(sizeof(E)), 1}));
  };
  if (m.type == dtype_of<T>) return as(static_cast<T*>(nullptr));
  if (m.type == dtype::bf16) return as(static_cast<bf16*>(nullptr));
  if (m.type == dtype::f16) return as(static_cast<f16*>(nullptr));
  throw_error<dtype_error>("a ", name_of(m.type), " matrix cannot be multiplied in ", name_of(dtype_of<T>),
                           ": convert it first");
}

}  // namespace detail

/// y = x w^T. Shapes: x (N, K), w (M, K) -> y (N, M). Cost: 2 N M K flops. w: T, bf16 or f16, decoded as it is packed.
template <class T, class Arch = simd::default_arch>
void matmul_nt(context& ctx, tensor_view<const T, 2> x, matrix_ref w, tensor_view<T, 2> y, product_scale scale = {}) {
  GRAFT_ASSERT(x.shape[1] == w.cols && y.shape[0] == x.shape[0] && y.shape[1] == w.rows);
  const T alpha = static_cast<T>(scale.alpha), beta = static_cast<T>(scale.beta);
  const index_t n = x.shape[0], m = w.rows, depth = w.cols;
  detail::visit_storage<T>(w, [&]<class E>(tensor_view<const E, 2> weights) {
    if (n <= 8) return dot_product<T, Arch>(ctx, weights, x, y.transpose(), alpha, beta);
    if constexpr (std::is_same_v<T, E>)
      if (m <= 8) return dot_product<T, Arch>(ctx, x, weights, y, alpha, beta);
    if constexpr (std::is_same_v<T, E>)
      if (n <= 64 && m * depth * static_cast<index_t>(sizeof(T)) < (index_t{12} << 20))  // few rows: leave w unpacked
        return detail::run_panels<broadcast::from_rows, store::transposed, T, Arch>(
            ctx, m, depth, n, weights.data, weights.stride[0], detail::row_panels<T, Arch, T>{x}, y.data, y.stride[0], alpha,
            beta);
    detail::run_panels<broadcast::from_rows, store::straight, T, Arch>(
        ctx, n, depth, m, x.data, x.stride[0], detail::row_panels<T, Arch, E>{weights}, y.data, y.stride[0], alpha, beta);
  });
}

/// y = x w. Shapes: x (N, K), w (K, M) -> y (N, M). Cost: 2 N M K flops. w: T, bf16 or f16.
template <class T, class Arch = simd::default_arch>
void matmul_nn(context& ctx, tensor_view<const T, 2> x, matrix_ref w, tensor_view<T, 2> y, product_scale scale = {}) {
  GRAFT_ASSERT(x.shape[1] == w.rows && y.shape[0] == x.shape[0] && y.shape[1] == w.cols);
  const T alpha = static_cast<T>(scale.alpha), beta = static_cast<T>(scale.beta);
  detail::visit_storage<T>(w, [&]<class E>(tensor_view<const E, 2> weights) {
    if (w.cols <= 8 && x.shape[0] >= 8) {  // too narrow for a vector of columns: transpose the few and take dot products
      const buffer_handle columns = ctx.pool().take(static_cast<std::size_t>(w.cols * w.rows) * sizeof(T));
      const tensor_view<T, 2> few(reinterpret_cast<T*>(columns.data()), {w.cols, w.rows});
      for (index_t k = 0; k < w.rows; ++k)
        for (index_t j = 0; j < w.cols; ++j) few(j, k) = convert<T>(weights(k, j));
      return dot_product<T, Arch>(ctx, x, tensor_view<const T, 2>(few), y, alpha, beta);
    }
    detail::run_panels<broadcast::from_rows, store::straight, T, Arch>(
        ctx, x.shape[0], w.rows, w.cols, x.data, x.stride[0], detail::column_panels<T, Arch, E>{weights, x.shape[0] >= 32},
        y.data, y.stride[0], alpha, beta);
  });
}

/// c = a^T b. Shapes: a (N, K), b (N, M) -> c (K, M), the sum over the N rows. Cost: 2 N M K flops. Workspace: a copy of
/// a, unless it is small.
template <class T, class Arch = simd::default_arch>
void matmul_tn(context& ctx, tensor_view<const T, 2> a, tensor_view<const T, 2> b, tensor_view<T, 2> c,
               product_scale scale = {}) {
  GRAFT_ASSERT(a.shape[0] == b.shape[0] && c.shape[0] == a.shape[1] && c.shape[1] == b.shape[1]);
  const T alpha = static_cast<T>(scale.alpha), beta = static_cast<T>(scale.beta);
  const index_t depth = a.shape[0], rows = a.shape[1], columns = b.shape[1];
  if (columns <= 16 && columns < rows)  // a narrow result: compute its transpose, whose columns are many
    return detail::run_panels<broadcast::from_columns, store::transposed, T, Arch>(
        ctx, columns, depth, rows, b.data, b.stride[0], detail::column_panels<T, Arch, T>{a, false}, c.data, c.stride[0],
        alpha, beta);
  if (rows >= 64 && depth > 64) {  // down the columns of a, every step would touch another page: transpose it once
    const index_t ld = detail::padded<T, Arch>(depth);
    const buffer_handle memory = ctx.pool().take(static_cast<std::size_t>(rows * ld) * sizeof(T));
    T* const at = reinterpret_cast<T*>(memory.data());
    ctx.executor().parallel_for(rows, 64, [&](index_t first, index_t last) {
      pack_rows<T, Arch>(a.data + first, a.stride[0], depth, last - first, at + first * ld, ld);
    });
    return detail::run_panels<broadcast::from_rows, store::straight, T, Arch>(
        ctx, rows, depth, columns, at, ld, detail::column_panels<T, Arch, T>{b, true}, c.data, c.stride[0], alpha, beta);
  }
  detail::run_panels<broadcast::from_columns, store::straight, T, Arch>(
      ctx, rows, depth, columns, a.data, a.stride[0], detail::column_panels<T, Arch, T>{b, rows >= 32}, c.data, c.stride[0],
      alpha, beta);
}

}  // namespace graft::kernel
