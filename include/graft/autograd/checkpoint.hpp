// SPDX-License-Identifier: Apache-2.0
// Trading time for memory: keep a block's input and compute the block again in the backward pass. Read next: nn/module.hpp.
#pragma once
#include <algorithm>
#include <limits>

#include "graft/autograd/tape.hpp"

namespace graft {

/// For a model's checkpointed_layers: every layer, however many there are.
inline constexpr index_t all_layers = std::numeric_limits<index_t>::max();

/// What a block ends in: anything, or a sum with the result of one map, its adapted_linear::last_of_block(), which no operation reads.
enum class block_end { anything, sum };

/// y = block(tape, x), keeping x alone. In the backward pass the block runs again, now recorded, with the same batch_info,
/// so that random masks repeat. Block: (tape<T>&, const var<T, R>&) -> var<T, Q>, trivially destructible: capture modules
/// by reference. Cost: one more forward pass of the block, without the map that it ends in where that was said; gradients are bitwise
/// those without checkpointing, unless the context rounds what tapes keep: x is rounded too then.
template <class T, std::size_t R, class Block>
auto checkpoint(tape<T>& t, const var<T, R>& x, Block block, block_end end = block_end::anything) {
  if (!t.is_recording()) return block(t, x);
  decltype(block(t, x)) y;
  const var<T, R> input{x.value, x.storage, no_node};
  const bool trains = t.without_recording([&] { y = block(t, input); });
  y.id = no_node;
  const bool needs = x.needs_grad() || trains;
  const auto retained_x = t.retain_if(needs, x);
  using output = decltype(y.value);
  const auto path = t.keep(std::span<const char>(t.path()));  // a meter finds the recomputation where the block stands
  t.record({"checkpoint"}, y, needs, [retained_x, block, path, end, xi = x.id](tensor_view<const T, output::rank> dy, tape<T>& g) mutable {
    const auto xs = g.value(retained_x);
    gradient_slot<T> slot;
    if (xi != no_node) {
      const auto to = g.grad(xi, xs.shape);
      slot = {to.view.data, to.beta != T(0)};
    }
    tape<T> inner(g.ctx(), end == block_end::sum ? recording::again : recording::on, g.batch);
    const auto scope = inner.scope({path.data(), path.size()});
    const auto again = block(inner, inner.leaf(xs, xi != no_node ? &slot : nullptr));
    if (again.needs_grad()) inner.backward(again, dy);
    if (xi != no_node && !slot.written) std::fill_n(slot.data, xs.size(), T(0));
  });
  return y;
}

}  // namespace graft
