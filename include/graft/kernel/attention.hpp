// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention over ragged batches, grouped queries, causal or not: forward. A block of query rows sees
// all its keys at once, so there is no rescaling, and nothing of size S x S is ever stored.
// Read next: kernel/attention_backward.hpp, ops/attention.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <span>

#include "graft/kernel/panel.hpp"
#include "graft/kernel/dot.hpp"
#include "graft/kernel/softmax.hpp"

namespace graft::kernel {

/// How rows form sequences and columns form heads. Sequence s has query rows [query_offsets[s], query_offsets[s + 1]) and
/// key rows likewise; its queries stand at the end of its keys, so that with a cache there are more keys than queries.
/// Query head h reads key and value head h / (heads / kv_heads). Key rows of head g are at column g * head_size.
struct attention_layout {
  index_t heads = 1, kv_heads = 1, head_size = 0;
  double scale = 1;
  bool causal = true;
  std::span<const index_t> query_offsets, key_offsets;

  index_t sequences() const { return static_cast<index_t>(query_offsets.size()) - 1; }
  index_t group() const { return heads / kv_heads; }
};

namespace detail {

struct row_range {
  index_t first, count;
};
inline row_range rows_of(std::span<const index_t> offsets, index_t s) {
  const auto i = static_cast<std::size_t>(s);
  return {offsets[i], offsets[i + 1] - offsets[i]};
}

/// Keys that query `i` of a sequence may see.
inline index_t visible_keys(const attention_layout& at, index_t queries, index_t keys, index_t i) {
  return at.causal ? std::min(keys, keys - queries + i + 1) : keys;
}

/// The tasks of a kernel that works on (sequence, head, block of rows), numbered for parallel_for without a list: every
/// sequence gets as many as the longest one needs, and the surplus does nothing.
struct block_grid {
  index_t heads, rows, blocks;

  block_grid(const attention_layout& at, std::span<const index_t> offsets, index_t head_count, index_t block_rows)
      : heads(head_count), rows(block_rows), blocks(0) {
    for (index_t s = 0; s < at.sequences(); ++s)
      blocks = std::max(blocks, (rows_of(offsets, s).count + block_rows - 1) / block_rows);
  }
  index_t tasks(index_t sequences) const { return sequences * heads * blocks; }

  /// Calls f(sequence, head, first row, rows) for task t unless it lies past the end of its sequence.
  template <class F>
  void run(index_t t, std::span<const index_t> offsets, F f) const {
    const index_t block = t % blocks, head = t / blocks % heads, s = t / blocks / heads;
    const index_t count = rows_of(offsets, s).count - block * rows;
    if (count > 0) f(s, head, block * rows, std::min(count, rows));
  }
};

/// Where the key (or value) panels of one sequence and head lie: [key block][head_size][columns of the tile].
template <class T, class Arch>
struct key_panels {
  static constexpr index_t width = tile_shape<T, Arch>::columns;
  T* data;
  std::span<const index_t> offsets;
  index_t heads, head_size;

