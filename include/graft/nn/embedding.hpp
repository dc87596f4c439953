// SPDX-License-Identifier: Apache-2.0
// A table of vectors, looked up by number, and its slot for low-rank changes. Read next: nn/batch.hpp, peft/embedding_lora.hpp.
#pragma once
#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "graft/nn/module.hpp"
#include "graft/ops/elementwise.hpp"
#include "graft/ops/embedding.hpp"
#include "graft/ops/linear.hpp"
#include "graft/ops/loss.hpp"

namespace graft {

/// A low-rank change of a table: entry i becomes w_i + scale B a_i, the LoRA of an embedding. Paths: "lora_embedding_A" (entries, R), so
/// that what is looked up lies together, "lora_embedding_B" (size, R).
template <class T>
struct low_rank_rows {
  using value_type = T;
  std::string name;  // a segment of the parameters' paths
  parameter<T, 2> a, b;
  double alpha;
  bool rank_stabilised;

  low_rank_rows(std::string n, tensor<T, 2> of_entries, tensor<T, 2> of_size, double alpha_, bool stabilised)
      : name(std::move(n)), a(std::move(of_entries)), b(std::move(of_size)), alpha(alpha_), rank_stabilised(stabilised) {
    a.tag = b.tag = "adapter";
  }
  index_t rank() const { return b.extent()[1]; }
  double scale() const { return alpha / (rank_stabilised ? std::sqrt(static_cast<double>(rank())) : static_cast<double>(rank())); }
  static void visit(auto& self, auto& v) {
    v("lora_embedding_A", self.a);
    v("lora_embedding_B", self.b);
  }
  /// What it adds to the rows that were looked up. Shapes: ids (N) -> (N, size).
  var<T, 2> change(tape<T>& t, std::span<const std::int32_t> ids) {
    return linear(t, graft::scale(t, embedding(t, t.leaf(a), ids), scale()), t.leaf(b));
  }
  void merge_into(tensor_view<T, 2> table) const {  // W + scale A B^T
    context serial;
    kernel::matmul_nt<T>(serial, a.view(), b.matrix(), table, {scale(), 1});
  }
};

/// Rows looked up by id; where input and output embeddings are tied, also the output layer, which low-rank changes leave as it is.
/// Paths: "weight", "adapters.<name>.<parameter>".
template <class T>
struct embedding_module {
  using value_type = T;
  parameter<T, 2> weight;  // (entries, size)
  std::vector<low_rank_rows<T>> adapters;

  embedding_module() = default;
  embedding_module(index_t entries, index_t size) : weight({entries, size}) {}
  static void visit(auto& self, auto& v) {
    v("weight", self.weight);
    for (auto& a : self.adapters) {
      const std::string path = "adapters." + a.name;
      v(path, a);
    }
  }

  /// ids must outlive the tape.
  var<T, 2> operator()(tape<T>& t, std::span<const std::int32_t> ids) {
    auto y = weight.trainable() ? embedding(t, t.leaf(weight), ids) : embedding(t, weight.matrix(), ids);
    for (auto& a : adapters) y = add(t, y, a.change(t, ids));
    return y;
  }
  /// A dense table with all adapters folded in. The base is never edited.
  tensor<T, 2> merged() const {
    auto table = weight.share().template to_tensor<T, 2>();
    for (const auto& a : adapters) a.merge_into(table.view());
    return table;
  }
};

/// x W^T for a weight that may be trainable or frozen in any type.
template <class T>
var<T, 2> linear(tape<T>& t, const var<T, 2>& x, parameter<T, 2>& w, result r = result::needed) {
  return w.trainable() ? linear(t, x, t.leaf(w), r) : linear(t, x, w.matrix(), r);
}
/// The fused loss on x W^T, likewise.
template <class T>
var<T, 0> linear_cross_entropy(tape<T>& t, const var<T, 2>& x, parameter<T, 2>& w, std::span<const std::int32_t> labels) {
  return w.trainable() ? linear_cross_entropy(t, x, t.leaf(w), labels) : linear_cross_entropy(t, x, w.matrix(), labels);
}

}  // namespace graft
