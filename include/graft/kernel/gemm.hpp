// SPDX-License-Identifier: Apache-2.0
// Dense matrix products in the three forms a linear layer needs: forward (nt), input gradient (nn), weight gradient (tn).
// Weights are read raw, row-major, in any floating-point storage type or block format. Read next: kernel/operand.hpp for how.
#pragma once
#include <algorithm>
#include <type_traits>

#include "graft/core/context.hpp"
#include "graft/core/frozen_array.hpp"
#include "graft/core/tensor.hpp"
#include "graft/kernel/bf16_operand.hpp"
#include "graft/kernel/dot.hpp"
#include "graft/kernel/operand.hpp"
#include "graft/simd/processor.hpp"

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

/// Whether the rows of an operand hold pairs of bf16 values in place of floats.
template <class Rows>
inline constexpr bool in_pairs = requires { Rows::pairs; };

/// Panels cut across the rows of a matrix touch every one of those rows: a group of neighbouring panels goes over a few
/// rows at a time, so that whole cache lines and pages are used up while they are at hand. Panels that are rows of a
/// matrix are read along k and need no company. Where both operands are packed, the longer side is split.
template <class Rows, class Panel, index_t Width>
task_shape plan_tasks(const Panel& panel, index_t rows, index_t depth, index_t panels, store order, index_t concurrency) {
  const index_t wanted = concurrency == 1 ? 1 : 2 * concurrency;
  index_t row_blocks = (rows + Rows::most - 1) / Rows::most, groups = 1;
  if constexpr (Rows::packed) {
    while (groups * row_blocks < wanted && rows > 16 * row_blocks) {
      if (groups < panels && panels * Width * row_blocks > rows * groups) ++groups;
      else ++row_blocks;
    }
  } else {
    groups = Panel::across_rows ? std::min(wanted, panels) : panels;
    if (groups * row_blocks < wanted && rows > 64)  // no more blocks than needed: each packs its panels anew
      row_blocks = (wanted + groups - 1) / groups;
  }
  const index_t block = ((rows + row_blocks - 1) / row_blocks + 7) / 8 * 8;
  index_t deepest = Rows::deepest;
  if constexpr (requires { panel.deepest(rows); })
    if (order == store::straight) deepest = std::min(deepest, panel.deepest(rows));
  return {block, (panels + groups - 1) / groups, std::min(depth, pass_depth(depth, deepest))};
}

/// Runs c = alpha (a b + term) + beta c by panels of b. `a(first row, rows, first k, steps, scratch)` and `panel(first column,
/// columns, first k, steps, scratch)` give a part of an operand: packed into scratch, or where it is. The term's right factor
/// lies as b does.
template <store Order, class Arch, class T, class Rows, class Panel>
void run_panels(context& ctx, index_t rows, index_t depth, index_t columns, Rows a, Panel panel, tensor_view<T, 2> c,
                product_scale scale, low_rank_term<T> term = {}) {
  const T alpha = static_cast<T>(scale.alpha), beta = static_cast<T>(scale.beta);
  const index_t ldc = c.stride[0];
  constexpr index_t width = tile_shape<T, Arch>::columns;
  const index_t panels = (columns + width - 1) / width;
  const task_shape plan = plan_tasks<Rows, Panel, width>(panel, rows, depth, panels, Order, ctx.executor().concurrency());
  const index_t groups = (panels + plan.panels - 1) / plan.panels, blocks = (rows + plan.rows - 1) / plan.rows;
  constexpr index_t together = Panel::together;
  const index_t panels_size = together * plan.pass * width, panel_size = panels_size + term.rank() * width;
  index_t room = Rows::packed ? plan.rows * whole_vectors<T, Arch>(plan.pass) : 0;
  if constexpr (in_pairs<Rows>) room = (plan.rows + matrix_rows - 1) / matrix_rows * matrix_rows * whole_pairs(plan.pass);
  ctx.scratch().reserve(static_cast<std::size_t>(panel_size + room) * sizeof(T));
  const auto second = [&term](index_t i, index_t j, index_t count, T* scratch) -> more_terms<T> {
    if (term.rank() == 0) return {};
    panel_view<T> right;
    if constexpr (Panel::across_rows) right = column_panels<T, Arch, T>{term.right, false}(j, count, 0, term.rank(), scratch);
    else right = row_panels<T, Arch, T>{term.right}(j, count, 0, term.rank(), scratch);
    return {term.left.data + i * term.left.stride[0], term.left.stride[0], right.data, right.row_step, term.rank()};
  };
  ctx.executor().parallel_for(groups * blocks, 1, [&](index_t task, index_t) {
    const auto scratch = ctx.scratch().take();
    const std::conditional_t<in_pairs<Rows>, matrix_registers, no_registers> registers;
    T* const panel_room = scratch.template as<T>();
    const index_t i = task / groups * plan.rows, block = std::min(rows - i, plan.rows);
    const index_t first = task % groups * plan.panels * width, last = std::min(columns, first + plan.panels * width);
    for (index_t k = 0; k < depth; k += plan.pass) {
      const index_t steps = std::min(depth - k, plan.pass);
      const panel_view<T> from = a(i, block, k, steps, panel_room + panel_size);
      const bool last_pass = k + steps == depth;
      for (index_t start = first; start < last; start += together * width) {
        const index_t end = std::min(last, start + together * width);
        const panel_view<T> b = panel(start, end - start, k, steps, panel_room);
        const T* from_panel = b.data;
        for (index_t j = start; j < end; j += width, from_panel += b.panel_step) {
          const index_t count = std::min(end - j, width);
          read_ahead<T> next;
          if (b.next.rows != 0 && j + width < columns) next = {b.next.at + (j - start), b.next.step, b.next.rows};
          T* const to = c.data + (Order == store::straight ? i * ldc + j : j * ldc + i);
          const tile_output<T> out{to, ldc, alpha, k == 0 ? beta : T(1), count};
          const auto more = last_pass ? second(i, j, count, panel_room + panels_size) : more_terms<T>{};
          if constexpr (in_pairs<Rows>) run_pair_panel<Arch>(block, from.row_step, from.data, from.row_step, from_panel, out, more);
          else run_panel<Rows::lies, Order, T, Arch>(block, steps, from.data, from.row_step, from_panel, b.row_step, out, next, more);
        }
      }
    }
  });
}

