// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent with momentum. Read next: optim/adamw.hpp.
#pragma once
#include <utility>
#include <vector>

#include "graft/autograd/meter.hpp"
#include "graft/core/context.hpp"
#include "graft/kernel/elementwise.hpp"
#include "graft/nn/parameter.hpp"

namespace graft {

struct sgd_options {
  double lr = 1e-2;       // > 0
  double momentum = 0;    // in [0, 1)
  double weight_decay = 0;  // >= 0, added to the gradient
};

/// v = momentum v + g + weight_decay w;  w = w - lr v, as torch.optim.SGD computes it. Memory: one value a parameter with
/// momentum, none without.
template <class T>
class sgd {
 public:
  explicit sgd(std::vector<parameter_ref<T>> parameters, sgd_options o = {}) : options_(o) {
    if (!(o.lr > 0)) throw_error<option_error>("sgd: lr is ", o.lr, ", expected more than 0");
    if (!(o.momentum >= 0 && o.momentum < 1)) throw_error<option_error>("sgd: momentum is ", o.momentum, ", expected 0 to below 1");
    if (!(o.weight_decay >= 0)) throw_error<option_error>("sgd: weight_decay is ", o.weight_decay, ", expected 0 or more");
    for (auto& p : parameters) {
      if (!p.trainable()) throw_error<state_error>("sgd: ", p.path, " is frozen");
      const index_t n = o.momentum == 0 ? 0 : p.parameter->size();
      entries_.push_back({std::move(p), tensor<T, 1>::zeros({n})});
    }
  }

  /// Updates every parameter that has a gradient, and clears the gradients. lr is multiplied by lr_scale.
  void step(context& ctx, double lr_scale = 1.0) {
    const metered_work work(ctx.cost, "sgd");
    const T rate = static_cast<T>(options_.lr * lr_scale), momentum = static_cast<T>(options_.momentum), decay = static_cast<T>(options_.weight_decay);
    for (auto& e : entries_) {
      const auto g = e.parameter.parameter->gradient_values();
      if (g.empty()) continue;
      T* const w = e.parameter.parameter->value().data();
      const index_t n = e.parameter.parameter->size();
      const T* direction = g.data();
      if (options_.weight_decay != 0)
        kernel::map<T>(ctx, n, g.data(), T(0), [decay](auto a, auto b) { return simd::fma(decltype(a)(decay), b, a); }, g.data(), w);
      if (options_.momentum != 0) {
        kernel::map<T>(ctx, n, e.velocity.data(), momentum, kernel::times_constant<T>{T(1)}, g.data());
        direction = e.velocity.data();
      }
      kernel::map<T>(ctx, n, w, T(1), kernel::times_constant<T>{-rate}, direction);
      e.parameter.parameter->clear_gradient();
    }
  }
  void step(double lr_scale = 1.0) {
    context serial;
    step(serial, lr_scale);
  }

 private:
  struct entry {
    parameter_ref<T> parameter;
    tensor<T, 1> velocity;
  };
  sgd_options options_;
  std::vector<entry> entries_;
};

}  // namespace graft
