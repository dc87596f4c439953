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

/// With p(k, i) the scores, lse(i) log sums, both for powers of two, and ds(k, i) = dy v: p becomes exp2(p - lse(i)), and ds becomes
/// p (ds - delta(i)) scale, both 0 where query i does not see key k.
template <class T, class Arch>
void probabilities_and_gradient(const score_block<T, Arch>& block, T* p, T* ds, T scale, const T* lse, const T* delta) {
  using batch = simd::batch<T, Arch>;
  const index_t row = block.row;
  for (index_t i = block.seen_from(0) / block.lanes * block.lanes; i < block.queries; i += block.lanes) {
    T *const pi = p + i, *const dsi = ds + i;
    const batch less = simd::load<T, Arch>(lse + i), minus = simd::load<T, Arch>(delta + i), by(scale);
    const auto probability = [&](index_t k) GRAFT_INLINED { return simd::exp2(simd::load<T, Arch>(pi + k * row) - less); };
    const auto put = [&](index_t k, batch e) GRAFT_INLINED {
      simd::store(pi + k * row, e);
      simd::store(dsi + k * row, e * ((simd::load<T, Arch>(dsi + k * row) - minus) * by));
    };
    block.for_each_key(
        i, 0, [&](index_t k) GRAFT_INLINED { put(k, probability(k)); },
        [&](index_t k, auto seen) GRAFT_INLINED { put(k, simd::select(seen, probability(k), batch(T(0)))); },
        [&](index_t k) {
          simd::store(pi + k * row, batch(T(0)));
          simd::store(dsi + k * row, batch(T(0)));
        });
  }
}

/// Everything the backward pass of one (sequence, query head) reads and writes.
template <class T, class Arch>
struct backward_task {
  const attention_layout& at;
  tensor_view<const T, 2> q, k, v, y, dy;
  const T* log_sum;
  gradient_target<T> dq, dk, dv;
  index_t s, head, key_column;  // key_column: where this head's part of dk and dv begins

  static constexpr index_t width = score_block<T, Arch>::width, lanes = score_block<T, Arch>::lanes;
  static constexpr index_t together = 4;  // blocks of queries that go over the keys at once: each key block is brought in once for all
  static index_t scratch_elements(index_t head_size) {
    if (is_narrow(head_size)) return narrow_queries * (3 * narrow_head + 2 * narrow_keys);
    return 2 * width * width + keys_at_once * value_width<T, Arch>(head_size) + together * 2 * head_size * width;
  }

  void run(T* scratch) const {
    if (is_narrow(at.head_size)) return run_narrow(scratch);
    T* const panels = scratch + 2 * width * width + keys_at_once * value_width<T, Arch>(at.head_size);
    T lse[together * width], delta[together * width];
    const row_range queries = rows_of(at.query_offsets, s);
    for (index_t first = 0; first < queries.count; first += together * width) {
      const index_t end = std::min(queries.count, first + together * width);
      prepare(first, end, panels, lse, delta, width);
      for (index_t j = 0; j < seen_before(end); j += width)
        for (index_t i = first; i < end; i += width)
          if (j < seen_before(std::min(end, i + width)))
            run_block(i, std::min(width, end - i), j, panels + (i - first) * 2 * at.head_size, lse + (i - first), delta + (i - first), scratch);
    }
  }

 private:
  /// Keys that any query row before `i` sees.
  index_t seen_before(index_t i) const {
    return i == 0 ? 0 : visible_keys(at, rows_of(at.query_offsets, s).count, rows_of(at.key_offsets, s).count, i - 1);
  }

  T inner_product(const T* a, const T* b) const {
    simd::batch<T, Arch> sum(T(0));
    for_each_vector<T, Arch>(at.head_size, [&](index_t c, index_t count) GRAFT_INLINED {
      sum = simd::fma(simd::load_first<T, Arch>(a + c, count), simd::load_first<T, Arch>(b + c, count), sum);
    });
    return simd::sum(sum);
  }

