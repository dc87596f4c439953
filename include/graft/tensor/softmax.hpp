// SPDX-License-Identifier: Apache-2.0
// Softmax and its logarithm over any axis. Read next: tensor/matmul.hpp.
#pragma once
#include "graft/kernel/softmax.hpp"
#include "graft/tensor/detail/reduction.hpp"
#include "graft/tensor/map.hpp"
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

/// x - logsumexp(x) along an axis, for float and double: the logarithm of softmax where softmax itself would round to 0.
/// Computed in double and rounded once. Cost: an exponential and two passes, without vectors.
template <tensor_like X>
auto log_softmax(const X& x, index_t axis = -1) {
  using T = element_of<X>;
  using state = detail::exponentials_state<T>;
  detail::require_floating<T>();
  const auto v = detail::const_view(x);
  const std::size_t a = detail::checked_axis("log_softmax", axis, rank_of<X>);
  auto total = detail::reduced<state>(v, a, [](const state& s) { return s.result(); });
  return map([](T value, double logarithm) { return static_cast<T>(static_cast<double>(value) - logarithm); }, v,
             insert_axis(std::move(total), static_cast<index_t>(a)));
}

}  // namespace graft
