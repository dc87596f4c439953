// SPDX-License-Identifier: Apache-2.0
// The low-rank terms of many adapters in one batch, each over rows of its own. Read next: peft/served.hpp, kernel/dot.hpp.
#pragma once
#include <algorithm>
#include <span>

#include "graft/kernel/dot.hpp"
#include "graft/kernel/gemm.hpp"

namespace graft::kernel {

/// One adapter's part of a batch: its factors, and the numbers of its rows, rising. Rows of different terms do not overlap.
template <class T>
struct routed_term {
  tensor_view<const T, 2> a;      ///< (R, in)
  tensor_view<const T, 2> b;      ///< (out, R)
  double scale = 1;
  std::span<const index_t> rows;  ///< of the batch

  index_t rank() const noexcept { return a.shape[0]; }
  index_t count() const noexcept { return static_cast<index_t>(rows.size()); }
  static constexpr index_t few = 8;  ///< up to so many rows are read where they lie, and terms are computed beside one another
};

namespace detail {

/// Calls store(i, sums) for every row i of s, where sums[f] is its dot product with few[f].
template <int Few, class Arch, class T, class Store>
void each_dot(tensor_view<const T, 2> s, const T* const (&few)[Few], Store store) {
  constexpr int rows = dot_rows<Few>;
  alignas(64) T sums[rows * Few];
  const auto block = [&]<int Rows>(index_t i, std::integral_constant<int, Rows>) {
    dot_block<Rows, Few, T, Arch>(s.shape[1], s.data + i * s.stride[0], s.stride[0], few, sums);
    for (int r = 0; r < Rows; ++r) store(i + r, sums + r * Few);
  };
  index_t i = 0;
  for (; i + rows <= s.shape[0]; i += rows) block(i, std::integral_constant<int, rows>{});
  for (; i < s.shape[0]; ++i) block(i, std::integral_constant<int, 1>{});
}

/// A term of up to `Few` rows, wherever they are. h: room for count R elements.
template <int Few, class Arch, class T>
void add_few_rows(const routed_term<T>& term, tensor_view<const T, 2> x, tensor_view<T, 2> y, T* h) {
  const index_t n = term.count(), rank = term.rank();
  const T scale = static_cast<T>(term.scale);
  const T *in[Few], *middle[Few];
  T* out[Few];
  for (index_t f = 0; f < Few; ++f) {
    const index_t row = term.rows[static_cast<std::size_t>(f < n ? f : 0)];
    in[f] = x.data + row * x.stride[0];
    middle[f] = h + (f < n ? f : 0) * rank;
    out[f] = y.data + row * y.stride[0];
  }
  each_dot<Few, Arch>(term.a, in, [&](index_t r, const T* sums) {
    for (index_t f = 0; f < n; ++f) h[f * rank + r] = scale * sums[f];
  });
  each_dot<Few, Arch>(term.b, middle, [&](index_t o, const T* sums) {
    for (index_t f = 0; f < n; ++f) out[f][o] += sums[f];
  });
}

/// A term of many rows, as two products: in place where its rows are neighbours, else of copies.
template <class Arch, class T>
void add_many_rows(context& ctx, const routed_term<T>& term, tensor_view<const T, 2> x, tensor_view<T, 2> y) {
  const index_t n = term.count(), in = x.shape[1], out = y.shape[1], rank = term.rank(), first = term.rows.front();
  const bool neighbours = term.rows.back() - first + 1 == n;
  const buffer_handle memory = ctx.pool().take(static_cast<std::size_t>(n * (rank + (neighbours ? 0 : in + out))) * sizeof(T));
  T* const room = reinterpret_cast<T*>(memory.data());
  const tensor_view<T, 2> h(room, {n, rank});
  if (neighbours) {
    matmul_nt<T, Arch>(ctx, x.slice(0, first, first + n), term.a, h, {term.scale, 0});
    return matmul_nt<T, Arch>(ctx, h, term.b, y.slice(0, first, first + n), {1, 1});
  }
  const tensor_view<T, 2> from(room + n * rank, {n, in}), to(room + n * (rank + in), {n, out});
  const auto row_of = [&term](index_t i) { return term.rows[static_cast<std::size_t>(i)]; };
  const index_t grain = 1 + 16384 / (in + out + 1);
  ctx.executor().parallel_for(n, grain, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) std::copy_n(x.data + row_of(i) * x.stride[0], in, from.data + i * in);
  });
  matmul_nt<T, Arch>(ctx, from, term.a, h, {term.scale, 0});
  matmul_nt<T, Arch>(ctx, h, term.b, to);
  ctx.executor().parallel_for(n, grain, [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      T* const sum = y.data + row_of(i) * y.stride[0];
      for (index_t o = 0; o < out; ++o) sum[o] += to.data[i * out + o];
    }
  });
}

}  // namespace detail

/// y[rows] += scale (x[rows] a^T) b^T for every term over its own rows. Shapes: x (N, in), y (N, out); ranks may differ.
/// Cost: 2 R (in + out) flops a row, and one reading of each term's factors. Terms of few rows run beside one another, one task
/// each; those of many one after another, each on all threads. Rows that are no term's are not touched.
template <class T, class Arch = simd::default_arch>
void routed_low_rank(context& ctx, tensor_view<const T, 2> x, std::span<const routed_term<T>> terms, tensor_view<T, 2> y) {
  using namespace detail;
  constexpr index_t few = routed_term<T>::few;
  index_t room = 0;
  for (const auto& term : terms) {
    GRAFT_ASSERT(term.a.shape[1] == x.shape[1] && term.b.shape[0] == y.shape[1] && term.b.shape[1] == term.rank());
    GRAFT_ASSERT(term.rows.empty() || term.rows.back() < x.shape[0]);
    if (term.count() <= few) room = std::max(room, term.count() * term.rank());
  }
  ctx.scratch().reserve(static_cast<std::size_t>(room) * sizeof(T));
  ctx.executor().parallel_for(static_cast<index_t>(terms.size()), 1, [&](index_t i, index_t) {
    const auto& term = terms[static_cast<std::size_t>(i)];
    if (term.count() == 0 || term.count() > few) return;
    const auto scratch = ctx.scratch().take();
    T* const h = scratch.template as<T>();
    if (term.count() == 1) add_few_rows<1, Arch>(term, x, y, h);
    else if (term.count() == 2) add_few_rows<2, Arch>(term, x, y, h);
    else if (term.count() <= 4) add_few_rows<4, Arch>(term, x, y, h);
    else add_few_rows<8, Arch>(term, x, y, h);
  });
  for (const auto& term : terms)
    if (term.count() > few) add_many_rows<Arch>(ctx, term, x, y);
}

}  // namespace graft::kernel