/// matmul_nt and matmul_nn by bf16 pairs.
template <class Arch, class W>
void matmul_nt_in_bf16(context& ctx, tensor_view<const float, 2> x, W w, tensor_view<float, 2> y, product_scale scale, low_rank_term<float> term) {
  run_panels<store::straight, Arch>(ctx, x.shape[0], x.shape[1], y.shape[1], rounded_rows<Arch>{x},
                                    row_pairs<Arch, typename W::value_type>{w}, y, scale, term);
}
template <class Arch, class W>
void matmul_nn_in_bf16(context& ctx, tensor_view<const float, 2> x, W w, tensor_view<float, 2> y, product_scale scale, low_rank_term<float> term) {
  run_panels<store::straight, Arch>(ctx, x.shape[0], x.shape[1], y.shape[1], rounded_rows<Arch>{x},
                                    column_pairs<Arch, typename W::value_type>{w}, y, scale, term);
}

}  // namespace detail

/// Whether products of T that a context wants in bf16 are: it takes a source, or a graft::precompiled, compiled for AVX-512 at least, and
/// a processor that gains by such products. Where not, they are taken in T.
template <class T, class Arch = simd::default_arch>
bool multiplies_in_bf16() {
  return detail::could_go_in_bf16<T, Arch> && simd::gains_by_bf16();
}

/// y = x w^T, and with a term x w^T + left right^T. Shapes: x (N, K), w (M, K) -> y (N, M). Cost: 2 N M (K + R) flops.
/// w: T, bf16, f16 or a block format, decoded as it is packed. Where the context asks for bf16 products, x and w are rounded to bf16
/// and summed in float; a term stays in float. Up to eight rows go by dot_product, which may round x to 16 bits.
template <class T, class Arch = simd::default_arch>
void matmul_nt(context& ctx, tensor_view<const T, 2> x, matrix_ref w, tensor_view<T, 2> y, product_scale scale = {},
               low_rank_term<std::type_identity_t<T>> term = {}) {
  GRAFT_ASSERT(x.shape[1] == w.cols && y.shape[0] == x.shape[0] && y.shape[1] == w.rows);
  GRAFT_ASSERT(term.rank() == 0 || (term.left.shape[0] == x.shape[0] && term.right.shape == extents<2>{w.rows, term.rank()}));
  using namespace detail;
  const T alpha = static_cast<T>(scale.alpha), beta = static_cast<T>(scale.beta);
  const index_t n = x.shape[0], m = w.rows, depth = w.cols;
  if (term.rank() != 0 && n > 8 && (m <= 8 || term.rank() > term.most)) {
    matmul_nt<T, Arch>(ctx, x, w, y, scale);
    return matmul_nt<T, Arch>(ctx, term.left, term.right, y, {scale.alpha, 1});
  }
  visit_storage<T>(w, [&](auto weights) {
    using E = typename decltype(weights)::value_type;
    if (n <= 8) return dot_product<T, Arch>(ctx, weights, x, y.transpose(), alpha, beta, term);
    if constexpr (could_go_in_bf16<T, Arch>)
      if (goes_in_bf16(ctx, n, m, depth)) return matmul_nt_in_bf16<Arch>(ctx, x, weights, y, scale, term);
    if constexpr (std::is_same_v<T, E>) {
      if (m <= 8) return dot_product<T, Arch>(ctx, x, weights, y, alpha, beta);
      // Few rows: leave w unpacked, unless it comes from memory by rows too short for the processor to run ahead.
      if (depth >= 1024 ? n <= 96 : n <= 64 && m * depth * static_cast<index_t>(sizeof(T)) < (index_t{12} << 20))
        return run_panels<store::transposed, Arch>(ctx, m, depth, n, raw_rows<T>{weights}, row_panels<T, Arch, T>{x}, y, scale,
                                                   low_rank_term<T>{term.right, term.left});
    }
    run_panels<store::straight, Arch>(ctx, n, depth, m, raw_rows<T>{x}, row_panels<T, Arch, E>{weights}, y, scale, term);
  });
}