  /// Elements of all panels: every sequence is rounded up to whole blocks.
  static std::size_t size(const attention_layout& at) {
    index_t blocks = 0;
    for (index_t s = 0; s < at.sequences(); ++s) blocks += (rows_of(at.key_offsets, s).count + width - 1) / width;
    return static_cast<std::size_t>(blocks * at.kv_heads * at.head_size * width);
  }
  T* panel(index_t s, index_t head, index_t block) const {
    index_t before = 0;
    for (index_t i = 0; i < s; ++i) before += (rows_of(offsets, i).count + width - 1) / width;
    const index_t own = (rows_of(offsets, s).count + width - 1) / width;
    return data + ((before * heads + head * own) + block) * head_size * width;
  }
  /// Packs rows of x (keys or values) into panels, transposed.
  void pack(context& ctx, const attention_layout& at, tensor_view<const T, 2> x) const {
    const block_grid grid(at, offsets, heads, width);
    ctx.executor().parallel_for(grid.tasks(at.sequences()), 4, [&](index_t first, index_t last) {
      for (index_t t = first; t < last; ++t)
        grid.run(t, offsets, [&](index_t s, index_t head, index_t key, index_t count) {
          const T* from = x.data + (rows_of(offsets, s).first + key) * x.stride[0] + head * head_size;
          pack_rows<T, Arch>(from, x.stride[0], count, head_size, panel(s, head, key / width), width);
        });
    });
  }
};

/// Columns a value product handles at once: head_size split into equal whole-vector parts no wider than the widest tile.
template <class T, class Arch>
constexpr index_t value_width(index_t head_size) {
  constexpr index_t lanes = simd::width<T, Arch>, most = tile_shape<T, Arch>::most_vectors * lanes;
  const index_t parts = (head_size + most - 1) / most;
  return ((head_size + parts - 1) / parts + lanes - 1) / lanes * lanes;
}

/// One part of multiply_head: `columns` of v, whole vectors.
template <broadcast Lies, class T, class Arch>
void multiply_part(index_t rows, index_t depth, const T* p, index_t ldp, const T* v, index_t ldv, const tile_output<T>& out) {
  using shape = tile_shape<T, Arch>;
  if constexpr (shape::most_vectors > shape::vectors)
    if (out.columns > shape::columns) return run_whole_panel<shape::most_vectors, Lies, T, Arch>(rows, depth, p, ldp, v, ldv, out);
  run_panel<Lies, store::straight, T, Arch>(rows, depth, p, ldp, v, ldv, out);
}

/// out(i, c) = alpha * sum over k of p(i, k) v(k, c) + beta * out: rows of p times a head's columns of v, read in place, as many
/// keys at a time as stay at hand for all rows. Columns past a whole vector are copied first, since the tile reads whole vectors.
template <broadcast Lies, class T, class Arch>
void multiply_head(index_t rows, index_t depth, const T* p, index_t ldp, const T* v, index_t ldv, index_t head_size, T* out,
                   index_t ldo, T alpha, T beta, T* edge) {
  constexpr index_t at_once = 96;
  const index_t width = value_width<T, Arch>(head_size);
  for (index_t k = 0; k < depth; k += at_once) {
    const index_t steps = std::min(at_once, depth - k);
    const T* const from = Lies == broadcast::from_rows ? p + k : p + k * ldp;
    const T add = k == 0 ? beta : T(1);
    for (index_t c = 0; c < head_size; c += width) {
      const index_t columns = std::min(width, head_size - c);
      const T* part = v + k * ldv + c;
      index_t step = ldv;
      if (columns % simd::width<T, Arch> != 0) {
        pack_columns<T, Arch>(part, ldv, columns, steps, edge, width);
        part = edge;
        step = width;
      }
      multiply_part<Lies, T, Arch>(rows, steps, from, ldp, part, step, {out + c, ldo, alpha, add, columns});
    }
  }
}

/// Softmax of `keys` scores of which the first `visible` count; the others become zero. Returns log sum exp of the
/// scaled scores.
template <class T, class Arch>
T mask_and_softmax(T* scores, index_t visible, index_t keys, T scale, T& inverse_sum) {
  const T most = scale * row_maximum<T, Arch>(scores, visible);
  const T sum = row_exponentials<T, Arch>(scores, visible, scale, most);
  std::fill(scores + visible, scores + keys, T(0));
  inverse_sum = T(1) / sum;
  return most + std::log(sum);
}

/// One query row at a time, for generation: keys are read once and never packed.
template <class T, class Arch>
void attend_row(context& ctx, const attention_layout& at, tensor_view<const T, 2> q, tensor_view<const T, 2> k,
                tensor_view<const T, 2> v, tensor_view<T, 2> out, T* log_sum) {
  const index_t d = at.head_size;
  index_t longest = 0;
  for (index_t s = 0; s < at.sequences(); ++s) longest = std::max(longest, rows_of(at.key_offsets, s).count);
  ctx.scratch().reserve(static_cast<std::size_t>(longest + 8 + panel_depth * tile_shape<T, Arch>::columns) * sizeof(T));
  ctx.executor().parallel_for(q.shape[0] * at.heads, 1 + 65536 / (d * (longest + 1)), [&](index_t first, index_t last) {
    const auto scratch = ctx.scratch().take();
    T* const edge = scratch.template as<T>();
    T* const scores = edge + panel_depth * tile_shape<T, Arch>::columns;
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
      T inverse = 0;
      const T lse = mask_and_softmax<T, Arch>(scores, visible, visible, static_cast<T>(at.scale), inverse);
      if (log_sum != nullptr) log_sum[row * at.heads + head] = lse;
      multiply_head<broadcast::from_rows, T, Arch>(1, visible, scores, visible, v.data + keys.first * v.stride[0] + column,
                                                   v.stride[0], d, out.data + row * out.stride[0] + head * d,
                                                   out.stride[0], inverse, T(0), edge);
    }
  });
}

}  // namespace detail

