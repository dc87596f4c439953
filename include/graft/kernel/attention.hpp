// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention over ragged batches, grouped queries, causal or not: forward. A block of queries sees all its
// keys at once, so there is no rescaling, and nothing of size S x S is ever stored.
// Read next: kernel/attention_backward.hpp, ops/attention.hpp.
#pragma once
#include <cmath>

#include "graft/kernel/attention_narrow.hpp"
#include "graft/kernel/bf16_attention.hpp"
#include "graft/kernel/dot.hpp"
#include "graft/kernel/softmax.hpp"

namespace graft::kernel {
namespace detail {

/// One query row at a time, for generation: keys are read once and never packed.
template <class T, class Arch>
void attend_row(context& ctx, const attention_layout& at, tensor_view<const T, 2> q, tensor_view<const T, 2> k,
                tensor_view<const T, 2> v, tensor_view<T, 2> out, T* log_sum) {
  const index_t d = at.head_size, most_keys = longest(at.key_offsets), edge_elements = keys_at_once * value_width<T, Arch>(d);
  ctx.scratch().reserve(static_cast<std::size_t>(most_keys + 8 + edge_elements) * sizeof(T));
  ctx.executor().parallel_for(q.shape[0] * at.heads, 1 + 65536 / (d * (most_keys + 1)), [&](index_t first, index_t last) {
    const auto scratch = ctx.scratch().take();
    T* const edge = scratch.template as<T>();
    T* const scores = edge + edge_elements;
    for (index_t t = first; t < last; ++t) {
      const index_t row = t / at.heads, head = t % at.heads, column = head / at.group() * d;
      const index_t s = std::upper_bound(at.query_offsets.begin(), at.query_offsets.end(), row) - at.query_offsets.begin() - 1;
      const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
      const index_t visible = visible_keys(at, queries.count, keys.count, row - queries.first);
      const T* const query[1] = {q.data + row * q.stride[0] + head * d};
      const T* const key = k.data + keys.first * k.stride[0] + column;
      index_t i = 0;
      for (; i + 8 <= visible; i += 8) dot_block<8, 1, T, Arch>(d, key + i * k.stride[0], k.stride[0], query, scores + i);
      for (; i < visible; ++i) dot_block<1, 1, T, Arch>(d, key + i * k.stride[0], k.stride[0], query, scores + i);
      const T most = static_cast<T>(at.scale) * row_maximum<T, Arch>(scores, visible);
      const T sum = row_exponentials<T, Arch>(scores, visible, static_cast<T>(at.scale), most);
      if (log_sum != nullptr) log_sum[row * at.heads + head] = most + std::log(sum);
      multiply_head<broadcast::from_rows, T, Arch>(1, visible, scores, visible, v.data + keys.first * v.stride[0] + column,
                                                   v.stride[0], v.shape[1] - column, d, out.data + row * out.stride[0] + head * d,
                                                   out.stride[0], T(1) / sum, T(0), edge);
    }
  });
}

/// Everything the forward pass of one (sequence, query head) reads and writes.
template <class T, class Arch>
struct forward_task {
  using block_type = score_block<T, Arch>;
  const attention_layout& at;
  tensor_view<const T, 2> q, k, v;
  tensor_view<T, 2> out;
  T* log_sum;
  index_t s, head;

  /// What a thread needs for up to `longest` keys of a sequence.
  index_t scratch_elements(index_t longest) const {
    const index_t copied = copies(k, longest) + copies(v, longest);
    return (at.head_size + longest) * queries_at_once<T, Arch>(at.head_size) + copied * longest * whole_vectors<T, Arch>(at.head_size);
  }

  /// Queries [begin, begin + count) of the sequence, block by block.
  void run(index_t begin, index_t count, T* scratch) const {
    const index_t d = at.head_size, column = head / at.group() * d, width = queries_at_once<T, Arch>(d);
    const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
    const index_t seen = visible_keys(at, queries.count, keys.count, begin + count - 1);
    const bool copies_keys = copies(k, keys.count);
    T *const key_copy = scratch + (d + seen) * width, *const value_copy = key_copy + copies_keys * seen * whole_vectors<T, Arch>(d);
    const auto key = at_hand<T, Arch>({&k(keys.first, column), k.stride[0]}, seen, d, copies_keys, key_copy);
    const auto value = at_hand<T, Arch>({&v(keys.first, column), v.stride[0]}, seen, d, copies(v, keys.count), value_copy);
    for (index_t i = begin; i < begin + count; i += width) {
      const auto block = block_of_all_keys<T, Arch>(at, queries.count, keys.count, i, std::min(width, begin + count - i), width);
      ask_for_rows<T, Arch>(&q(queries.first + i, head * d) + width * q.stride[0], q.stride[0], std::min(width, begin + count - i - width), d);
      run_block(block, queries.first + i, key, value, scratch);
    }
  }

