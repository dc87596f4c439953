// SPDX-License-Identifier: Apache-2.0
// Attention whose products go by pairs of bf16 values, as matrix registers take them: forward. Scores, powers and sums stay in float.
// Read next: kernel/attention.hpp, which chooses between this and floats.
#pragma once
#include "graft/kernel/attention_block.hpp"
#include "graft/kernel/bf16_operand.hpp"

namespace graft::kernel::detail {

/// Whether heads can go by pairs: sizes in whole vectors, for which room on the stack and in scratch is enough.
constexpr bool head_in_pairs(index_t head_size) { return head_size % 16 == 0 && head_size >= 32 && head_size <= 256; }

/// Whether attention goes by bf16 pairs: its context asks for them, and there are enough queries and matrix registers to gain by them.
inline bool attends_in_pairs(const context& ctx, const attention_layout& at) {
  return ctx.products == product_precision::bf16 && head_in_pairs(at.head_size) && longest(at.query_offsets) >= matrix_rows &&
         simd::runs_bf16_matrices();
}

template <class Arch>
struct paired_forward;  // everything the forward pass of one (sequence, query head) reads and writes

#if defined(GRAFT_BF16_PRODUCTS)

/// Rows rounded up to those that matrix registers take at a time.
constexpr index_t whole_rows(index_t rows) noexcept { return (rows + matrix_rows - 1) / matrix_rows * matrix_rows; }

/// rows[c][k / 2] = (w[k][c], w[k + 1][c]) for `columns` of them, whole vectors; zeros up to whole blocks of pairs. ld: pairs of a row.
template <class Arch>
GRAFT_FOR_BF16 void turn_column_pairs(const float* w, index_t row_step, index_t columns, index_t steps, float* rows, index_t ld) {
  const auto part = [&](index_t k, index_t c) -> __m512 {
    return k < steps ? __m512(simd::load<float, Arch>(w + k * row_step + c)) : _mm512_setzero_ps();
  };
  for (index_t k = 0; k < steps; k += 2 * pair_block)
    for (index_t c = 0; c < columns; c += 16) {
      simd::batch<float, Arch> block[16];
      GRAFT_UNROLL
      for (index_t i = 0; i < 16; ++i) block[i] = simd::pairs_across(part(k + 2 * i, c), part(k + 2 * i + 1, c));
      simd::transpose(block);
      GRAFT_UNROLL
      for (index_t i = 0; i < 16; ++i) simd::store(rows + (c + i) * ld + k / 2, block[i]);
    }
}

/// The panel of pairs of up to 48 rows of a head, times a factor. `scaled` has room for 48 such rows.
template <class Arch>
void pack_scaled_pairs(const float* rows, index_t row_step, index_t count, index_t head_size, float factor, float* scaled, float* panel) {
  const simd::batch<float, Arch> by(factor);
  for (index_t i = 0; i < count; ++i)
    for (index_t c = 0; c < head_size; c += 16) simd::store(scaled + i * head_size + c, by * simd::load<float, Arch>(rows + i * row_step + c));
  pack_row_pairs<Arch>(static_cast<const float*>(scaled), head_size, count, head_size, panel);
}

/// out(i, c) = beta * out(i, c) + by(i) turned(c, i) for `count` queries i, at most 48, in rows of `step`; by: whole vectors of them.
template <class Arch>
void put_turned(const float* turned, index_t step, index_t count, index_t head_size, const float* by, float* out, index_t out_step, float beta) {
  for (index_t i = 0; i < count; i += 16) {
    const auto factor = simd::load<float, Arch>(by + i);
    for (index_t c = 0; c < head_size; c += 16) {
      simd::batch<float, Arch> block[16];
      GRAFT_UNROLL
      for (index_t n = 0; n < 16; ++n) block[n] = factor * simd::load<float, Arch>(turned + (c + n) * step + i);
      simd::transpose(block);
      for (index_t n = 0; n < std::min<index_t>(16, count - i); ++n) {
        float* const to = out + (i + n) * out_step + c;
        simd::store(to, beta == 0 ? block[n] : simd::fma(simd::batch<float, Arch>(beta), simd::load<float, Arch>(to), block[n]));
      }
    }
  }
}

/// Values are turned once, so that a block's outputs, turned too, are one product of them and of the panel that its powers make, two neighbouring
/// keys to a pair.
template <class Arch>
struct paired_forward {
  const attention_layout& at;
  tensor_view<const float, 2> q, k, v;
  tensor_view<float, 2> out;
  float* log_sum;
  index_t s, head;

  /// What a thread needs for up to `longest` keys of a sequence.
  index_t scratch_elements(index_t longest) const {
    const index_t d = at.head_size, pairs = whole_pairs(longest);
    return whole_rows(longest) * (whole_pairs(d) + pair_columns) + whole_rows(d) * (pairs + pair_columns) + whole_pairs(d) * pair_columns;
  }

  /// Queries [begin, begin + count) of the sequence, block by block.
  void run(index_t begin, index_t count, float* scratch) const {
    const matrix_registers registers;
    const index_t d = at.head_size, column = head / at.group() * d, depth = whole_pairs(d);
    const row_range queries = rows_of(at.query_offsets, s), keys = rows_of(at.key_offsets, s);
    const index_t seen = visible_keys(at, queries.count, keys.count, begin + count - 1), seen_pairs = whole_pairs(seen);
    float *const key = scratch, *const value = key + whole_rows(seen) * depth, *const panel = value + whole_rows(d) * seen_pairs;
    float *const turned = panel + depth * pair_columns, *const scores = turned + whole_rows(d) * pair_columns;
    round_rows<Arch>(&k(keys.first, column), k.stride[0], seen, d, key, depth);
    turn_column_pairs<Arch>(&v(keys.first, column), v.stride[0], d, seen, value, seen_pairs);
    for (index_t i = begin; i < begin + count; i += pair_columns) {
      const index_t rows = std::min(pair_columns, begin + count - i), row = queries.first + i;
      const auto block = block_of_all_keys<float, Arch>(at, queries.count, keys.count, i, rows, pair_columns);
      const index_t next = std::min(pair_columns, begin + count - i - rows);
      ask_for_rows<float, Arch>(&q(row, head * d) + rows * q.stride[0], q.stride[0], next, d);
      ask_for_rows<float, Arch>(&out(row, head * d), out.stride[0], rows, d);
      float sums[pair_columns], log_sums[pair_columns];
      pack_scaled_pairs<Arch>(&q(row, head * d), q.stride[0], rows, d, static_cast<float>(at.binary_scale()), turned, panel);
      multiply_pairs<Arch>(whole_rows(block.keys), pair_columns, depth, key, depth, panel, scores, pair_columns, false);
      exponentials(block, scores, sums, log_sums);
      pack_column_pairs<Arch>(static_cast<const float*>(scores), pair_columns, pair_columns, block.keys, scores);  // a row lies where its pair lay
      multiply_pairs<Arch>(whole_rows(d), pair_columns, whole_pairs(block.keys), value, seen_pairs, scores, turned, pair_columns, false);
      for (index_t n = 0; n < rows; n += 16) simd::store(sums + n, simd::batch<float, Arch>(1.f) / simd::load<float, Arch>(sums + n));
      put_turned<Arch>(turned, pair_columns, rows, d, sums, &out(row, head * d), out.stride[0], 0);
      for (index_t n = 0; log_sum != nullptr && n < rows; ++n) log_sum[(row + n) * at.heads + head] = log_sums[n];
    }
  }
};

#endif

}  // namespace graft::kernel::detail
