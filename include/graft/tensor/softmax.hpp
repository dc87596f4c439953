// SPDX-License-Identifier: Apache-2.0
// Softmax and its logarithm over any axis. Read next: tensor/matmul.hpp.
#pragma once
#include "graft/kernel/softmax.hpp"
#include "graft/tensor/arithmetic.hpp"
#include "graft/tensor/reduce.hpp"
#include "graft/tensor/shape.hpp"

namespace graft {

/// exp(x) / sum of exp(x) along an axis, for float and double. A line of which every element is -infinity becomes NaN.
/// Cost: one copy and two passes; any axis but the last costs two transposed copies more. Throws shape_error for the axis.
template <tensor_like X>
auto softmax(context& ctx, const X& x, index_t axis = -1) {
  using T = element_of<X>;
  constexpr std::size_t rank = rank_of<X>;
  detail::require_floating<T>();
  const std::size_t a = detail::checked_axis("softmax", axis, rank);
  auto y = detail::const_view(x).permute(detail::axis_last<rank>(a)).clone();
  const index_t columns = y.shape()[rank - 1];
  if (y.size() != 0) kernel::softmax_rows<T>(ctx, y.size() / columns, columns, y.data(), columns);
  return a + 1 == rank ? std::move(y) : y.permute(detail::axis_back<rank>(a)).clone();
}
template <tensor_like X>
auto softmax(const X& x, index_t axis = -1) {
  context ctx;
  return softmax(ctx, x, axis);
}

/// x - logsumexp(x) along an axis, for float and double: the logarithm of softmax, without its rounding of small shares.
template <tensor_like X>
auto log_softmax(const X& x, index_t axis = -1) {
  detail::require_floating<element_of<X>>();
  const std::size_t a = detail::checked_axis("log_softmax", axis, rank_of<X>);
  return x - insert_axis(logsumexp(x, static_cast<index_t>(a)), static_cast<index_t>(a));
}

}  // namespace graft