 private:
  bool copies(const tensor_view<const T, 2>& rows, index_t count) const { return copies_rows<T, Arch>(at.head_size, rows.stride[0], count); }

  void run_block(const block_type& block, index_t row, head_rows<T> key, head_rows<T> value, T* panel) const {
    const index_t d = at.head_size, width = block.row;
    const T scale = static_cast<T>(at.binary_scale());
    T* const scores = panel + d * width;
    T sums[block_type::width], log_sums[block_type::width];
    T* const to = &out(row, head * d);
    pack_rows<T, Arch>(&q(row, head * d), q.stride[0], block.queries, d, panel, width);
    if (is_narrow(d)) {
      attend_narrow(block, panel, scale, key, value, scores, log_sums, to, out.stride[0]);
    } else {
      block.multiply(key.data, key.step, d, panel, scale, scores);
      exponentials(block, scores, sums, log_sums);
      gather_from_keys(block, scores, value, d, to, out.stride[0], T(0));
      for (index_t i = 0; i < block.queries; ++i) row_scale<T, Arch>(to + i * out.stride[0], d, T(1) / sums[i]);
    }
    for (index_t i = 0; log_sum != nullptr && i < block.queries; ++i) log_sum[(row + i) * at.heads + head] = log_sums[i];
  }
};

/// All tasks of a forward pass, each one head and some blocks of `width` queries. A task copies its keys once for all of these; there should be
/// several tasks for every thread.
template <class Task>
void run_forward(context& ctx, const Task& task, index_t width) {
  const attention_layout& at = task.at;
  ctx.scratch().reserve(static_cast<std::size_t>(task.scratch_elements(longest(at.key_offsets))) * sizeof(*task.out.data));
  const index_t concurrency = ctx.executor().concurrency();
  const index_t blocks = (longest(at.query_offsets) + width - 1) / width, all = blocks * at.sequences() * at.heads;
  const index_t together = concurrency == 1 ? blocks : std::clamp<index_t>(all / (8 * concurrency), 1, blocks);
  const block_grid grid(at.query_offsets, at.heads, together * width);
  ctx.executor().parallel_for(grid.tasks(at.sequences()), 1, [&](index_t t, index_t) {
    grid.run(t, at.query_offsets, [&](index_t s, index_t head, index_t first, index_t count) {
      const auto scratch = ctx.scratch().take();
      Task one = task;
      one.s = s;
      one.head = head;
      one.run(first, count, scratch.template as<std::remove_cvref_t<decltype(*task.out.data)>>());
    });
  });
}

}  // namespace detail

/// out = softmax(scale q k^T, masked) v for every head. Shapes: q, out (N, H * D), k, v (M, G * D), rows contiguous;
/// log_sum (N, H), the log of every softmax's denominator, or null. Cost: 4 D flops for every visible pair and head.
/// Where the context asks for bf16 products and the processor has matrix registers, q, k, v and the powers are rounded for the products, if
/// heads are whole vectors of 32 to 256 channels and some sequence has 32 queries.
/// Workspace of a thread: the scores of 48 queries and, in bf16, with 16 registers or where copies_rows says so, one head's keys and values.
template <class T, class Arch = simd::default_arch>
void attention(context& ctx, const attention_layout& at, tensor_view<const T, 2> q, tensor_view<const T, 2> k,
               tensor_view<const T, 2> v, tensor_view<T, 2> out, T* log_sum) {
  if (detail::longest(at.query_offsets) <= 2) return detail::attend_row<T, Arch>(ctx, at, q, k, v, out, log_sum);
  if constexpr (detail::could_go_in_bf16<T, Arch>)
    if (detail::attends_in_pairs(ctx, at))
      return detail::run_forward(ctx, detail::paired_forward<Arch>{at, q, k, v, out, log_sum, 0, 0}, detail::pair_columns);
  detail::run_forward(ctx, detail::forward_task<T, Arch>{at, q, k, v, out, log_sum, 0, 0}, detail::queries_at_once<T, Arch>(at.head_size));
}

}  // namespace graft::kernel
