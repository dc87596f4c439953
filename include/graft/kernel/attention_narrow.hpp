// SPDX-License-Identifier: Apache-2.0
// Attention where heads are too narrow to fill vectors and products too shallow for tiles: queries stand in the lanes, one key after
// another is held against them, and what belongs to a query stays in registers meanwhile. Used by kernel/attention.hpp.
// Read next: kernel/attention_backward.hpp.
#pragma once
#include <type_traits>

#include "graft/kernel/attention_block.hpp"
#include "graft/kernel/norm.hpp"

namespace graft::kernel::detail {

/// Queries that the forward pass takes at a time: of narrow heads a vector, whose scores then stay in the first-level cache.
template <class T, class Arch>
constexpr index_t queries_at_once(index_t head_size) {
  return is_narrow(head_size) ? score_block<T, Arch>::lanes : score_block<T, Arch>::width;
}

/// The channels of `Vectors` vectors of queries: channel c at panel + c * step.
template <class T, class Arch, int Vectors = 1>
struct narrow_rows {
  using batch = simd::batch<T, Arch>;
  static constexpr index_t lanes = simd::width<T, Arch>;
  batch channel[narrow_head][Vectors];

  /// Calls f(vector of channel c, c, which of the vectors) for all.
  template <class F>
  GRAFT_INLINE void for_each(F f) {
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) {
      GRAFT_UNROLL
      for (int v = 0; v < Vectors; ++v) f(channel[c][v], c, v);
    }
  }
  GRAFT_INLINE static narrow_rows zeros() {
    narrow_rows r;
    r.for_each([](batch& x, index_t, int) GRAFT_INLINED { x = batch(T(0)); });
    return r;
  }
  GRAFT_INLINE static narrow_rows load(const T* panel, index_t step) {
    narrow_rows r;
    r.for_each([&](batch& x, index_t c, int v) GRAFT_INLINED { x = simd::load<T, Arch>(panel + c * step + v * lanes); });
    return r;
  }
  GRAFT_INLINE void store(T* panel, index_t step) {
    for_each([&](batch& x, index_t c, int v) GRAFT_INLINED { simd::store(panel + c * step + v * lanes, x); });
  }
  GRAFT_INLINE narrow_rows times(batch factor) const {
    narrow_rows r = *this;
    r.for_each([&](batch& x, index_t, int) GRAFT_INLINED { x *= factor; });
    return r;
  }

  /// Every lane's inner product with one row.
  GRAFT_INLINE void times_row(const T* row, batch (&sums)[Vectors]) const {
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) {
      const batch x = value_for_all(row[c]);
      GRAFT_UNROLL
      for (int v = 0; v < Vectors; ++v) sums[v] = c == 0 ? channel[c][v] * x : simd::fma(channel[c][v], x, sums[v]);
    }
  }
  /// Adds to every lane its weight times one row.
  GRAFT_INLINE void add_row(const batch (&weights)[Vectors], const T* row) {
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) {
      const batch x = value_for_all(row[c]);
      GRAFT_UNROLL
      for (int v = 0; v < Vectors; ++v) channel[c][v] = simd::fma(weights[v], x, channel[c][v]);
    }
  }
  /// Lane l becomes the row at out + l * step, for `count` of them: out = row + beta * out.
  GRAFT_INLINE void put_rows(T* out, index_t step, T beta, index_t count) {
    store_columns<T, Arch, narrow_head, Vectors>(channel, {out, step, T(1), beta, count});
  }

 private:
  /// Several vectors share what one load brings; a single one takes it as an operand from memory.
  static GRAFT_INLINE batch value_for_all(T x) { return Vectors > 1 ? simd::in_register(batch(x)) : batch(x); }
};

/// Calls f(first query, std::integral_constant: vectors) for the queries of a block from the first that sees a key on: two vectors at a time where
/// registers hold them, then one.
template <class T, class Arch, class F>
GRAFT_INLINE void for_each_strip(const score_block<T, Arch>& block, F f) {
  constexpr index_t lanes = simd::width<T, Arch>;
  index_t i = block.seen_from(0) / lanes * lanes;
  if constexpr (simd::registers == 32)
    for (; i + lanes < block.queries; i += 2 * lanes) f(i, std::integral_constant<int, 2>{});
  for (; i < block.queries; i += lanes) f(i, std::integral_constant<int, 1>{});
}

/// scores(k, i) = alpha * sum over c of rows(k, c) panel(c, i), wherever a query of i's strip sees key k, as score_block::multiply.
template <class T, class Arch>
void narrow_scores(const score_block<T, Arch>& block, const T* rows, index_t row_step, const T* panel, index_t panel_step, T alpha, T* scores) {
  using batch = simd::batch<T, Arch>;
  const index_t row = block.row;  // stores of vectors might change what is behind a reference
  for_each_strip(block, [&]<int Vectors>(index_t i, std::integral_constant<int, Vectors>) GRAFT_INLINED {
    const auto queries = narrow_rows<T, Arch, Vectors>::load(panel + i, panel_step).times(batch(alpha));
    const index_t end = block.sees(i + Vectors * block.lanes - 1);
    const auto put = [&queries, rows, row_step, column = scores + i, row](index_t k) GRAFT_INLINED {
      batch score[Vectors];
      queries.times_row(rows + k * row_step, score);
      GRAFT_UNROLL
      for (int v = 0; v < Vectors; ++v) simd::store(column + k * row + v * simd::width<T, Arch>, score[v]);
    };
    index_t k = 0;
    for (; k + 4 <= end; k += 4) {
      GRAFT_UNROLL
      for (int u = 0; u < 4; ++u) put(k + u);
    }
    for (; k < end; ++k) put(k);
  });
}

