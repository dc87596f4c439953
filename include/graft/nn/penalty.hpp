// SPDX-License-Identifier: Apache-2.0
// What a model's adapters ask of the loss. Read next: peft/gated.hpp, methods/finegates.hpp.
#pragma once
#include <optional>
#include <utility>

#include "graft/nn/linear.hpp"
#include "graft/ops/elementwise.hpp"

namespace graft {

/// The mean of the penalties of a model's adapters, for trainers to add to the loss with a weight of theirs. Nothing when no
/// adapter has one.
template <module M>
std::optional<var<typename M::value_type, 0>> adapter_penalty(tape<typename M::value_type>& t, M& model) {
  using T = typename M::value_type;
  std::optional<var<T, 0>> sum;
  index_t count = 0;
  visit_layers(model, [&](std::string_view, adapted_linear<T>& layer) {
    for (auto& a : layer.adapters)
      if (auto p = a.adapter.penalty(t)) {
        sum = sum ? add(t, *sum, *p) : std::move(*p);
        ++count;
      }
  });
  if (sum) sum = scale(t, *sum, 1.0 / static_cast<double>(count));
  return sum;
}

}  // namespace graft
