// SPDX-License-Identifier: Apache-2.0
// What attention's backward pass does for one query head of one sequence: tile by tile, recomputing the probabilities from the saved log sums.
// Read next: kernel/attention_backward.hpp.
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
/// p (ds - delta(i)) scale, both 0 where query i does not see key k; for vectors of queries from the one at `from` on.
template <class T, class Arch>
void probabilities_and_gradient(const score_block<T, Arch>& block, index_t from, T* p, T* ds, T scale, const T* lse, const T* delta) {
  using batch = simd::batch<T, Arch>;
  const index_t row = block.row;
  for (index_t i = from; i < block.queries; i += block.lanes) {
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

struct paired_workspace;

/// Everything the backward pass of one (sequence, query head) reads and writes.
template <class T, class Arch>
struct backward_task {
  const attention_layout& at;
  tensor_view<const T, 2> q, k, v, y, dy;
  const T* log_sum;
  gradient_target<T> dq, dk, dv;
  index_t s, head, key_column;  // key_column: where this head's part of dk and dv begins, its column or a copy of its own

  static constexpr index_t width = score_block<T, Arch>::width, lanes = score_block<T, Arch>::lanes;
  static constexpr index_t together = 4;  // blocks of queries that go over the keys at once: each key block is brought in once for all
  /// What a thread needs; by pairs, for up to `longest` keys of a sequence.
  static index_t scratch_elements(index_t head_size) {
    if (is_narrow(head_size)) return narrow_queries * (3 * narrow_head + 2 * narrow_keys);
    return 2 * width * width + 2 * together * width * head_size + 2 * (together + 1) * width * whole_vectors<T, Arch>(head_size);
  }

  static index_t scratch_elements_in_pairs(index_t head_size, index_t longest);

  void run(T* scratch) const {
    if (is_narrow(at.head_size)) return run_narrow(scratch);
    const index_t d = at.head_size, copied = width * whole_vectors<T, Arch>(d), column = head / at.group() * d;
    T *const panels = scratch + 2 * width * width, *const key_copy = panels + 2 * together * width * d, *const query_copy = key_copy + 2 * copied;
    T lse[together * width], delta[together * width];
    const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
    const auto copies = [&](const tensor_view<const T, 2>& rows) { return copies_rows<T, Arch>(d, rows.stride[0], keys.count); };
    for (index_t first = 0; first < queries.count; first += together * width) {
      const index_t end = std::min(queries.count, first + together * width), row = queries.first + first;
      const auto query = at_hand<T, Arch>({&q(row, head * d), q.stride[0]}, end - first, d, copies(q), query_copy);
      const auto gradient = at_hand<T, Arch>({&dy(row, head * d), dy.stride[0]}, end - first, d, copies(dy), query_copy + together * copied);
      prepare(first, end, query, gradient, panels, lse, delta, width);
      for (index_t j = 0; j < seen_before(end); j += width) {
        const index_t count = std::min(width, keys.count - j);
        const auto key = at_hand<T, Arch>({&k(keys.first + j, column), k.stride[0]}, count, d, copies(k), key_copy);
        const auto value = at_hand<T, Arch>({&v(keys.first + j, column), v.stride[0]}, count, d, copies(v), key_copy + copied);
        for (index_t i = first; i < end; i += width)
          if (j < seen_before(std::min(end, i + width)))
            run_block({i, std::min(width, end - i), query.from(i - first), gradient.from(i - first), panels + (i - first) * 2 * d,
                       lse + (i - first), delta + (i - first)}, j, key, value, scratch);
      }
    }
  }

  /// All of it where a sequence has keys, but no queries.
  void unseen_keys() const {
    const row_range keys = rows_of(at.key_offsets, s);
    for (const gradient_target<T>* to : {&dk, &dv})
      for (index_t n = keys.first; to->data != nullptr && n < keys.first + keys.count; ++n) {
        T* const row = to->data + n * to->row_step + key_column;
        std::transform(row, row + at.head_size, row, [to](T old) { return to->beta == T(0) ? T(0) : to->beta * old; });
      }
  }

  /// The same by pairs of bf16 values: bf16_attention_backward.hpp.
  void run_in_pairs(T* scratch) const;

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

  /// A block of queries: their rows of q and dy, panels of both, log sums, and inner products of y and dy.
  struct query_block {
    index_t first, count;
    head_rows<T> query, gradient;
    const T *panels, *lse, *delta;
  };

  /// What queries [first, end), whose rows are given, bring along: their log sums and the inner products of y and dy.
  void sums_of(index_t first, index_t end, head_rows<T> query, head_rows<T> gradient, T* lse, T* delta) const {
    const index_t d = at.head_size, before = rows_of(at.query_offsets, s).first;
    constexpr index_t ahead = 12;
    for (index_t i = first; i < end; ++i) {
      if (i + ahead < end && !is_narrow(d)) {
        const T* const later[] = {&y(before + i + ahead, head * d), query.from(i - first + ahead).data, gradient.from(i - first + ahead).data};
        for (const T* row : later) ask_for_rows<T, Arch>(row, 0, 1, d);
      }
      delta[i - first] = inner_product(gradient.from(i - first).data, &y(before + i, head * d));
      lse[i - first] = std::numbers::log2e_v<T> * log_sum[(before + i) * at.heads + head];
    }
    const index_t padded = whole_vectors<T, Arch>(end - first);
    std::fill(lse + (end - first), lse + padded, T(0));
    std::fill(delta + (end - first), delta + padded, T(0));
  }

  /// The same, and panels of q and dy by turns, each `wide` queries wide.
  void prepare(index_t first, index_t end, head_rows<T> query, head_rows<T> gradient, T* panels, T* lse, T* delta, index_t wide) const {
    const index_t d = at.head_size;
    sums_of(first, end, query, gradient, lse, delta);
    for (index_t i = 0; i < end - first; i += wide, panels += 2 * d * wide) {
      const index_t rows = std::min(wide, end - first - i);
      pack_rows<T, Arch>(query.from(i).data, query.step, rows, d, panels, wide);
      pack_rows<T, Arch>(gradient.from(i).data, gradient.step, rows, d, panels + d * wide, wide);
    }
  }

  /// The whole task for narrow heads.
  void run_narrow(T* scratch) const {
    constexpr index_t step = narrow_queries;
    T *const panels = scratch, *const dq_panel = panels + 2 * narrow_head * step;
    T *const p = dq_panel + narrow_head * step, *const ds = p + narrow_keys * step;
    T lse[step], delta[step];
    const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
    const index_t column = head / at.group() * narrow_head;
    for (index_t first = 0; first < queries.count; first += step) {
      const index_t rows = std::min(step, queries.count - first);
      const index_t row = queries.first + first;
      prepare(first, first + rows, {&q(row, head * narrow_head), q.stride[0]}, {&dy(row, head * narrow_head), dy.stride[0]}, panels, lse,
              delta, step);
      std::fill(dq_panel, dq_panel + narrow_head * step, T(0));
      for (index_t j = 0; j < seen_before(first + rows); j += narrow_keys) {
        const index_t key = keys.first + j;
        const score_block<T, Arch> block{rows, std::min(narrow_keys, seen_before(first + rows) - j), seen_before(first + 1) - j, at.causal, step};
        narrow_scores(block, &k(key, column), k.stride[0], panels, step, static_cast<T>(at.binary_scale()), p);
        narrow_scores(block, &v(key, column), v.stride[0], panels + narrow_head * step, step, T(1), ds);
        probabilities_and_gradient(block, block.seen_from(0) / lanes * lanes, p, ds, static_cast<T>(at.scale), lse, delta);
        gather_narrow(block, ds, &k(key, column), k.stride[0], dq_panel, step);
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

  void run_paired_block(const query_block& of, index_t j, const paired_workspace& in, index_t turned_step) const;

  /// The five products of a block of queries and the key block at j, whose rows are given.
  void run_block(const query_block& of, index_t j, head_rows<T> key, head_rows<T> value, T* scratch) const {
    T *const p = scratch, *const ds = p + width * width;
    const index_t d = at.head_size, i = of.first, row = rows_of(at.query_offsets, s).first + i, key_row = rows_of(at.key_offsets, s).first + j;
    const score_block<T, Arch> block{of.count, std::min(width, rows_of(at.key_offsets, s).count - j), seen_before(i + 1) - j, at.causal};
    const bool first = j >= seen_before(i);  // no query before these has written to this key block

    block.multiply(key.data, key.step, d, of.panels, static_cast<T>(at.binary_scale()), p);
    block.multiply(value.data, value.step, d, of.panels + d * width, T(1), ds);
    probabilities_and_gradient(block, 0, p, ds, static_cast<T>(at.scale), of.lse, of.delta);  // all: products below read whole blocks
    for (index_t n = 0; n < block.keys; n += block.step()) {
      const index_t from = block.seen_from(n), count = std::min(block.step(), block.keys - n);
      if (!first && block.sees(of.count - 1) <= n) break;
      const auto add = [&](const gradient_target<T>& to, const T* weights, head_rows<T> x) {
        if (to.data != nullptr)
          multiply_head<broadcast::from_rows, T, Arch>(count, of.count - from, weights + n * width + from, width, x.from(from).data, x.step,
                                                       x.step, d, to.data + (key_row + n) * to.row_step + key_column, to.row_step, T(1),
                                                       first ? to.beta : T(1), nullptr);
      };
      add(dv, p, of.gradient);
      add(dk, ds, of.query);
    }
    if (dq.data != nullptr)
      gather_from_keys(block, ds, key, d, dq.data + row * dq.row_step + head * d, dq.row_step, j == 0 ? dq.beta : T(1));
  }
};

}  // namespace detail
}  // namespace graft::kernel