/// y = x w, and with a term x w + left right. Shapes: x (N, K), w (K, M) -> y (N, M). Cost: 2 N M (K + R) flops.
/// w: T, bf16, f16 or a block format.
template <class T, class Arch = simd::default_arch>
void matmul_nn(context& ctx, tensor_view<const T, 2> x, matrix_ref w, tensor_view<T, 2> y, product_scale scale = {},
               low_rank_term<std::type_identity_t<T>> term = {}) {
  GRAFT_ASSERT(x.shape[1] == w.rows && y.shape[0] == x.shape[0] && y.shape[1] == w.cols);
  GRAFT_ASSERT(term.rank() == 0 || (term.left.shape[0] == x.shape[0] && term.right.shape == extents<2>{term.rank(), w.cols}));
  using namespace detail;
  const index_t n = x.shape[0], depth = w.rows, m = w.cols;
  if (term.rank() != 0 && (m <= 8 || term.rank() > term.most)) {
    matmul_nn<T, Arch>(ctx, x, w, y, scale);
    return matmul_nn<T, Arch>(ctx, term.left, term.right, y, {scale.alpha, 1});
  }
  visit_storage<T>(w, [&](auto weights) {
    using E = typename decltype(weights)::value_type;
    if (m <= 8 && n >= 8) {  // too narrow for a vector of columns: transpose the few and take dot products
      const buffer_handle columns = ctx.pool().take(static_cast<std::size_t>(m * depth) * sizeof(T));
      const tensor_view<T, 2> few(reinterpret_cast<T*>(columns.data()), {m, depth});
      for (index_t k = 0; k < depth; ++k)
        for (index_t j = 0; j < m; ++j) few(j, k) = convert<T>(weights(k, j));
      return dot_product<T, Arch>(ctx, x, tensor_view<const T, 2>(few), y, static_cast<T>(scale.alpha),
                                  static_cast<T>(scale.beta));
    }
    if constexpr (could_go_in_bf16<T, Arch>)
      if (goes_in_bf16(ctx, n, m, depth)) return matmul_nn_in_bf16<Arch>(ctx, x, weights, y, scale, term);
    run_panels<store::straight, Arch>(ctx, n, depth, m, raw_rows<T>{x}, column_panels<T, Arch, E>::of(weights, n), y, scale, term);
  });
}

/// c = a^T b. Shapes: a (N, K), b (N, M) -> c (K, M), the sum over the N rows. Cost: 2 N M K flops.
template <class T, class Arch = simd::default_arch>
void matmul_tn(context& ctx, tensor_view<const T, 2> a, tensor_view<const T, 2> b, tensor_view<T, 2> c,
               product_scale scale = {}) {
  GRAFT_ASSERT(a.shape[0] == b.shape[0] && c.shape[0] == a.shape[1] && c.shape[1] == b.shape[1]);
  using namespace detail;
  const index_t depth = a.shape[0], rows = a.shape[1], columns = b.shape[1];
  if (columns <= 16 && columns < rows)  // a narrow result: compute its transpose, whose columns are many
    return run_panels<store::transposed, Arch>(ctx, columns, depth, rows, raw_columns<T>{b}, column_panels<T, Arch, T>{a, false},
                                               c, scale);
  const auto panels = column_panels<T, Arch, T>::of(b, rows);
  if (page_a_row<T>(a.stride[0]) && rows >= 64 && depth > 64)
    return run_panels<store::straight, Arch>(ctx, rows, depth, columns, turned_columns<T, Arch>{a}, panels, c, scale);
  run_panels<store::straight, Arch>(ctx, rows, depth, columns, raw_columns<T>{a}, panels, c, scale);
}

}  // namespace graft::kernel
