// SPDX-License-Identifier: Apache-2.0
// What the attention kernels share: how rows and heads lie, a block of scores, and products with the rows of one head.
// Read next: kernel/attention.hpp.
#pragma once
#include <algorithm>
#include <limits>
#include <numbers>
#include <span>

#include "graft/kernel/panel.hpp"

namespace graft::kernel {

/// How rows form sequences and columns form heads. Sequence s has query rows [query_offsets[s], query_offsets[s + 1]) and
/// key rows likewise; its queries stand at the end of its keys, so that with a cache there are more keys than queries.
/// Query head h reads key and value head h / (heads / kv_heads). Key rows of head g are at column g * head_size.
struct attention_layout {
  index_t heads = 1, kv_heads = 1, head_size = 0;
  double scale = 1;
  bool causal = true;
  std::span<const index_t> query_offsets, key_offsets;

  /// What turns an inner product of query and key into the power of two that its exponential is.
  double binary_scale() const { return scale * std::numbers::log2e; }
  index_t sequences() const { return static_cast<index_t>(query_offsets.size()) - 1; }
  index_t group() const { return heads / kv_heads; }
};

namespace detail {

inline constexpr index_t narrow_head = 8;  // channels

/// Whether a register each holds a query's channels, or an output's.
constexpr bool is_narrow(index_t head_size) { return head_size == narrow_head; }

struct row_range {
  index_t first, count;
};
inline row_range rows_of(std::span<const index_t> offsets, index_t s) {
  const auto i = static_cast<std::size_t>(s);
  return {offsets[i], offsets[i + 1] - offsets[i]};
}

/// The most rows of a sequence.
inline index_t longest(std::span<const index_t> offsets) {
  index_t most = 0;
  for (std::size_t s = 1; s < offsets.size(); ++s) most = std::max(most, offsets[s] - offsets[s - 1]);
  return most;
}

/// Keys that query `i` of a sequence may see.
inline index_t visible_keys(const attention_layout& at, index_t queries, index_t keys, index_t i) {
  return at.causal ? std::min(keys, keys - queries + i + 1) : keys;
}

/// The tasks of a kernel that works on (sequence, head, block of rows), numbered for parallel_for without a list: every
/// sequence gets as many as the longest one needs, and the surplus does nothing.
struct block_grid {
  index_t heads, rows, blocks;

  block_grid(std::span<const index_t> offsets, index_t head_count, index_t block_rows)
      : heads(head_count), rows(block_rows), blocks((longest(offsets) + block_rows - 1) / block_rows) {}
  index_t tasks(index_t sequences) const { return sequences * heads * blocks; }

  /// Calls f(sequence, head, first row, rows) for task t unless it lies past the end of its sequence.
  template <class F>
  void run(index_t t, std::span<const index_t> offsets, F f) const {
    const index_t block = t % blocks, head = t / blocks % heads, s = t / blocks / heads;
    const index_t count = rows_of(offsets, s).count - block * rows;
    if (count > 0) f(s, head, block * rows, std::min(count, rows));
  }
};

/// Scores of a block of queries and some keys, score(k, i) of key k and query i at scores[k * row + i]: queries stand in the lanes
/// of vectors, so that what belongs to a query (a maximum, a sum) is a lane, and masked pairs inside a vector are those of the
/// diagonal alone.
template <class T, class Arch>
struct score_block {
  using batch = simd::batch<T, Arch>;
  static constexpr index_t lanes = simd::width<T, Arch>, width = 48;  // the most queries of a block
  index_t queries, keys;
  index_t first_sees;     // keys that query 0 sees; may lie outside the block
  bool causal;            // then every next query sees one more
  index_t row = width;    // of the scores, and of the panel: at least as many as queries

