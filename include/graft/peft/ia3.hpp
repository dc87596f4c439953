// SPDX-License-Identifier: Apache-2.0
// Learned gains on the inputs or outputs of linear layers: IA3. Read next: peft/attach.hpp.
#pragma once
#include <string>
#include <vector>

#include "graft/ops/elementwise.hpp"
#include "graft/peft/attach.hpp"

namespace graft {

struct ia3_options {
  std::vector<std::string> feedforward;  // layers, named as target modules are, whose inputs are scaled; the others' outputs are
};

/// y = f(gain x) where it scales inputs, gain f(x), the bias with it, where it scales outputs. Starts as the identity.
/// Paths: "ia3_l" (in) or (out). Cost: one pass over x or y. Source: Liu et al. 2022.
template <class T>
struct ia3 {
  using value_type = T;
  parameter<T, 1> gain;
  bool on_inputs;

  ia3(index_t in, index_t out, bool scales_inputs) : gain(tensor<T, 1>::full({scales_inputs ? in : out}, T(1))), on_inputs(scales_inputs) {
    gain.tag = "adapter";
  }
  static void visit(auto& self, auto& v) { v("ia3_l", self.gain); }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    return on_inputs ? f(scale(t, x, t.leaf(gain))) : scale(t, f(x), t.leaf(gain));
  }
  void merge_into(affine<T> w) const {
    const auto g = gain.view();
    for (index_t i = 0; i < w.weight.shape[0]; ++i)
      for (index_t j = 0; j < w.weight.shape[1]; ++j) w.weight(i, j) *= on_inputs ? g(j) : g(i);
    if (on_inputs || w.bias.data == nullptr) return;
    for (index_t i = 0; i < w.bias.shape[0]; ++i) w.bias(i) *= g(i);
  }
  std::string describe() const { return on_inputs ? "ia3(inputs)" : "ia3(outputs)"; }
};

/// IA3 on the named layers.
template <module M>
index_t attach(M& model, const target_modules& where, const ia3_options& ia3_o, const attach_options& o = {}) {
  using T = typename M::value_type;
  const auto on_inputs = [&](std::string_view path) {
    return std::ranges::any_of(ia3_o.feedforward, [&](const std::string& name) { return target_modules::names_path(name, path); });
  };
  return attach(model, where, [&](const adapter_site& s) { return ia3<T>(s.in, s.out, on_inputs(s.path)); }, o);
}

}  // namespace graft