/// out = softmax(scale q k^T, masked) v for every head. Shapes: q, out (N, H * D), k, v (M, G * D), rows contiguous;
/// log_sum (N, H), the log of every softmax's denominator, or null. Cost: 4 D flops for every visible pair and head.
/// Workspace: 24 rows of scores a thread, and one transposed copy of k.
template <class T, class Arch = simd::default_arch>
void attention(context& ctx, const attention_layout& at, tensor_view<const T, 2> q, tensor_view<const T, 2> k,
               tensor_view<const T, 2> v, tensor_view<T, 2> out, T* log_sum) {
  constexpr index_t block_rows = 24, width = tile_shape<T, Arch>::columns;
  index_t longest_keys = 0, longest_queries = 0;
  for (index_t s = 0; s < at.sequences(); ++s) {
    longest_keys = std::max(longest_keys, detail::rows_of(at.key_offsets, s).count);
    longest_queries = std::max(longest_queries, detail::rows_of(at.query_offsets, s).count);
  }
  if (longest_queries <= 2) return detail::attend_row<T, Arch>(ctx, at, q, k, v, out, log_sum);

  const index_t d = at.head_size, ld = (longest_keys + width - 1) / width * width;
  const buffer_handle memory = ctx.pool().take(detail::key_panels<T, Arch>::size(at) * sizeof(T));
  const detail::key_panels<T, Arch> keys_packed{reinterpret_cast<T*>(memory.data()), at.key_offsets, at.kv_heads, d};
  keys_packed.pack(ctx, at, k);
  ctx.scratch().reserve(static_cast<std::size_t>(block_rows * ld + panel_depth * width) * sizeof(T));
  const detail::block_grid grid(at, at.query_offsets, at.heads, block_rows);
  ctx.executor().parallel_for(grid.tasks(at.sequences()), 1, [&](index_t task, index_t) {
    grid.run(task, at.query_offsets, [&](index_t s, index_t head, index_t first, index_t rows) {
      const auto scratch = ctx.scratch().take();
      T* const edge = scratch.template as<T>();
      T* const scores = edge + panel_depth * width;
      const detail::row_range queries = detail::rows_of(at.query_offsets, s), keys = detail::rows_of(at.key_offsets, s);
      const index_t seen = detail::visible_keys(at, queries.count, keys.count, first + rows - 1);
      const index_t row = queries.first + first, kv = head / at.group();
      for (index_t j = 0; j < seen; j += width)
        run_panel<broadcast::from_rows, store::straight, T, Arch>(rows, d, q.data + row * q.stride[0] + head * d, q.stride[0],
                                                                  keys_packed.panel(s, kv, j / width), width,
                                                                  {scores + j, ld, T(1), T(0), std::min(width, seen - j)});
      T inverse[block_rows];
      for (index_t i = 0; i < rows; ++i) {
        const index_t visible = detail::visible_keys(at, queries.count, keys.count, first + i);
        const T lse = detail::mask_and_softmax<T, Arch>(scores + i * ld, visible, seen, static_cast<T>(at.scale), inverse[i]);
        if (log_sum != nullptr) log_sum[(row + i) * at.heads + head] = lse;
      }
      T* const to = out.data + row * out.stride[0] + head * d;
      detail::multiply_head<broadcast::from_rows, T, Arch>(rows, seen, scores, ld, v.data + keys.first * v.stride[0] + kv * d,
                                                           v.stride[0], d, to, out.stride[0], T(1), T(0), edge);
      for (index_t i = 0; i < rows; ++i) detail::row_scale<T, Arch>(to + i * out.stride[0], d, inverse[i]);
    });
  });
}

}  // namespace graft::kernel