  /// What queries [first, end) bring along: their log sums, the inner products of y and dy, and panels of q and dy by turns, each
  /// `wide` queries wide.
  void prepare(index_t first, index_t end, T* panels, T* lse, T* delta, index_t wide) const {
    const index_t d = at.head_size, before = rows_of(at.query_offsets, s).first, column = head * d;
    constexpr index_t ahead = 12;
    for (index_t i = first; i < end; ++i) {
      if (i + ahead < end && !is_narrow(d))
        for (const tensor_view<const T, 2>* x : {&y, &dy, &q}) ask_for_rows<T, Arch>(&(*x)(before + i + ahead, column), x->stride[0], 1, d);
      delta[i - first] = inner_product(&dy(before + i, column), &y(before + i, column));
      lse[i - first] = std::numbers::log2e_v<T> * log_sum[(before + i) * at.heads + head];
    }
    for (index_t i = first; i < end; i += wide, panels += 2 * d * wide) {
      const index_t rows = std::min(wide, end - i);
      pack_rows<T, Arch>(&q(before + i, column), q.stride[0], rows, d, panels, wide);
      pack_rows<T, Arch>(&dy(before + i, column), dy.stride[0], rows, d, panels + d * wide, wide);
    }
    const index_t padded = (end - first + lanes - 1) / lanes * lanes;
    std::fill(lse + (end - first), lse + padded, T(0));
    std::fill(delta + (end - first), delta + padded, T(0));
  }

  /// The whole task for narrow heads.
  void run_narrow(T* scratch) const {
    constexpr index_t step = narrow_queries;
    T *const panels = scratch, *const dq_panel = panels + 2 * narrow_head * step, *const p = dq_panel + narrow_head * step, *const ds = p + narrow_keys * step;
    T lse[step], delta[step];
    const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
    const index_t column = head / at.group() * narrow_head;
    for (index_t first = 0; first < queries.count; first += step) {
      const index_t rows = std::min(step, queries.count - first);
      prepare(first, first + rows, panels, lse, delta, step);
      std::fill(dq_panel, dq_panel + narrow_head * step, T(0));
      for (index_t j = 0; j < seen_before(first + rows); j += narrow_keys) {
        const index_t key = keys.first + j;
        const score_block<T, Arch> block{rows, std::min(narrow_keys, seen_before(first + rows) - j), seen_before(first + 1) - j, at.causal, step};
        narrow_scores(block, &k(key, column), k.stride[0], panels, step, static_cast<T>(at.binary_scale()), p);
        narrow_scores(block, &v(key, column), v.stride[0], panels + narrow_head * step, step, T(1), ds);
        probabilities_and_gradient(block, p, ds, static_cast<T>(at.scale), lse, delta);
        for (index_t i = block.seen_from(0) / lanes * lanes; i < rows; i += lanes) {
          auto sums = narrow_rows<T, Arch>::load(dq_panel + i, step);
          add_narrow_rows(block, i, ds, &k(key, column), k.stride[0], sums);
          sums.store(dq_panel + i, step);
        }
        const auto add = [&](const gradient_target<T>& to, const T* weights, const T* panel) {
          if (to.data != nullptr)
            add_narrow(block, weights, panel, step, to.data + key * to.row_step + key_column, to.row_step, j >= seen_before(first) ? to.beta : T(1));
        };
        add(dv, p, panels + narrow_head * step);
        add(dk, ds, panels);
      }
      if (dq.data != nullptr)
        for (index_t i = 0; i < rows; i += lanes)
          narrow_rows<T, Arch>::load(dq_panel + i, step).put_rows(dq.data + (queries.first + first + i) * dq.row_step + head * narrow_head,
                                                                  dq.row_step, dq.beta, rows - i);
    }
  }