  /// Keys of this block that query i sees.
  index_t sees(index_t i) const { return std::clamp<index_t>(first_sees + (causal ? std::min(i, queries - 1) : 0), 0, keys); }
  /// The first query that sees key k, or the last one of all.
  index_t seen_from(index_t k) const { return causal ? std::clamp<index_t>(k + 1 - first_sees, 0, queries - 1) : 0; }
  /// How many queries, or keys, a product takes at a time: few on the diagonal, to pass over pairs that nobody sees.
  index_t step() const { return sees(0) == keys ? row : index_t{2 * tile_shape<T, Arch>::rows}; }
  /// Queries rounded up to whole vectors.
  index_t padded() const { return whole_vectors<T, Arch>(queries); }

  /// scores(k, i) = alpha * sum over c of rows(k, c) panel(c, i), wherever a query of i's vector sees key k.
  void multiply(const T* rows, index_t row_step, index_t depth, const T* panel, T alpha, T* scores) const {
    index_t done = 0;
    for (index_t i = 0; i < queries; i += lanes) {
      const index_t end = sees(i + lanes - 1);
      if (end == done) continue;
      run_wide_panel<broadcast::from_rows, store::straight, T, Arch>(end - done, depth, rows + done * row_step, row_step, panel + i, row,
                                                                     {scores + done * row + i, row, alpha, T(0), padded() - i});
      done = end;
    }
  }

  /// Goes over the keys from k on for the vector of queries at i: seen(k) where all of them see the key, partly(k, which) where
  /// only some do, hidden(k) where none does.
  template <class Seen, class Partly, class Hidden>
  GRAFT_INLINE void for_each_key(index_t i, index_t k, Seen seen, Partly partly, Hidden hidden) const {
    const index_t whole = sees(i), end = sees(i + lanes - 1);
    for (; k < whole; ++k) seen(k);
    for (; k < end; ++k) partly(k, lane_numbers() >= batch(static_cast<T>(k + 1 - first_sees - i)));
    for (; k < keys; ++k) hidden(k);
  }

