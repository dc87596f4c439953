// SPDX-License-Identifier: Apache-2.0
// Attention where heads are too narrow to fill vectors and products too shallow for tiles: queries stand in the lanes, one key after
// another is held against them, and what belongs to a query stays in registers meanwhile. Used by kernel/attention.hpp.
// Read next: kernel/attention_backward.hpp.
#pragma once
#include "graft/kernel/attention_block.hpp"
#include "graft/kernel/norm.hpp"

namespace graft::kernel::detail {

/// Queries that the forward pass takes at a time: of narrow heads a vector, whose scores then stay in the first-level cache.
template <class T, class Arch>
constexpr index_t queries_at_once(index_t head_size) {
  return is_narrow(head_size) ? score_block<T, Arch>::lanes : score_block<T, Arch>::width;
}

/// The channels of a vector of queries: channel c at panel + c * step.
template <class T, class Arch>
struct narrow_rows {
  simd::batch<T, Arch> channel[narrow_head];

  GRAFT_INLINE static narrow_rows zeros() {
    narrow_rows r;
    GRAFT_UNROLL
    for (auto& c : r.channel) c = simd::batch<T, Arch>(T(0));
    return r;
  }
  GRAFT_INLINE static narrow_rows load(const T* panel, index_t step) {
    narrow_rows r;
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) r.channel[c] = simd::load<T, Arch>(panel + c * step);
    return r;
  }
  GRAFT_INLINE void store(T* panel, index_t step) const {
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) simd::store(panel + c * step, channel[c]);
  }

  GRAFT_INLINE narrow_rows times(simd::batch<T, Arch> factor) const {
    narrow_rows r;
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) r.channel[c] = channel[c] * factor;
    return r;
  }
  /// Every lane's inner product with one row.
  GRAFT_INLINE simd::batch<T, Arch> times_row(const T* row) const {
    simd::batch<T, Arch> sum = channel[0] * simd::batch<T, Arch>(row[0]);
    GRAFT_UNROLL
    for (index_t c = 1; c < narrow_head; ++c) sum = simd::fma(channel[c], simd::batch<T, Arch>(row[c]), sum);
    return sum;
  }
  /// Adds to every lane its weight times one row.
  GRAFT_INLINE void add_row(simd::batch<T, Arch> weight, const T* row) {
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) channel[c] = simd::fma(weight, simd::batch<T, Arch>(row[c]), channel[c]);
  }
  /// Lane l becomes the row at out + l * step, for `lanes` of them: out = row + beta * out.
  GRAFT_INLINE void put_rows(T* out, index_t step, T beta, index_t lanes) const {
    simd::batch<T, Arch> rows[narrow_head][1];
    GRAFT_UNROLL
    for (index_t c = 0; c < narrow_head; ++c) rows[c][0] = channel[c];
    store_columns<T, Arch, narrow_head, 1>(rows, {out, step, T(1), beta, lanes});
  }
};

/// scores(k, i) = alpha * sum over c of rows(k, c) panel(c, i), wherever a query of i's vector sees key k, as score_block::multiply.
template <class T, class Arch>
void narrow_scores(const score_block<T, Arch>& block, const T* rows, index_t row_step, const T* panel, index_t panel_step, T alpha, T* scores) {
  const index_t row = block.row;  // stores of vectors might change what is behind a reference
  for (index_t i = block.seen_from(0) / block.lanes * block.lanes; i < block.queries; i += block.lanes) {
    const auto queries = narrow_rows<T, Arch>::load(panel + i, panel_step).times(simd::batch<T, Arch>(alpha));
    const index_t end = block.sees(i + block.lanes - 1);
    const auto put = [&queries, rows, row_step, column = scores + i, row](index_t k) GRAFT_INLINED {
      simd::store(column + k * row, queries.times_row(rows + k * row_step));
    };
    index_t k = 0;
    for (; k + 4 <= end; k += 4) {
      GRAFT_UNROLL
      for (int u = 0; u < 4; ++u) put(k + u);
    }
    for (; k < end; ++k) put(k);
  }
}

/// Adds to `sums`, of the vector of queries at i, scores(k, i) rows(k, c) over the keys: what gather_from_keys does for all queries.
template <class T, class Arch>
GRAFT_INLINE void add_narrow_rows(const score_block<T, Arch>& block, index_t i, const T* scores, const T* rows, index_t row_step, narrow_rows<T, Arch>& sums) {
  for (index_t k = 0, end = block.sees(i + block.lanes - 1); k < end; ++k)
    sums.add_row(simd::load<T, Arch>(scores + k * block.row + i), rows + k * row_step);
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
      const batch score = queries.times_row(key.from(k).data);
      simd::store(column + k * row, score);
      return score;
    };
    auto y = narrow_rows<T, Arch>::zeros();
    const auto [sum, log_sum] = softmax_of_queries(
        block, i, scores, put, [&](index_t k, batch e) GRAFT_INLINED { y.add_row(e, value.from(k).data); }, [](index_t) {});
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
