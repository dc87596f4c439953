// SPDX-License-Identifier: Apache-2.0
// An operation of one's own from two lambdas. Read next: ops/linear.hpp for operations that choose what they keep.
#pragma once
#include <tuple>
#include <utility>

#include "graft/autograd/tape.hpp"

namespace graft {

/// y = forward(inputs), with forward(y, x...) filling y and backward(dy, y, dx..., x...) adding to the gradients.
/// forward: (tensor_view<T, R> y, tensor_view<const T, Ri> x...). backward: (tensor_view<const T, R> dy,
/// tensor_view<const T, R> y, accumulator<T, Ri> dx..., tensor_view<const T, Ri> x...); the accumulator of an input that
/// needs no gradient has a null view. Keeps all inputs and y when anything needs a gradient. Both lambdas must be trivially
/// destructible.
template <class T, std::size_t R, class Forward, class Backward, std::size_t... Ri>
var<T, R> custom_op(tape<T>& t, std::string_view name, extents<R> shape, Forward forward, Backward backward,
                    const var<T, Ri>&... x) {
  auto y = t.template empty<R>(shape);
  forward(y.value, tensor_view<const T, Ri>(x.value)...);
  const bool needs = (x.needs_grad() || ...);
  if (needs) {
    (t.save(x), ...);
    t.save(y);
  }
  t.record({name}, y, needs,
           [backward, yv = tensor_view<const T, R>(y.value), inputs = std::tuple(tensor_view<const T, Ri>(x.value)...),
            ids = std::array<node_id, sizeof...(x)>{x.id...}](tensor_view<const T, R> dy, tape<T>& g) mutable {
             [&]<std::size_t... I>(std::index_sequence<I...>) {
               const auto target = [&]<std::size_t Q>(tensor_view<const T, Q> v, node_id id) -> accumulator<T, Q> {
                 return id == no_node ? accumulator<T, Q>{{}, T(0)} : g.grad(id, v.shape);
               };
               // Braces fix the order: an input given twice gets beta 0 first and beta 1 then.
               const std::tuple targets{target(std::get<I>(inputs), ids[I])...};
               backward(dy, yv, std::get<I>(targets)..., std::get<I>(inputs)...);
             }(std::index_sequence_for<var<T, Ri>...>{});
           });
  return y;
}

}  // namespace graft
