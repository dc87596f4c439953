// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention: backward, tile by tile, recomputing the probabilities from the saved log sums.
// Read next: ops/attention.hpp.
#pragma once
#include "graft/kernel/attention.hpp"

namespace graft::kernel {

/// Where a gradient goes: to = beta * to + gradient. A null pointer means that nobody wants it.
template <class T>
struct gradient_target {
  T* data = nullptr;
  index_t row_step = 0;
  T beta = 0;
};

namespace detail {

/// p[i][j] = exp(scale p[i][j] - lse(i)) for visible pairs, else 0; ds[i][j] = p (ds - delta(i)) scale.
template <class T, class Arch>
void probabilities_and_gradient(T* p, T* ds, index_t rows, index_t columns, index_t ld, T scale, const T* lse, const T* delta,
                                const index_t* visible) {
  using batch = simd::batch<T, Arch>;
  for (index_t i = 0; i < rows; ++i) {
    T *pr = p + i * ld, *dr = ds + i * ld;
    const index_t shown = std::clamp<index_t>(visible[i], 0, columns);
    const batch by(scale), less(-lse[i]), minus(delta[i]);
    for_each_vector<T, Arch>(shown, [&](index_t c, index_t lanes) {
      const batch e = simd::exp(simd::fma(by, simd::load_first<T, Arch>(pr + c, lanes), less));
      simd::store_first(pr + c, e, lanes);
      simd::store_first(dr + c, e * (simd::load_first<T, Arch>(dr + c, lanes) - minus) * by, lanes);
    });
    std::fill(pr + shown, pr + columns, T(0));
    std::fill(dr + shown, dr + columns, T(0));
  }
}

/// Everything the backward pass of one (sequence, query head) reads and writes.
template <class T, class Arch>
struct backward_task {
  const attention_layout& at;
  tensor_view<const T, 2> q, k, v, y, dy;
  const T* log_sum;
  key_panels<T, Arch> k_panels, v_panels;
  gradient_target<T> dq, dk, dv;
  index_t s, head, key_column;  // key_column: where this head's part of dk and dv begins

  static constexpr index_t block = tile_shape<T, Arch>::columns;  // square tiles
  static constexpr index_t scratch_elements = 2 * block * block + panel_depth * block;

  /// Blocks of query rows go over the keys four at a time: what belongs to a key block is brought in once for all four.
  void run(T* edge) const {
    constexpr index_t together = 4 * block;
    T lse[together], delta[together];
    const row_range queries = rows_of(at.query_offsets, s);
    for (index_t first = 0; first < queries.count; first += together) {
      const index_t end = std::min(queries.count, first + together);
      for (index_t i = first; i < end; ++i) {
        const index_t row = queries.first + i, column = head * at.head_size;
        delta[i - first] = inner_product(&dy(row, column), &y(row, column));
        lse[i - first] = log_sum[row * at.heads + head];
      }
      for (index_t j = 0; j < seen_before(end); j += block)
        for (index_t i = first; i < end; i += block) {
          const index_t rows = std::min(block, end - i);
          if (j < seen_before(i + rows)) run_tiles(i, rows, j, j >= seen_before(i), lse + (i - first), delta + (i - first), edge);
        }
    }
  }

 private:
  /// Keys that any query row before `i` sees.
  index_t seen_before(index_t i) const {
    return i == 0 ? 0 : visible_keys(at, rows_of(at.query_offsets, s).count, rows_of(at.key_offsets, s).count, i - 1);
  }

  T inner_product(const T* a, const T* b) const {
    simd::batch<T, Arch> sum(T(0));
    for_each_vector<T, Arch>(at.head_size, [&](index_t c, index_t lanes) {
      sum = simd::fma(simd::load_first<T, Arch>(a + c, lanes), simd::load_first<T, Arch>(b + c, lanes), sum);
    });
    return simd::sum(sum);
  }

