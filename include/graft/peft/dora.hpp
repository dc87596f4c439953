// SPDX-License-Identifier: Apache-2.0
// Weight-decomposed low-rank adaptation. Read next: ops/magnitude.hpp, peft/lora.hpp.
#pragma once
#include <string>
#include <vector>

#include "graft/ops/magnitude.hpp"
#include "graft/peft/attach.hpp"
#include "graft/peft/lora.hpp"

namespace graft {

struct dora_options {
  lora_options lora;
  bool through_norms = false;  // whether gradients of A and B flow through the lengths of rows too
};

/// y = g (W x + scale B A dropout(x)) + b, g(i) = magnitude(i) / |row i of W + scale B A|: LoRA learns directions, `magnitude` the lengths.
/// Starts as the identity. A layer's first adapter only, for its lengths are those of the base's own weight.
/// Paths: "lora_A.weight" (R, in), "lora_B.weight" (out, R), "lora_magnitude_vector.weight" (out). Cost a pass beside LoRA's: R rows
/// more of products and two passes over y. Source: Liu et al. 2024.
template <class T>
struct dora {
  using value_type = T;
  struct lengths {
    using value_type = T;
    parameter<T, 1> weight;
    static void visit(auto& self, auto& v) { v("weight", self.weight); }
  };
  graft::lora<T> low_rank;
  lengths magnitude;
  bool through_norms;

  /// `weight` is the base's: lengths start as its rows'.
  dora(const matrix_ref& weight, dora_options o = {}, random_stream random = random_stream{})
      : low_rank(weight.cols, weight.rows, o.lora, random), through_norms(o.through_norms) {
    context serial;
    tensor<T, 1> norms({weight.rows});
    kernel::row_squares<T>(serial, weight, norms.data());
    for (T& n : norms.span()) n = std::sqrt(n);
    magnitude.weight = parameter<T, 1>(std::move(norms));
    magnitude.weight.tag = "adapter";
  }
  static void visit(auto& self, auto& v) {
    v("lora_A", self.low_rank.a);
    v("lora_B", self.low_rank.b);
    v("lora_magnitude_vector", self.magnitude);
  }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    if (!f.is_base()) throw_error<state_error>("dora: is not the first adapter of its layer; attach it before the others");
    const auto a = t.leaf(low_rank.a.weight), b = t.leaf(low_rank.b.weight);
    const double s = low_rank.options.scale();
    const auto gain = magnitude_gain(t, f.weight(), t.leaf(magnitude.weight), a, b, s, through_norms);
    const auto y = scale(t, f.unbiased().plus_low_rank(x, dropout(t, x, low_rank.options.dropout, low_rank.stream), a, b, s), gain);
    return f.has_bias() ? add_bias(t, y, f.bias()) : y;
  }
  void merge_into(affine<T> w) const {
    low_rank.merge_into(w);
    const auto target = magnitude.weight.view();
    for (index_t i = 0; i < w.weight.shape[0]; ++i) {
      double square = 0;
      for (index_t j = 0; j < w.weight.shape[1]; ++j) square += static_cast<double>(w.weight(i, j)) * static_cast<double>(w.weight(i, j));
      const double gain = static_cast<double>(target(i)) / std::sqrt(std::max(square, static_cast<double>(std::numeric_limits<T>::min())));
      for (index_t j = 0; j < w.weight.shape[1]; ++j) w.weight(i, j) = static_cast<T>(gain * static_cast<double>(w.weight(i, j)));
    }
  }
  std::string describe() const { return "dora of " + low_rank.describe(); }
};

/// DoRA on the named layers.
template <module M>
index_t attach(M& model, const target_modules& where, const dora_options& dora_o, const attach_options& o = {}) {
  using T = typename M::value_type;
  dora_o.lora.validate();
  return attach(model, where, [&](const adapter_site& s) { return dora<T>(s.weight, dora_o, s.random); }, o);
}

}  // namespace graft
