// SPDX-License-Identifier: Apache-2.0
// Differentiable reductions to a number, softmax over rows, and changes of shape. Read next: ops/loss.hpp.
#pragma once
#include <algorithm>

#include "graft/autograd/tape.hpp"
#include "graft/kernel/elementwise.hpp"
#include "graft/kernel/softmax.hpp"

namespace graft {

/// The sum of all elements. Saves nothing.
template <class T, std::size_t R>
var<T, 0> sum(tape<T>& t, const var<T, R>& x) {
  auto y = t.template empty<0>({});
  double total = 0;
  for (index_t i = 0; i < x.value.size(); ++i) total += static_cast<double>(x.value.data[i]);
  *y.value.data = static_cast<T>(total);
  t.record({"sum", static_cast<std::uint64_t>(x.value.size())}, y, x.needs_grad(), [xi = x.id, shape = x.shape()](tensor_view<const T, 0> dy, tape<T>& g) {
    const auto to = g.grad(xi, shape);
    for (index_t i = 0; i < to.view.size(); ++i) to.view.data[i] = *dy.data + (to.beta == T(0) ? T(0) : to.view.data[i]);
  });
  return y;
}

/// The mean of all elements, with a scale of its own: what user-written losses end in. Saves nothing.
template <class T, std::size_t R>
var<T, 0> mean(tape<T>& t, const var<T, R>& x) {
  auto y = sum(t, x);
  const T share = T(1) / static_cast<T>(std::max<index_t>(1, x.value.size()));
  auto z = t.template empty<0>({});
  *z.value.data = *y.value.data * share;
  t.record({"mean"}, z, y.needs_grad(), [share, yi = y.id](tensor_view<const T, 0> dz, tape<T>& g) {
    const auto to = g.grad(yi, extents<0>{});
    *to.view.data = *dz.data * share + (to.beta == T(0) ? T(0) : *to.view.data);
  });
  return z;
}

/// The mean of (x - target)^2 over all elements. Shapes: equal. Saves the difference.
template <class T, std::size_t R>
var<T, 0> mean_squared_error(tape<T>& t, const var<T, R>& x, std::type_identity_t<tensor_view<const T, R>> target) {
  if (x.shape() != target.shape) throw_error<shape_error>("mean_squared_error: x is ", to_string(x.shape()), ", the target is ", to_string(target.shape));
  auto difference = t.template empty<R>(x.shape());
  auto y = t.template empty<0>({});
  const index_t n = x.value.size();
  kernel::map<T>(t.ctx(), n, difference.value.data, T(0), [](auto a, auto b) { return a - b; }, x.value.data, target.data);
  double total = 0;
  for (index_t i = 0; i < n; ++i) total += static_cast<double>(difference.value.data[i]) * static_cast<double>(difference.value.data[i]);
  const T share = T(2) / static_cast<T>(std::max<index_t>(1, n));
  *y.value.data = static_cast<T>(total) * share / T(2);
  const auto ds = t.save_if(x.needs_grad(), difference);
  t.record({"mean_squared_error", 3 * static_cast<std::uint64_t>(n)}, y, x.needs_grad(), [=, xi = x.id](tensor_view<const T, 0> dy, tape<T>& g) {
    const auto to = g.grad(xi, ds.shape);
    const T by = share * *dy.data;
    kernel::map<T>(g.ctx(), n, to.view.data, to.beta, kernel::times_constant<T>{by}, ds.data);
  });
  return y;
}

/// Softmax over the columns of every row. Shapes: (N, C) -> (N, C). Saves the result.
template <class T>
var<T, 2> softmax(tape<T>& t, const var<T, 2>& x) {
  const index_t n = x.shape()[0], c = x.shape()[1];
  auto y = t.template empty<2>(x.shape());
  std::copy_n(x.value.data, x.value.size(), y.value.data);
  kernel::softmax_rows<T>(t.ctx(), n, c, y.value.data, c);
  const auto ys = t.save_if(x.needs_grad(), y);
  t.record({"softmax", 4 * static_cast<std::uint64_t>(n * c)}, y, x.needs_grad(), [=, xi = x.id](tensor_view<const T, 2> dy, tape<T>& g) {
    const auto to = g.grad(xi, dy.shape);
    kernel::softmax_backward<T>(g.ctx(), n, c, ys.data, dy.data, to.view.data, to.beta);
  });
  return y;
}

/// The same elements under another shape; memory and gradient are shared. Throws shape_error unless the sizes agree.
template <std::size_t To, class T, std::size_t From>
var<T, To> reshape(tape<T>& t, const var<T, From>& x, extents<To> shape) {
  var<T, To> y{x.value.reshape(shape), x.storage, no_node};
  t.record({"reshape"}, y, x.needs_grad(), [xi = x.id, from = x.shape()](tensor_view<const T, To> dy, tape<T>& g) {
    g.pass_grad(xi, tensor_view<const T, From>(dy.data, from));
  });
  return y;
}

}  // namespace graft
