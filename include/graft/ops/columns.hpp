// SPDX-License-Identifier: Apache-2.0
// Differentiable choice of columns. Read next: models/gpt2.hpp, which cuts queries, keys and values from one product.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>

#include "graft/autograd/tape.hpp"
#include "graft/kernel/elementwise.hpp"

namespace graft {

/// y(n, j) = x(n, first + j). Shapes: x (N, C) -> (N, count). A copy; saves nothing. Throws shape_error when x has not these columns.
template <class T>
var<T, 2> slice_columns(tape<T>& t, const var<T, 2>& x, index_t first, index_t count) {
  const index_t n = x.shape()[0], c = x.shape()[1];
  if (first < 0 || count < 0 || first + count > c)
    throw_error<shape_error>("slice_columns: columns ", first, " to ", first + count, " of x ", to_string(x.shape()));
  auto y = t.template empty<2>({n, count});
  for (index_t r = 0; r < n; ++r) std::copy_n(x.value.data + r * c + first, count, y.value.data + r * count);
  t.record({"slice_columns"}, y, x.needs_grad(), [xi = x.id, shape = x.shape(), first](tensor_view<const T, 2> dy, tape<T>& g) {
    const auto to = g.grad(xi, shape);
    const index_t taken = dy.shape[1];
    for (index_t r = 0; r < shape[0]; ++r) {
      T* row = to.view.data + r * shape[1];
      if (to.beta == T(0)) std::fill_n(row, shape[1], T(0));
      for (index_t j = 0; j < taken; ++j) row[first + j] += dy.data[r * taken + j];
    }
  });
  return y;
}

namespace detail {
/// Runs f(row) over all rows, in tasks of some thousand elements.
template <class F>
void for_rows(context& ctx, index_t rows, index_t columns, F f) {
  ctx.executor().parallel_for(rows, 1 + kernel::map_grain / (columns + 1), [&](index_t first, index_t last) {
    for (index_t r = first; r < last; ++r) f(r);
  });
}
/// to(n, j) = from(n, columns[j]) + beta to(n, j).
template <class T>
void gather_columns(context& ctx, tensor_view<const T, 2> from, std::span<const std::int32_t> columns, tensor_view<T, 2> to, T beta) {
  for_rows(ctx, to.shape[0], to.shape[1], [&](index_t r) {
    const T* x = from.data + r * from.shape[1];
    T* y = to.data + r * to.shape[1];
    if (beta == T(0)) for (std::size_t j = 0; j < columns.size(); ++j) y[j] = x[columns[j]];
    else for (std::size_t j = 0; j < columns.size(); ++j) y[j] = x[columns[j]] + beta * y[j];
  });
}
/// to(n, columns[j]) = from(n, j) + beta to(n, columns[j]); the other columns become 0 times beta.
template <class T>
void scatter_columns(context& ctx, tensor_view<const T, 2> from, std::span<const std::int32_t> columns, tensor_view<T, 2> to, T beta) {
  for_rows(ctx, to.shape[0], to.shape[1], [&](index_t r) {
    const T* x = from.data + r * from.shape[1];
    T* y = to.data + r * to.shape[1];
    if (beta == T(0)) std::fill_n(y, to.shape[1], T(0));
    for (std::size_t j = 0; j < columns.size(); ++j) y[columns[j]] += x[j];
  });
}
}  // namespace detail

/// y(n, j) = x(n, columns[j]). Shapes: x (N, C) -> (N, number of columns). Saves nothing. The columns, each one of x's and none
/// twice, must outlive the tape.
template <class T>
var<T, 2> take_columns(tape<T>& t, const var<T, 2>& x, std::span<const std::int32_t> columns) {
  auto y = t.template empty<2>({x.shape()[0], static_cast<index_t>(columns.size())});
  detail::gather_columns<T>(t.ctx(), x.value, columns, y.value, T(0));
  t.record({"take_columns"}, y, x.needs_grad(), [xi = x.id, shape = x.shape(), columns](tensor_view<const T, 2> dy, tape<T>& g) {
    const auto to = g.grad(xi, shape);
    detail::scatter_columns<T>(g.ctx(), dy, columns, to.view, to.beta);
  });
  return y;
}

/// The opposite: y(n, columns[j]) = x(n, j), 0 in the other columns. Shapes: x (N, number of columns) -> (N, width).
template <class T>
var<T, 2> spread_columns(tape<T>& t, const var<T, 2>& x, std::span<const std::int32_t> columns, index_t width) {
  auto y = t.template empty<2>({x.shape()[0], width});
  detail::scatter_columns<T>(t.ctx(), x.value, columns, y.value, T(0));
  t.record({"spread_columns"}, y, x.needs_grad(), [xi = x.id, shape = x.shape(), columns](tensor_view<const T, 2> dy, tape<T>& g) {
    const auto to = g.grad(xi, shape);
    detail::gather_columns<T>(g.ctx(), dy, columns, to.view, to.beta);
  });
  return y;
}

}  // namespace graft
