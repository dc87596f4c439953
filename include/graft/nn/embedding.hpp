// SPDX-License-Identifier: Apache-2.0
// A table of vectors, looked up by number. Read next: nn/batch.hpp.
#pragma once
#include <span>

#include "graft/nn/module.hpp"
#include "graft/ops/embedding.hpp"
#include "graft/ops/loss.hpp"

namespace graft {

/// Rows looked up by id; where input and output embeddings are tied, also the output layer. Paths: "weight".
template <class T>
struct embedding_module {
  using value_type = T;
  parameter<T, 2> weight;  // (entries, size)

  embedding_module() = default;
  embedding_module(index_t entries, index_t size) : weight({entries, size}) {}
  static void visit(auto& self, auto& v) { v("weight", self.weight); }

  /// ids must outlive the tape.
  var<T, 2> operator()(tape<T>& t, std::span<const std::int32_t> ids) {
    return weight.trainable() ? embedding(t, t.leaf(weight), ids) : embedding(t, weight.matrix(), ids);
  }
};

/// x W^T for a weight that may be trainable or frozen in any type.
template <class T>
var<T, 2> linear(tape<T>& t, const var<T, 2>& x, parameter<T, 2>& w) {
  return w.trainable() ? linear(t, x, t.leaf(w)) : linear(t, x, w.matrix());
}
/// The fused loss on x W^T, likewise.
template <class T>
var<T, 0> linear_cross_entropy(tape<T>& t, const var<T, 2>& x, parameter<T, 2>& w, std::span<const std::int32_t> labels) {
  return w.trainable() ? linear_cross_entropy(t, x, t.leaf(w), labels) : linear_cross_entropy(t, x, w.matrix(), labels);
}

}  // namespace graft
