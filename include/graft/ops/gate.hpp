// SPDX-License-Identifier: Apache-2.0
// Differentiable stochastic gates from logits, and the penalty that closes them. Read next: peft/gated.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <string_view>

#include "graft/ops/linear.hpp"

namespace graft {

/// A gate without noise: tanh(logit) + 0.5, cut to [0, 1]. Closed, 0, from tanh(logit) = -0.5 downwards. NaN stays NaN.
template <class T>
T gate_value(T logit) { return std::clamp(std::tanh(logit) + T(0.5), T(0), T(1)); }

/// The probability that a gate is open, as the penalty sees it: Phi((tanh(logit) + 0.5) / spread).
inline double open_probability(double logit, double spread) { return 0.5 * std::erfc(-0.70710678118654752 * (std::tanh(logit) + 0.5) / spread); }

/// Normal noise on gates while a batch trains.
struct gate_noise {
  double deviation = 0;      // >= 0
  std::uint64_t stream = 0;  // of its random numbers: another one for every layer and axis
};

namespace detail {
template <class T>
void require_gates(std::string_view layer, tensor_view<const T, 1> gates) {
  for (index_t i = 0; i < gates.size(); ++i)
    if (std::isnan(gates(i))) throw_error<state_error>("gates: logit ", i, " of ", layer.empty() ? "a layer" : layer, " is not a number");
}
}  // namespace detail

/// The gates without noise, as numbers. Throws state_error naming the layer where a logit is NaN.
template <class T>
tensor<T, 1> gate_values(tensor_view<const T, 1> logits, std::string_view layer = {}) {
  tensor<T, 1> z(logits.shape);
  for (index_t i = 0; i < z.size(); ++i) z(i) = gate_value(logits(i));
  detail::require_gates<T>(layer, z.view());
  return z;
}

/// z = tanh(logits) + noise + 0.5, cut to [0, 1]; the noise, while the batch trains, is a function of (seed, step, stream, position).
/// Shapes: (n) -> (n). Saves z. A gate at 0 or 1 passes no gradient. Throws state_error naming the layer where a logit is NaN.
/// Source: Yamada et al. 2020, with the location bounded by tanh.
template <class T>
var<T, 1> gates(tape<T>& t, const var<T, 1>& logits, gate_noise noise = {}, std::string_view layer = {}) {
  const index_t n = logits.shape()[0];
  const double deviation = t.batch.training ? noise.deviation : 0;
  const random_stream random(t.ctx().seed, mix(noise.stream, t.batch.random_key()));
  auto z = t.template empty<1>({n});
  const auto from = logits.value;
  const auto to = z.value;
  t.ctx().executor().parallel_for(n, 512, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      T location = std::tanh(from.data[i]);
      if (deviation != 0) location += static_cast<T>(deviation * random.substream(static_cast<std::uint64_t>(i)).normal());
      to.data[i] = std::clamp(location + T(0.5), T(0), T(1));
    }
  });
  detail::require_gates<T>(layer, to);
  const auto zs = t.save_if(logits.needs_grad(), z), us = t.save_if(logits.needs_grad(), logits);
  t.record({"gates", 8 * static_cast<std::uint64_t>(n)}, z, logits.needs_grad(), [=, ui = logits.id](tensor_view<const T, 1> dz, tape<T>& g) {
    const auto du = g.grad(ui, dz.shape);
    const auto slope = []<class V>(V d, V gate, V u) {
      const V open = simd::select(gate > V(0), simd::select(gate < V(1), d, V(0)), V(0));
      return open * kernel::tanh_function::derivative(u);
    };
    kernel::map<T>(g.ctx(), n, du.view.data, du.beta, slope, dz.data, zs.data, us.data);
  });
  return z;
}

/// What a layer's gates are driven to: a mean open probability, or as few open gates as the task allows.
enum class gate_objective { target, sum };

struct gate_penalty_options {
  double spread = 0.5;  // > 0, of the open probability
  double keep = 0.6;    // target: the share of gates that should stay open
  gate_objective objective = gate_objective::target;
};

/// The expected number of open gates as a term of the loss: |mean of pi - keep|, or the sum of pi, where pi is open_probability().
/// Shapes: (n) -> (). Saves nothing. At the target itself the gradient is 0. Source: Yamada et al. 2020.
template <class T>
var<T, 0> gate_penalty(tape<T>& t, const var<T, 1>& logits, gate_penalty_options o = {}) {
  const index_t n = logits.shape()[0];
  const T steep = static_cast<T>(1 / o.spread);
  const auto open = t.template empty<1>({n});
  const auto probability = [steep]<class V>(V u) { return kernel::gelu_erf_function::phi((simd::tanh(u) + V(T(0.5))) * V(steep)); };
  kernel::map<T>(t.ctx(), n, open.value.data, T(0), probability, logits.value.data);
  double total = 0;
  for (index_t i = 0; i < n; ++i) total += static_cast<double>(open.value.data[i]);
  const bool by_mean = o.objective == gate_objective::target;
  const double excess = by_mean ? total / static_cast<double>(n) - o.keep : total;
  const T sign = excess > 0 ? T(1) : excess < 0 ? T(-1) : T(0);
  auto y = t.template empty<0>({});
  *y.value.data = static_cast<T>(std::abs(excess));
  const T share = by_mean ? sign / static_cast<T>(n) : sign;
  const auto us = t.save_if(logits.needs_grad(), logits);
  t.record({"gate_penalty", 20 * static_cast<std::uint64_t>(n)}, y, logits.needs_grad(), [=, ui = logits.id](tensor_view<const T, 0> dy, tape<T>& g) {
    const auto du = g.grad(ui, us.shape);
    const T by = *dy.data * share * steep * T(0.39894228040143268);
    const auto slope = [by, steep]<class V>(V u) {
      const V location = simd::tanh(u), a = (location + V(T(0.5))) * V(steep);
      return V(by) * (V(T(1)) - location * location) * simd::exp(V(T(-0.5)) * a * a);
    };
    kernel::map<T>(g.ctx(), n, du.view.data, du.beta, slope, us.data);
  });
  return y;
}

}  // namespace graft
