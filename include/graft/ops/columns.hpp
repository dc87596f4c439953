// SPDX-License-Identifier: Apache-2.0
// Differentiable choice of columns. Read next: models/gpt2.hpp, which cuts queries, keys and values from one product.
#pragma once
#include <algorithm>

#include "graft/autograd/tape.hpp"

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

}  // namespace graft
