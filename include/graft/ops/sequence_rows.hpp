// SPDX-License-Identifier: Apache-2.0
// Differentiable rows at the beginning of every sequence: put there, and taken away. Read next: models/decoder_pass.hpp.
#pragma once
#include <algorithm>
#include <span>

#include "graft/autograd/tape.hpp"
#include "graft/kernel/elementwise.hpp"

namespace graft {

namespace detail {

/// to = beta * to + from, over rows that lie one behind the other.
template <class T>
void blend_rows(context& ctx, index_t rows, index_t columns, const T* from, T* to, T beta) {
  kernel::map<T>(ctx, rows * columns, to, beta, kernel::times_constant<T>{T(1)}, from);
}

/// Calls f(rows of a sequence, where it begins, where it begins once each has `count` more rows in front).
template <class F>
void each_longer_sequence(std::span<const index_t> offsets, index_t count, F f) {
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    f(offsets[s + 1] - offsets[s], offsets[s], offsets[s] + static_cast<index_t>(s) * count);
}

}  // namespace detail

/// The rows of `first` before those of every sequence of x. Shapes: first (P, C), x (N, C), with S sequences [offsets[s], offsets[s + 1])
/// of x -> (N + S P, C). A copy; saves nothing; the gradient of `first` is the sum over the sequences, in their order. offsets must
/// outlive the tape. Throws shape_error when widths or offsets do not agree.
template <class T>
var<T, 2> prepend_rows(tape<T>& t, const var<T, 2>& first, const var<T, 2>& x, std::span<const index_t> offsets) {
  const index_t p = first.shape()[0], c = x.shape()[1];
  if (first.shape()[1] != c)
    throw_error<shape_error>("prepend_rows: the rows to put before are ", to_string(first.shape()), ", x is ", to_string(x.shape()));
  if (offsets.size() < 2 || offsets.back() != x.shape()[0])
    throw_error<shape_error>("prepend_rows: x is ", to_string(x.shape()), ", the sequences end at row ", offsets.empty() ? 0 : offsets.back());
  auto y = t.template empty<2>({x.shape()[0] + static_cast<index_t>(offsets.size() - 1) * p, c});
  detail::each_longer_sequence(offsets, p, [&](index_t rows, index_t from, index_t to) {
    std::copy_n(first.value.data, p * c, y.value.data + to * c);
    std::copy_n(x.value.data + from * c, rows * c, y.value.data + (to + p) * c);
  });
  t.record({"prepend_rows"}, y, first.needs_grad() || x.needs_grad(),
           [=, fi = first.id, xi = x.id, shape = x.shape()](tensor_view<const T, 2> dy, tape<T>& g) {
             if (fi != no_node) {
               const auto to = g.grad(fi, extents<2>{p, c});
               detail::each_longer_sequence(offsets, p, [&](index_t, index_t, index_t at) {
                 detail::blend_rows<T>(g.ctx(), p, c, dy.data + at * c, to.view.data, at == 0 ? to.beta : T(1));
               });
             }
             if (xi != no_node) {
               const auto to = g.grad(xi, shape);
               detail::each_longer_sequence(offsets, p, [&](index_t rows, index_t from, index_t at) {
                 detail::blend_rows<T>(g.ctx(), rows, c, dy.data + (at + p) * c, to.view.data + from * c, to.beta);
               });
             }
           });
  return y;
}

/// The opposite: x without the first `count` rows of every sequence. Shapes: x (N + S count, C) -> (N, C), with offsets of the S
/// sequences of the result. A copy; saves nothing. offsets must outlive the tape. Throws shape_error when they do not agree with x.
template <class T>
var<T, 2> drop_first_rows(tape<T>& t, const var<T, 2>& x, index_t count, std::span<const index_t> offsets) {
  const index_t c = x.shape()[1], sequences = static_cast<index_t>(offsets.size()) - 1;
  if (sequences < 1 || count < 0 || offsets.back() + sequences * count != x.shape()[0])
    throw_error<shape_error>("drop_first_rows: x is ", to_string(x.shape()), ", ", std::max<index_t>(sequences, 0), " sequences of ",
                             offsets.empty() ? 0 : offsets.back(), " rows together should have ", count, " more rows each");
  auto y = t.template empty<2>({offsets.back(), c});
  detail::each_longer_sequence(offsets, count, [&](index_t rows, index_t to, index_t from) {
    std::copy_n(x.value.data + (from + count) * c, rows * c, y.value.data + to * c);
  });
  t.record({"drop_first_rows"}, y, x.needs_grad(), [=, xi = x.id, shape = x.shape()](tensor_view<const T, 2> dy, tape<T>& g) {
    const auto to = g.grad(xi, shape);
    detail::each_longer_sequence(offsets, count, [&](index_t rows, index_t from, index_t at) {
      if (to.beta == T(0)) std::fill_n(to.view.data + at * c, count * c, T(0));
      detail::blend_rows<T>(g.ctx(), rows, c, dy.data + from * c, to.view.data + (at + count) * c, to.beta);
    });
  });
  return y;
}

}  // namespace graft
