// SPDX-License-Identifier: Apache-2.0
// Attention whose products go by pairs of bf16 values: backward, a second way for a backward_task. Read next: kernel/attention_backward.hpp.
#pragma once
#include <utility>

#include "graft/kernel/attention_backward_task.hpp"

namespace graft::kernel::detail {

#if defined(GRAFT_BF16_PRODUCTS)

inline constexpr index_t paired_queries = 2 * pair_columns, paired_keys = 2 * matrix_rows;  // of a block
inline constexpr index_t query_pairs = paired_queries / 2, key_pairs = paired_keys / 2;

/// Where the parts of the workspace of backward_task::run_in_pairs lie, for one head's keys and a block of queries.
struct paired_workspace {
  float *key, *value, *turned_keys;          // all keys: rows of k and v, and of k's columns, in pairs
  float *query_panels, *gradient_panels;     // q, times the scale of scores, and dy: pairs of channels
  float *query_columns, *gradient_columns;   // q and dy: pairs of queries
  float *p, *ds, *ds_panels, *turned;        // of a block of keys, p and ds side by side; turned: dq
  index_t elements;

  paired_workspace(float* from, index_t d, index_t keys) : elements(0) {
    const auto take = [&](index_t count) { return from + std::exchange(elements, elements + count); };
    const index_t rows = (keys + paired_keys - 1) / paired_keys * paired_keys, parts = (d + pair_columns - 1) / pair_columns;
    key = take(rows * whole_pairs(d));
    value = take(rows * whole_pairs(d));
    turned_keys = take(whole_rows(d) * whole_pairs(keys));
    query_panels = take(paired_queries * whole_pairs(d));
    gradient_panels = take(paired_queries * whole_pairs(d));
    query_columns = take(query_pairs * parts * pair_columns);
    gradient_columns = take(query_pairs * parts * pair_columns);
    p = take(paired_keys * paired_queries);
    ds = take(paired_keys * paired_queries);
    ds_panels = take(key_pairs * paired_queries);
    turned = take(whole_rows(d) * paired_queries);
  }
};

template <class T, class Arch>
index_t backward_task<T, Arch>::scratch_elements_in_pairs(index_t head_size, index_t longest) {
  return paired_workspace(nullptr, head_size, longest).elements;
}

template <class T, class Arch>
void backward_task<T, Arch>::run_in_pairs(T* scratch) const {
  const matrix_registers registers;
  const index_t d = at.head_size, depth = whole_pairs(d), column = head / at.group() * d;
  const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
  const index_t turned_step = whole_pairs(keys.count);
  const paired_workspace in(scratch, d, keys.count);
  round_rows<Arch>(&k(keys.first, column), k.stride[0], keys.count, d, in.key, depth);
  round_rows<Arch>(&v(keys.first, column), v.stride[0], keys.count, d, in.value, depth);
  turn_column_pairs<Arch>(&k(keys.first, column), k.stride[0], d, keys.count, in.turned_keys, turned_step);
  T lse[paired_queries], delta[paired_queries];
  for (index_t first = 0; first < queries.count; first += paired_queries) {
    const index_t end = std::min(queries.count, first + paired_queries), count = end - first;
    const head_rows<T> query{&q(queries.first + first, head * d), q.stride[0]}, gradient{&dy(queries.first + first, head * d), dy.stride[0]};
    sums_of(first, end, query, gradient, lse, delta);
    for (index_t i = 0; i < count; i += pair_columns) {
      const index_t rows = std::min(pair_columns, count - i);  // scaled where p and ds will be: no head is so large that 48 rows do not fit
      pack_scaled_pairs<Arch>(query.from(i).data, query.step, rows, d, static_cast<T>(at.binary_scale()), in.p, in.query_panels + i * depth);
      pack_row_pairs<Arch>(gradient.from(i).data, gradient.step, rows, d, in.gradient_panels + i * depth);
    }
    for (index_t c = 0; c < d; c += pair_columns) {
      pack_column_pairs<Arch>(query.data + c, query.step, std::min(pair_columns, d - c), count, in.query_columns + query_pairs * c);
      pack_column_pairs<Arch>(gradient.data + c, gradient.step, std::min(pair_columns, d - c), count, in.gradient_columns + query_pairs * c);
    }
    if (dq.data != nullptr) ask_for_rows<T, Arch>(dq.data + (queries.first + first) * dq.row_step + head * d, dq.row_step, count, d);
    for (index_t j = 0; j < seen_before(end); j += paired_keys)
      run_paired_block({first, count, query, gradient, nullptr, lse, delta}, j, in, turned_step);
    T ones[pair_columns];
    std::fill_n(ones, pair_columns, T(1));
    for (index_t i = 0; dq.data != nullptr && i < count; i += pair_columns)
      put_turned<Arch>(in.turned + i, paired_queries, std::min(pair_columns, count - i), d, ones,
                       dq.data + (queries.first + first + i) * dq.row_step + head * d, dq.row_step, dq.beta);
  }
}

/// The five products of a block of queries and the key block at j.
template <class T, class Arch>
void backward_task<T, Arch>::run_paired_block(const query_block& of, index_t j, const paired_workspace& in, index_t turned_step) const {
  const row_range keys = rows_of(at.key_offsets, s);
  const index_t d = at.head_size, depth = whole_pairs(d);
  const score_block<T, Arch> block{of.count, std::min(paired_keys, keys.count - j), seen_before(of.first + 1) - j, at.causal, paired_queries};
  const bool first = j >= seen_before(of.first);  // no query before these has written to this key block
  for (const auto* to : {&dk, &dv})
    if (to->data != nullptr) ask_for_rows<T, Arch>(to->data + (keys.first + j) * to->row_step + key_column, to->row_step, block.keys, d);
  const auto inner_products = [&](const float* rows, const float* panels, float* to) {
    for (index_t i = 0; i < of.count; i += pair_columns)
      multiply_pairs<Arch>(whole_rows(block.keys), pair_columns, depth, rows + j * depth, depth, panels + i * depth, to + i, paired_queries, false);
  };
  inner_products(in.key, in.query_panels, in.p);
  inner_products(in.value, in.gradient_panels, in.ds);
  probabilities_and_gradient(block, 0, in.p, in.ds, static_cast<T>(at.scale), of.lse, of.delta);
  if (dq.data != nullptr)
    for (index_t i = 0; i < of.count; i += pair_columns) {
      T* const panel = in.ds_panels + i * key_pairs;
      pack_column_pairs<Arch>(static_cast<const T*>(in.ds + i), paired_queries, pair_columns, block.keys, panel);
      multiply_pairs<Arch>(whole_rows(d), pair_columns, whole_pairs(block.keys), in.turned_keys + j / 2, turned_step, panel, in.turned + i,
                           paired_queries, j > 0);
    }
  const auto add = [&](const gradient_target<T>& to, T* weights, const T* columns) {
    if (to.data == nullptr) return;
    T* const row = to.data + (keys.first + j) * to.row_step + key_column;
    round_rows<Arch>(weights, paired_queries, block.keys, of.count, weights, query_pairs);  // a row's pairs lie before the next row's values
    for (index_t c = 0; c < d; c += pair_columns)
      run_pair_panel<Arch>(block.keys, whole_pairs(of.count), weights, query_pairs, columns + query_pairs * c,
                           {row + c, to.row_step, T(1), first ? to.beta : T(1), std::min(pair_columns, d - c)}, {});
  };
  add(dv, in.p, in.gradient_columns);
  add(dk, in.ds, in.query_columns);
}

#endif

}  // namespace graft::kernel::detail