  /// The five products of query rows [i, i + rows) and the key block at j. `first` says that no row block before this one
  /// has written to this key block.
  void run_tiles(index_t i, index_t rows, index_t j, bool first, const T* lse, const T* delta, T* edge) const {
    T *const p = edge + panel_depth * block, *const ds = p + block * block;
    const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
    const index_t d = at.head_size, kv = head / at.group(), columns = std::min(block, keys.count - j);
    const index_t row = queries.first + i, key = keys.first + j;
    const T *const qi = &q(row, head * d), *const dyi = &dy(row, head * d), *const kj = &k(key, kv * d);
    index_t visible[block];
    for (index_t r = 0; r < rows; ++r) visible[r] = visible_keys(at, queries.count, keys.count, i + r) - j;

    run_panel<broadcast::from_rows, store::straight, T, Arch>(
        rows, d, qi, q.stride[0], k_panels.panel(s, kv, j / block), block, {p, block, T(1), T(0), columns});
    run_panel<broadcast::from_rows, store::straight, T, Arch>(
        rows, d, dyi, dy.stride[0], v_panels.panel(s, kv, j / block), block, {ds, block, T(1), T(0), columns});
    probabilities_and_gradient<T, Arch>(p, ds, rows, columns, block, static_cast<T>(at.scale), lse, delta, visible);
    const auto add_to_keys = [&](const gradient_target<T>& to, const T* weights, const T* x, index_t ldx) {
      if (to.data != nullptr)
        multiply_head<broadcast::from_columns, T, Arch>(columns, rows, weights, block, x, ldx, d,
                                                        to.data + key * to.row_step + key_column, to.row_step, T(1),
                                                        first ? to.beta : T(1), edge);
    };
    add_to_keys(dv, p, dyi, dy.stride[0]);
    add_to_keys(dk, ds, qi, q.stride[0]);
    if (dq.data != nullptr)
      multiply_head<broadcast::from_rows, T, Arch>(rows, columns, ds, block, kj, k.stride[0], d,
                                                   dq.data + row * dq.row_step + head * d, dq.row_step, T(1),
                                                   j == 0 ? dq.beta : T(1), edge);
  }
};

/// to = beta * to + sum over the group's copies, in order.
template <class T, class Arch>
void reduce_groups(context& ctx, const attention_layout& at, index_t rows, const T* copies, gradient_target<T> to) {
  const index_t d = at.head_size, group = at.group(), wide = at.heads * d;
  ctx.executor().parallel_for(rows, 16, [&](index_t first, index_t last) {
    for (index_t n = first; n < last; ++n)
      for (index_t g = 0; g < at.kv_heads; ++g) {
        const T* const from = copies + n * wide + g * group * d;
        T* const out = to.data + n * to.row_step + g * d;
        for_each_vector<T, Arch>(d, [&](index_t c, index_t lanes) {
          auto sum = simd::load_first<T, Arch>(from + c, lanes);
          for (index_t h = 1; h < group; ++h) sum += simd::load_first<T, Arch>(from + h * d + c, lanes);
          if (to.beta != T(0)) sum = simd::fma(simd::batch<T, Arch>(to.beta), simd::load_first<T, Arch>(out + c, lanes), sum);
          simd::store_first(out + c, sum, lanes);
        });
      }
  });
}

}  // namespace detail

/// Gradients of attention() for the output gradient dy. Takes what forward took and gave, and adds to dq, dk and dv as
/// their targets say. Tasks are (sequence, query head); where heads share keys, each writes a copy that is summed after.
/// Cost: 10 D flops for every visible pair and head. Workspace: transposed copies of k and v, and with groups one dk and dv
/// of the queries' width.
template <class T, class Arch = simd::default_arch>
void attention_backward(context& ctx, const attention_layout& at, tensor_view<const T, 2> q, tensor_view<const T, 2> k,
                        tensor_view<const T, 2> v, tensor_view<const T, 2> y, const T* log_sum, tensor_view<const T, 2> dy,
                        gradient_target<T> dq, gradient_target<T> dk, gradient_target<T> dv) {
  using panels = detail::key_panels<T, Arch>;
  using task = detail::backward_task<T, Arch>;
  const index_t d = at.head_size, wide = at.heads * d;
  const std::size_t panel_elements = panels::size(at), wide_elements = static_cast<std::size_t>(k.shape[0] * wide);
  const buffer_handle packed = ctx.pool().take(2 * panel_elements * sizeof(T));
  T* const packed_data = reinterpret_cast<T*>(packed.data());
  const panels k_panels{packed_data, at.key_offsets, at.kv_heads, d};
  const panels v_panels{packed_data + panel_elements, at.key_offsets, at.kv_heads, d};
  k_panels.pack(ctx, at, k);
  v_panels.pack(ctx, at, v);

  const bool shared_keys = at.group() > 1;  // then every query head writes a copy of its own
  gradient_target<T> dk_of_head = dk, dv_of_head = dv;
  buffer_handle copies;
  if (shared_keys && (dk.data != nullptr || dv.data != nullptr)) {
    copies = ctx.pool().take(2 * wide_elements * sizeof(T));
    T* const first = reinterpret_cast<T*>(copies.data());
    if (dk.data != nullptr) dk_of_head = {first, wide, T(0)};
    if (dv.data != nullptr) dv_of_head = {first + wide_elements, wide, T(0)};
  }

  ctx.scratch().reserve(static_cast<std::size_t>(task::scratch_elements) * sizeof(T));
  ctx.executor().parallel_for(at.sequences() * at.heads, 1, [&](index_t t, index_t) {
    const auto scratch = ctx.scratch().take();
    const index_t head = t % at.heads, key_column = (shared_keys ? head : head / at.group()) * d;
    const task one{at, q, k, v, y, dy, log_sum, k_panels, v_panels, dq, dk_of_head, dv_of_head, t / at.heads, head, key_column};
    one.run(scratch.template as<T>());
  });
  if (shared_keys && dk.data != nullptr) detail::reduce_groups<T, Arch>(ctx, at, k.shape[0], dk_of_head.data, dk);
  if (shared_keys && dv.data != nullptr) detail::reduce_groups<T, Arch>(ctx, at, k.shape[0], dv_of_head.data, dv);
}

}  // namespace graft::kernel
