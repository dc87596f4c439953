// SPDX-License-Identifier: Apache-2.0
// Differentiable look-ups and selections of rows, and means over sequences. Read next: models/bert.hpp.
#pragma once
#include <cstdint>
#include <span>

#include "graft/autograd/tape.hpp"
#include "graft/kernel/elementwise.hpp"
#include "graft/kernel/embedding.hpp"

namespace graft {

namespace detail {

inline void check_ids(std::string_view op, std::span<const std::int32_t> ids, index_t rows) {
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= rows)
      throw_error<shape_error>(op, ": number ", ids[i], " at position ", i, ", but the table has ", rows, " rows");
}

}  // namespace detail

/// y(n, .) = table(ids[n], .). Shapes: table (V, C), ids (N) -> (N, C). Saves nothing; ids must outlive the tape.
/// Throws shape_error for an id outside the table.
template <class T>
var<T, 2> embedding(tape<T>& t, const var<T, 2>& table, std::span<const std::int32_t> ids) {
  detail::check_ids("embedding", ids, table.shape()[0]);
  const auto n = static_cast<index_t>(ids.size());
  auto y = t.template empty<2>({n, table.shape()[1]});
  kernel::gather_rows<T>(t.ctx(), table.value, ids.data(), n, y.value.data, T(0));
  t.record({"embedding"}, y, table.needs_grad(), [ids, n, ti = table.id, shape = table.shape()](tensor_view<const T, 2> dy, tape<T>& g) {
    const auto to = g.grad(ti, shape);
    kernel::scatter_rows<T>(g.ctx(), dy.data, ids.data(), n, to.view, to.beta);
  });
  return y;
}

/// The same from a frozen table of any storage type: no node.
template <class T>
var<T, 2> embedding(tape<T>& t, const matrix_ref& table, std::span<const std::int32_t> ids) {
  detail::check_ids("embedding", ids, table.rows);
  const auto n = static_cast<index_t>(ids.size());
  auto y = t.template empty<2>({n, table.cols});
  kernel::gather_rows<T>(t.ctx(), table, ids.data(), n, y.value.data, T(0));
  return y;
}

/// Row s of the result is the mean of rows [offsets[s], offsets[s + 1]) of x: the average over a sequence's tokens.
/// Shapes: x (N, C) -> (S, C). Saves nothing; offsets must outlive the tape. Throws shape_error for an empty sequence.
template <class T>
var<T, 2> mean_rows(tape<T>& t, const var<T, 2>& x, std::span<const index_t> offsets) {
  const auto sequences = static_cast<index_t>(offsets.size()) - 1;
  const index_t c = x.shape()[1];
  if (sequences < 1 || offsets.back() != x.shape()[0])
    throw_error<shape_error>("mean_rows: x is ", to_string(x.shape()), ", the sequences end at row ", offsets.empty() ? 0 : offsets.back());
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    if (offsets[s + 1] <= offsets[s]) throw_error<shape_error>("mean_rows: sequence ", s, " is empty");
  auto y = t.template empty<2>({sequences, c});
  for (index_t s = 0; s < sequences; ++s) {
    const index_t first = offsets[static_cast<std::size_t>(s)], count = offsets[static_cast<std::size_t>(s) + 1] - first;
    const simd::batch<T> share(T(1) / static_cast<T>(count));
    kernel::sum_rows<T>(t.ctx(), count, c, y.value.data + s * c, T(0), [&](index_t r, index_t j, index_t lanes) {
      return share * simd::load_first<T>(x.value.data + (first + r) * c + j, lanes);
    });
  }
  t.record({"mean_rows", static_cast<std::uint64_t>(x.value.size())}, y, x.needs_grad(),
           [offsets, c, xi = x.id, shape = x.shape()](tensor_view<const T, 2> dy, tape<T>& g) {
             const auto to = g.grad(xi, shape);
             for (std::size_t s = 0; s + 1 < offsets.size(); ++s) {
               const T share = T(1) / static_cast<T>(offsets[s + 1] - offsets[s]);
               for (index_t r = offsets[s]; r < offsets[s + 1]; ++r)
                 kernel::map<T>(g.ctx(), c, to.view.data + r * c, to.beta, kernel::times_constant<T>{share},
                                dy.data + static_cast<index_t>(s) * c);
             }
           });
  return y;
}

/// The rows of x with these numbers: first or last tokens, samples of a route. Shapes: x (N, C), rows (M) -> (M, C).
/// Saves nothing; rows must outlive the tape.
template <class T>
var<T, 2> take_rows(tape<T>& t, const var<T, 2>& x, std::span<const std::int32_t> rows) {
  return embedding(t, x, rows);
}

}  // namespace graft
