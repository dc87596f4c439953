// SPDX-License-Identifier: Apache-2.0
// Normalisation modules. Read next: models/llama.hpp, models/bert.hpp.
#pragma once
#include "graft/nn/module.hpp"
#include "graft/ops/norm.hpp"

namespace graft {

/// Root-mean-square normalisation with a gain. Paths: "weight".
template <class T>
struct rms_norm_module {
  using value_type = T;
  parameter<T, 1> weight;
  double eps = 1e-5;

  rms_norm_module() = default;
  rms_norm_module(index_t size, double epsilon) : weight({size}), eps(epsilon) {}
  static void visit(auto& self, auto& v) { v("weight", self.weight); }
  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x) { return rms_norm(t, x, t.leaf(weight), eps); }
};

/// Layer normalisation with gain and bias. Paths: "weight", "bias".
template <class T>
struct layer_norm_module {
  using value_type = T;
  parameter<T, 1> weight, bias;
  double eps = 1e-12;

  layer_norm_module() = default;
  layer_norm_module(index_t size, double epsilon) : weight({size}), bias({size}), eps(epsilon) {}
  static void visit(auto& self, auto& v) {
    v("weight", self.weight);
    v("bias", self.bias);
  }
  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x) { return layer_norm(t, x, t.leaf(weight), t.leaf(bias), eps); }
};

}  // namespace graft