/// panel(c, i) += sum over the keys of scores(k, i) rows(k, c): what gather_from_keys does for other heads. Scores that nobody sees are zeros.
template <class T, class Arch>
void gather_narrow(const score_block<T, Arch>& block, const T* scores, const T* rows, index_t row_step, T* panel, index_t panel_step) {
  for_each_strip(block, [&]<int Vectors>(index_t i, std::integral_constant<int, Vectors>) GRAFT_INLINED {
    auto sums = narrow_rows<T, Arch, Vectors>::load(panel + i, panel_step);
    const index_t end = block.sees(i + Vectors * block.lanes - 1);
    for (index_t k = 0; k < end; ++k) {
      simd::batch<T, Arch> weights[Vectors];
      GRAFT_UNROLL
      for (int v = 0; v < Vectors; ++v) weights[v] = simd::load<T, Arch>(scores + k * block.row + i + v * block.lanes);
      sums.add_row(weights, rows + k * row_step);
    }
    sums.store(panel + i, panel_step);
  });
}

/// Rows of out, those of the block's queries: softmax of their scores, powers of two to take, times the values. `panel` has the queries,
/// `scores` room for block.keys of block.row, which hold what one pass over the keys leaves to the next. log_sums: natural, of every query.
template <class T, class Arch>
void attend_narrow(const score_block<T, Arch>& block, const T* panel, T scale, head_rows<T> key, head_rows<T> value, T* scores, T* log_sums, T* out,
                   index_t out_step) {
  using batch = simd::batch<T, Arch>;
  const index_t row = block.row;
  for (index_t i = 0; i < block.queries; i += block.lanes) {
    const auto queries = narrow_rows<T, Arch>::load(panel + i, block.row).times(batch(scale));
    const auto put = [&queries, key, column = scores + i, row](index_t k) GRAFT_INLINED {
      batch score[1];
      queries.times_row(key.from(k).data, score);
      simd::store(column + k * row, score[0]);
      return score[0];
    };
    auto y = narrow_rows<T, Arch>::zeros();
    const auto [sum, log_sum] = softmax_of_queries(
        block, i, scores, put, [&](index_t k, batch e) GRAFT_INLINED { y.add_row({e}, value.from(k).data); }, [](index_t) {});
    simd::store(log_sums + i, log_sum);
    y.times(batch(T(1)) / sum).put_rows(out + i * out_step, out_step, T(0), block.queries - i);
  }
}

/// Keys that one pass of the backward kernel holds against all queries of a block, and the queries of such a block.
inline constexpr index_t narrow_keys = 8, narrow_queries = 256;

/// Rows of out, one a key: row = beta * row + sum over queries from `first` on of weights[key * step + query] panel[c * step + query].
template <int Keys, class T, class Arch>
GRAFT_INLINE void add_narrow_keys(const T* weights, const T* panel, index_t step, index_t first, index_t queries, T* out, index_t out_step, T beta) {
  using batch = simd::batch<T, Arch>;
  constexpr std::size_t outputs = static_cast<std::size_t>(Keys * narrow_head);
  batch sums[outputs];
  GRAFT_UNROLL
  for (auto& sum : sums) sum = batch(T(0));
  for (index_t i = first; i < queries; i += simd::width<T, Arch>) {
    batch w[Keys];
    GRAFT_UNROLL
    for (int n = 0; n < Keys; ++n) w[n] = simd::load<T, Arch>(weights + n * step + i);
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) {
      const batch x = simd::load<T, Arch>(panel + c * step + i);
      GRAFT_UNROLL
      for (int n = 0; n < Keys; ++n) sums[n * narrow_head + c] = simd::fma(w[n], x, sums[n * narrow_head + c]);
    }
  }
  alignas(64) T rows[outputs];
  simd::sum_each(sums, rows);
  for (int n = 0; n < Keys; ++n)
    for_each_vector<T, Arch>(narrow_head, [&](index_t c, index_t lanes) GRAFT_INLINED {
      T* const to = out + n * out_step + c;
      batch sum = simd::load_first<T, Arch>(rows + n * narrow_head + c, lanes);
      if (beta != T(0)) sum = simd::fma(batch(beta), simd::load_first<T, Arch>(to, lanes), sum);
      simd::store_first(to, sum, lanes);
    });
}

/// The same for all keys of a block.
template <class T, class Arch>
void add_narrow(const score_block<T, Arch>& block, const T* weights, const T* panel, index_t step, T* out, index_t out_step, T beta) {
  const index_t first = block.seen_from(0) / simd::width<T, Arch> * simd::width<T, Arch>;
  index_t n = 0;
  if constexpr (simd::registers == 32)  // which hold the sums of two keys
    for (; n + 2 <= block.keys; n += 2)
      add_narrow_keys<2, T, Arch>(weights + n * step, panel, step, first, block.queries, out + n * out_step, out_step, beta);
  for (; n < block.keys; ++n) add_narrow_keys<1, T, Arch>(weights + n * step, panel, step, first, block.queries, out + n * out_step, out_step, beta);
}

}  // namespace graft::kernel::detail