  /// The five products of query rows [i, i + rows) and the key block at j.
  void run_block(index_t i, index_t rows, index_t j, const T* panels, const T* lse, const T* delta, T* scratch) const {
    T *const p = scratch, *const ds = p + width * width, *const edge = ds + width * width;
    const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
    const index_t d = at.head_size, column = head / at.group() * d, row = queries.first + i, key = keys.first + j;
    const score_block<T, Arch> block{rows, std::min(width, keys.count - j), seen_before(i + 1) - j, at.causal};
    const bool first = j >= seen_before(i);  // no query before these has written to this key block

    block.multiply(&k(key, column), k.stride[0], d, panels, static_cast<T>(at.binary_scale()), p);
    block.multiply(&v(key, column), v.stride[0], d, panels + d * width, T(1), ds);
    probabilities_and_gradient(block, p, ds, static_cast<T>(at.scale), lse, delta);
    for (index_t n = 0; n < block.keys; n += block.step()) {
      const index_t from = block.seen_from(n), count = std::min(block.step(), block.keys - n);
      if (!first && block.sees(rows - 1) <= n) break;
      const auto add = [&](const gradient_target<T>& to, const T* weights, tensor_view<const T, 2> x) {
        if (to.data != nullptr)
          multiply_head<broadcast::from_rows, T, Arch>(count, rows - from, weights + n * width + from, width, &x(row + from, head * d),
                                                       x.stride[0], x.shape[1] - head * d, d, to.data + (key + n) * to.row_step + key_column,
                                                       to.row_step, T(1), first ? to.beta : T(1), edge);
      };
      add(dv, p, dy);
      add(dk, ds, q);
    }
    if (dq.data != nullptr)
      gather_from_keys(block, ds, &k(key, column), k.stride[0], at.head_size, dq.data + row * dq.row_step + head * at.head_size, dq.row_step,
                       j == 0 ? dq.beta : T(1));
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
        for_each_vector<T, Arch>(d, [&](index_t c, index_t lanes) GRAFT_INLINED {
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
/// Cost: 10 D flops for every visible pair and head. Workspace: with groups, one dk and dv of the queries' width.
template <class T, class Arch = simd::default_arch>
void attention_backward(context& ctx, const attention_layout& at, tensor_view<const T, 2> q, tensor_view<const T, 2> k,
                        tensor_view<const T, 2> v, tensor_view<const T, 2> y, const T* log_sum, tensor_view<const T, 2> dy,
                        gradient_target<T> dq, gradient_target<T> dk, gradient_target<T> dv) {
  using task = detail::backward_task<T, Arch>;
  const index_t d = at.head_size, wide = at.heads * d;
  const std::size_t wide_elements = static_cast<std::size_t>(k.shape[0] * wide);
  const bool shared_keys = at.group() > 1;  // then every query head writes a copy of its own
  gradient_target<T> dk_of_head = dk, dv_of_head = dv;
  buffer_handle copies;
  if (shared_keys && (dk.data != nullptr || dv.data != nullptr)) {
    copies = ctx.pool().take(2 * wide_elements * sizeof(T));
    T* const first = reinterpret_cast<T*>(copies.data());
    if (dk.data != nullptr) dk_of_head = {first, wide, T(0)};
    if (dv.data != nullptr) dv_of_head = {first + wide_elements, wide, T(0)};
  }

  ctx.scratch().reserve(static_cast<std::size_t>(task::scratch_elements(d)) * sizeof(T));
  ctx.executor().parallel_for(at.sequences() * at.heads, 1, [&](index_t t, index_t) {
    const auto scratch = ctx.scratch().take();
    const index_t head = t % at.heads, key_column = (shared_keys ? head : head / at.group()) * d;
    const task one{at, q, k, v, y, dy, log_sum, dq, dk_of_head, dv_of_head, t / at.heads, head, key_column};
    one.run(scratch.template as<T>());
  });
  if (shared_keys && dk.data != nullptr) detail::reduce_groups<T, Arch>(ctx, at, k.shape[0], dk_of_head.data, dk);
  if (shared_keys && dv.data != nullptr) detail::reduce_groups<T, Arch>(ctx, at, k.shape[0], dv_of_head.data, dv);
}

}  // namespace graft::kernel
