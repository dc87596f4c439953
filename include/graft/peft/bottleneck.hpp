// SPDX-License-Identifier: Apache-2.0
// Bottleneck adapters: a narrow network after a layer, or beside it. Read next: peft/attach.hpp.
#pragma once
#include <cmath>
#include <string>
#include <utility>

#include "graft/ops/elementwise.hpp"
#include "graft/peft/attach.hpp"

namespace graft {

struct bottleneck_options {
  enum class place { serial, parallel };             // h + net(h) of h = f(x), or f(x) + net(x)
  enum class activation { relu, gelu, silu, tanh };

  index_t size = 64;  // of the narrow layer, >= 1
  place where = place::serial;
  activation act = activation::relu;
  double scale = 1;  // of what is added

  void validate() const {
    if (size < 1 || size > (1 << 16)) throw_error<option_error>("bottleneck: size is ", size, ", expected 1 to 65536");
    if (!std::isfinite(scale)) throw_error<option_error>("bottleneck: scale is ", scale, ", expected a finite number");
  }
};

/// y = h + scale (up act(down h + c) + e), of h = f(x) in series, or of x beside f. Starts as the identity: up is zero. It is not linear,
/// so it cannot be merged. Paths: "down.weight" (S, in or out), "down.bias", "up.weight" (out, S), "up.bias".
/// Sources: Houlsby et al. 2019 (serial), He et al. 2021 (parallel).
template <class T>
struct bottleneck {
  using value_type = T;
  struct dense {
    using value_type = T;
    parameter<T, 2> weight;
    parameter<T, 1> bias;
    static void visit(auto& self, auto& v) {
      v("weight", self.weight);
      v("bias", self.bias);
    }
    var<T, 2> operator()(tape<T>& t, const var<T, 2>& x) { return add_bias(t, linear(t, x, t.leaf(weight)), t.leaf(bias)); }
  };
  dense down, up;
  bottleneck_options options;

  bottleneck(index_t in, index_t out, bottleneck_options o = {}, random_stream random = random_stream{}) : options((o.validate(), o)) {
    const index_t from = o.where == bottleneck_options::place::serial ? out : in;
    tensor<T, 2> narrow({o.size, from});
    fill_uniform(narrow.span(), random.substream("down"), 1 / std::sqrt(static_cast<double>(from)));
    down.weight = parameter<T, 2>(std::move(narrow));
    down.bias = parameter<T, 1>(tensor<T, 1>::zeros({o.size}));
    up.weight = parameter<T, 2>(tensor<T, 2>::zeros({out, o.size}));
    up.bias = parameter<T, 1>(tensor<T, 1>::zeros({out}));
    down.weight.tag = down.bias.tag = up.weight.tag = up.bias.tag = "adapter";
  }
  static void visit(auto& self, auto& v) {
    v("down", self.down);
    v("up", self.up);
  }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    const auto h = f(x);
    auto added = up(t, activate(t, down(t, options.where == bottleneck_options::place::serial ? h : x)));
    if (options.scale != 1) added = scale(t, added, options.scale);
    return add(t, h, added);
  }
  void merge_into(affine<T>) const { throw_error<state_error>(describe(), " is not linear: it cannot be merged into a weight"); }
  std::string describe() const {
    return concat(options.where == bottleneck_options::place::serial ? "serial" : "parallel", " bottleneck(size ", options.size, ")");
  }

 private:
  var<T, 2> activate(tape<T>& t, const var<T, 2>& x) const {
    switch (options.act) {
      case bottleneck_options::activation::relu: return relu(t, x);
      case bottleneck_options::activation::gelu: return gelu(t, x);
      case bottleneck_options::activation::silu: return silu(t, x);
      case bottleneck_options::activation::tanh: return tanh(t, x);
    }
    return x;
  }
};

/// Bottleneck adapters on the named layers.
template <module M>
index_t attach(M& model, const target_modules& where, const bottleneck_options& bottleneck_o, const attach_options& o = {}) {
  using T = typename M::value_type;
  bottleneck_o.validate();
  return attach(model, where, [&](const adapter_site& s) { return bottleneck<T>(s.in, s.out, bottleneck_o, s.random); }, o);
}

}  // namespace graft
