// SPDX-License-Identifier: Apache-2.0
// AdamW over exactly the parameters it is given. Read next: optim/schedule.hpp, optim/clip.hpp.
#pragma once
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "graft/autograd/meter.hpp"
#include "graft/core/context.hpp"
#include "graft/core/function_ref.hpp"
#include "graft/kernel/adamw.hpp"
#include "graft/nn/parameter.hpp"
#include "graft/nn/state_dict.hpp"

namespace graft {

struct adamw_options {
  double lr = 1e-3;            // > 0
  double beta1 = 0.9, beta2 = 0.999;  // in [0, 1)
  double eps = 1e-8;           // > 0
  double weight_decay = 0.01;  // >= 0, decoupled: w shrinks by lr * weight_decay a step

  void validate() const {
    if (!(lr > 0)) throw_error<option_error>("adamw: lr is ", lr, ", expected more than 0");
    if (!(beta1 >= 0 && beta1 < 1) || !(beta2 >= 0 && beta2 < 1)) throw_error<option_error>("adamw: betas are ", beta1, " and ", beta2, ", expected 0 to below 1");
    if (!(eps > 0)) throw_error<option_error>("adamw: eps is ", eps, ", expected more than 0");
    if (!(weight_decay >= 0)) throw_error<option_error>("adamw: weight_decay is ", weight_decay, ", expected 0 or more");
  }
};

/// Decoupled weight decay and bias-corrected moments, as torch.optim.AdamW computes them. Memory: two values a parameter.
/// The parameters must stay where they are while the optimiser lives. Source: Loshchilov and Hutter 2019.
template <class T>
class adamw {
 public:
  using rate_function = function_ref<double(const parameter_ref<T>&)>;

  /// rate_of(parameter) is what lr is multiplied by for it: lora_plus() of peft/lora.hpp is one. Throws option_error, also for a rate
  /// that is not positive, or state_error for a frozen parameter.
  explicit adamw(std::vector<parameter_ref<T>> parameters, adamw_options o = {}, rate_function rate_of = [](const auto&) { return 1.0; })
      : options_(o) {
    o.validate();
    for (auto& p : parameters) {
      if (!p.trainable()) throw_error<state_error>("adamw: ", p.path, " is frozen");
      const double rate = rate_of(p);
      if (!(rate > 0) || !std::isfinite(rate)) throw_error<option_error>("adamw: the rate of ", p.path, " is ", rate, ", expected more than 0");
      const index_t n = p.parameter->size();
      entries_.push_back({std::move(p), tensor<T, 1>::zeros({n}), tensor<T, 1>::zeros({n}), rate});
    }
  }

  /// Updates every parameter that has a gradient, and clears the gradients. lr is multiplied by lr_scale.
  void step(context& ctx, double lr_scale = 1.0) {
    const metered_work work(ctx.cost, "adamw");
    ++steps_;
    const double t = static_cast<double>(steps_), first = 1 - std::pow(options_.beta1, t), second = std::sqrt(1 - std::pow(options_.beta2, t));
    for (auto& e : entries_) {
      const double lr = options_.lr * lr_scale * e.rate;
      const kernel::adamw_step step{lr / first, options_.beta1, options_.beta2, options_.eps, 1 / second, 1 - lr * options_.weight_decay};
      const auto gradient = e.parameter.parameter->gradient_values();
      if (gradient.empty()) continue;
      kernel::adamw<T>(ctx, e.first.size(), e.parameter.parameter->value().data(), gradient.data(), e.first.data(), e.second.data(), step);
      e.parameter.parameter->clear_gradient();
    }
  }
  void step(double lr_scale = 1.0) {
    context serial;
    step(serial, lr_scale);
  }

  std::int64_t steps() const noexcept { return steps_; }

  /// The moments and the step count, named by parameter path, to go on later.
  state_dict state() const {
    state_dict s;
    for (const auto& e : entries_) {
      s.items.emplace_back(e.parameter.path + ".first_moment", to_array<T, 1>(e.first.view()));
      s.items.emplace_back(e.parameter.path + ".second_moment", to_array<T, 1>(e.second.view()));
    }
    s.metadata.emplace_back("adamw_steps", std::to_string(steps_));
    return s;
  }

 private:
  struct entry {
    parameter_ref<T> parameter;
    tensor<T, 1> first, second;  // moments
    double rate;
  };
  adamw_options options_;
  std::vector<entry> entries_;
  std::int64_t steps_ = 0;
};

}  // namespace graft