 private:
  static batch lane_numbers() {
    T numbers[static_cast<std::size_t>(lanes)];
    for (index_t l = 0; l < lanes; ++l) numbers[l] = static_cast<T>(l);
    return simd::load<T, Arch>(numbers);
  }
};

/// Queries [first, first + count) of a sequence with all keys that any of them sees.
template <class T, class Arch>
score_block<T, Arch> block_of_all_keys(const attention_layout& at, index_t queries, index_t keys, index_t first, index_t count, index_t row) {
  return {count, visible_keys(at, queries, keys, first + count - 1), visible_keys(at, queries, keys, first), at.causal, row};
}

/// Sums of a vector of queries, and their natural logs with the largest score put back.
template <class T, class Arch>
struct softmax_sums {
  simd::batch<T, Arch> sum, log_sum;
};

/// Softmax over the keys for the vector of queries at i, in two passes over scores(k, i), powers of two to take. score(k) gives such a score, or
/// makes and stores it; then come use(k, e) with e the power, less the largest of its query and 0 where the query does not see key k, and
/// hidden(k) for keys that none of them sees.
template <class T, class Arch, class Score, class Use, class Hidden>
GRAFT_INLINE softmax_sums<T, Arch> softmax_of_queries(const score_block<T, Arch>& block, index_t i, const T* scores, Score score, Use use,
                                                      Hidden hidden) {
  using batch = simd::batch<T, Arch>;
  batch most[4];  // in turns, so that one need not wait for another
  for (auto& m : most) m = batch(-std::numeric_limits<T>::infinity());
  index_t k = 0;
  for (const index_t whole = block.sees(i); k + 4 <= whole; k += 4) {
    GRAFT_UNROLL
    for (int u = 0; u < 4; ++u) most[u] = simd::max(most[u], score(k + u));
  }
  block.for_each_key(
      i, k, [&](index_t key) GRAFT_INLINED { most[0] = simd::max(most[0], score(key)); },
      [&](index_t key, auto seen) GRAFT_INLINED { most[0] = simd::select(seen, simd::max(most[0], score(key)), most[0]); }, [](index_t) {});
  const batch top = simd::max(simd::max(most[0], most[1]), simd::max(most[2], most[3]));
  batch sum(T(0));
  const auto power = [top, column = scores + i, row = block.row](index_t key) GRAFT_INLINED {
    return simd::exp2(simd::load<T, Arch>(column + key * row) - top);
  };
  const auto add = [&](index_t key, batch e) GRAFT_INLINED {
    use(key, e);
    sum += e;
  };
  block.for_each_key(
      i, 0, [&](index_t key) GRAFT_INLINED { add(key, power(key)); },
      [&](index_t key, auto seen) GRAFT_INLINED { add(key, simd::select(seen, power(key), batch(T(0)))); }, hidden);
  return {sum, simd::fma(top, batch(std::numbers::ln2_v<T>), simd::log(sum))};
}

/// Scores, powers of two to take, become those powers, less the largest of their query, and 0 where the query does not see the key;
/// sums and natural log sums are those of every query.
template <class T, class Arch>
void exponentials(const score_block<T, Arch>& block, T* scores, T* sums, T* log_sums) {
  using batch = simd::batch<T, Arch>;
  const index_t row = block.row;  // stores of vectors might change what is behind a reference
  for (index_t i = 0; i < block.queries; i += block.lanes) {
    const auto at = [column = scores + i, row](index_t k) GRAFT_INLINED { return column + k * row; };
    const auto [sum, log_sum] = softmax_of_queries(
        block, i, scores, [&](index_t k) GRAFT_INLINED { return simd::load<T, Arch>(at(k)); },
        [&](index_t k, batch e) GRAFT_INLINED { simd::store(at(k), e); }, [&](index_t k) { simd::store(at(k), batch(T(0))); });
    simd::store(sums + i, sum);
    simd::store(log_sums + i, log_sum);
  }
}

inline constexpr index_t keys_at_once = 96;  // of multiply_head

/// Columns a value product handles at once: head_size split into equal whole-vector parts no wider than the widest tile.
template <class T, class Arch>
constexpr index_t value_width(index_t head_size) {
  constexpr index_t most = tile_shape<T, Arch>::most_vectors * simd::width<T, Arch>;
  const index_t parts = (head_size + most - 1) / most;
  return whole_vectors<T, Arch>((head_size + parts - 1) / parts);
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
/// keys at a time as stay at hand for all rows. The tile reads whole vectors: where these would pass the end of v's rows, which
/// is `room` elements from v, columns are copied first.
template <broadcast Lies, class T, class Arch>
void multiply_head(index_t rows, index_t depth, const T* p, index_t ldp, const T* v, index_t ldv, index_t room, index_t head_size,
                   T* out, index_t ldo, T alpha, T beta, T* edge) {
  const index_t width = value_width<T, Arch>(head_size);
  for (index_t k = 0; k < depth; k += keys_at_once) {
    const index_t steps = std::min(keys_at_once, depth - k);
    const T* const from = Lies == broadcast::from_rows ? p + k : p + k * ldp;
    const T add = k == 0 ? beta : T(1);
    for (index_t c = 0; c < head_size; c += width) {
      const index_t columns = std::min(width, head_size - c);
      const T* part = v + k * ldv + c;
      index_t step = ldv;
      if (c + whole_vectors<T, Arch>(columns) > room) {
        pack_columns<T, Arch>(part, ldv, columns, steps, edge, width);
        part = edge;
        step = width;
      }
      multiply_part<Lies, T, Arch>(rows, steps, from, ldp, part, step, {out + c, ldo, alpha, add, columns});
    }
  }
}

/// Asks for rows of one head ahead of their use: they are too short, and the next one too far, for the processor to foresee.
template <class T, class Arch>
void ask_for_rows(const T* row, index_t row_step, index_t count, index_t head_size) {
  for (; count > 0; --count, row += row_step)
    for (index_t c = 0; c < head_size; c += simd::width<T, Arch>) simd::prefetch_far(row + c);
}

/// Whether a head's columns fill enough vectors to be the lanes of a tile; else the queries are.
template <class T, class Arch>
constexpr bool fills_vectors(index_t head_size) { return head_size % simd::width<T, Arch> == 0 && head_size >= 2 * simd::width<T, Arch>; }

/// Rows of one head.
template <class T>
struct head_rows {
  const T* data;
  index_t step;

  head_rows from(index_t row) const { return {data + row * step, step}; }
};

/// Whether `rows` rows of a head, `step` elements apart among those of other heads, are copied to lie side by side before products read
/// them. Tiles read whole vectors, which may pass a head's end. Narrow tiles read rows again and again. Wide ones read in place, unless the rows
/// are many and a multiple of 1 KiB apart: then few sets of the caches hold them all.
template <class T, class Arch>
constexpr bool copies_rows(index_t head_size, index_t step, index_t rows) {
  if (is_narrow(head_size)) return false;
  const bool crowded = step * static_cast<index_t>(sizeof(T)) % 1024 == 0 && rows >= 512;
  return simd::registers < 32 || head_size % simd::width<T, Arch> != 0 || crowded;
}

/// `count` rows at `to`, with zeros up to whole vectors, if they are copied, or where they are. A plain loop: by pack_columns, which cuts panels,
/// heads of 32 took up to a tenth longer.
template <class T, class Arch>
head_rows<T> at_hand(head_rows<T> rows, index_t count, index_t head_size, bool copied, T* to) {
  constexpr index_t lanes = simd::width<T, Arch>, line = 64 / static_cast<index_t>(sizeof(T)), ahead = 16;
  if (!copied) return rows;
  const index_t step = whole_vectors<T, Arch>(head_size), rest = head_size % lanes;
  for (index_t n = 0; n < count; ++n) {
    const T* const from = rows.from(n).data;
    T* const copy = to + n * step;
    for (index_t c = 0; c < head_size; c += line) simd::prefetch(from + ahead * rows.step + c);
    index_t c = 0;
    for (; c + lanes <= head_size; c += lanes) simd::store(copy + c, simd::load<T, Arch>(from + c));
    if (rest != 0) simd::store(copy + c, simd::load_partial<T, Arch>(from + c, rest));
  }
  return {to, step};
}

/// out(i, c) = beta * out(i, c) + sum over k of scores(k, i) rows(k, c): what a block of queries gathers from one head of its
/// keys' rows. Scores that nobody sees are zeros.
template <class T, class Arch>
void gather_from_keys(const score_block<T, Arch>& block, const T* scores, head_rows<T> rows, index_t head_size, T* out, index_t out_step, T beta) {
  if (fills_vectors<T, Arch>(head_size)) {
    const auto gather = [&](index_t i, index_t count, index_t k, index_t end, T keep) {
      multiply_head<broadcast::from_columns, T, Arch>(count, end - k, scores + k * block.row + i, block.row, rows.from(k).data, rows.step, rows.step,
                                                      head_size, out + i * out_step, out_step, T(1), keep, nullptr);
    };
    const index_t seen_by_all = block.sees(0), whole = seen_by_all == block.keys ? seen_by_all : seen_by_all / 8 * 8;  // no pass for a key or two
    if (whole > 0) gather(0, block.queries, 0, whole, beta);
    if (whole < block.keys)
      for (index_t i = 0; i < block.queries; i += block.step()) {
        const index_t count = std::min(block.step(), block.queries - i);
        gather(i, count, whole, block.sees(i + count - 1), whole == 0 ? beta : T(1));
      }
    return;
  }
  const index_t seen = block.sees(block.queries - 1);
  for (index_t k = 0; k < seen; k += panel_depth)
    run_wide_panel<broadcast::from_columns, store::transposed, T, Arch>(head_size, std::min(panel_depth, seen - k), rows.from(k).data,
                                                                   rows.step, scores + k * block.row, block.row,
                                                                   {out, out_step, T(1), k == 0 ? beta : T(1), block.queries});
}

}  // namespace detail
}  // namespace graft::kernel
