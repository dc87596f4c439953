// SPDX-License-Identifier: Apache-2.0
// Stochastic gates on the inputs and outputs of linear layers, FineGates: whole rows and columns close while training.
// Read next: ops/gate.hpp, methods/finegates.hpp for the training term and the pruning.
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

#include "graft/ops/gate.hpp"
#include "graft/peft/attach.hpp"

namespace graft {

struct gated_options {
  double sparsity = 0.4;         // in [0, 1): the share of rows and of columns to close, see target_reachable()
  double noise = 0.1;            // >= 0: deviation of the gates' noise while training
  double spread = 0.5;           // > 0: of the open probability in the penalty
  double initial_mean = 1;       // of the logits; at 1 all gates are 1
  double initial_deviation = 0.1;  // > 0
  gate_objective objective = gate_objective::target;
  index_t rank = 0;              // of the low-rank part inside the gates; 0: none

  void validate() const {
    if (!(sparsity >= 0 && sparsity < 1)) throw_error<option_error>("gated: sparsity is ", sparsity, ", expected 0 to below 1");
    if (!(noise >= 0 && std::isfinite(noise))) throw_error<option_error>("gated: noise is ", noise, ", expected 0 or more");
    if (!(spread > 0 && std::isfinite(spread))) throw_error<option_error>("gated: spread is ", spread, ", expected more than 0");
    if (!std::isfinite(initial_mean)) throw_error<option_error>("gated: initial_mean is ", initial_mean, ", expected a finite number");
    if (!(initial_deviation > 0 && std::isfinite(initial_deviation)))
      throw_error<option_error>("gated: initial_deviation is ", initial_deviation, ", expected more than 0");
    if (rank < 0 || rank > (1 << 16)) throw_error<option_error>("gated: rank is ", rank, ", expected 0 to 65536");
  }
  /// Whether the mean open probability can be as low as 1 - sparsity: a logit of minus infinity still counts as open with the
  /// probability Phi(-0.5 / spread), 0.159 at a spread of 0.5. Beyond that the penalty never rests.
  bool target_reachable() const { return objective == gate_objective::sum || 1 - sparsity >= 0.5 * std::erfc(0.70710678118654752 * 0.5 / spread); }
};

/// y = z_r * f(z_c * x), the bias inside, with gates z_r over outputs and z_c over inputs; with a rank, f(x) + B (A x) inside
/// them. Noise on the gates while the batch trains: one draw a layer and pass. Starts as the identity: logits normal, cut at four
/// deviations, at which the default gates are still 1; A uniform in +-1/sqrt(in), B zero.
/// Paths: "gate_rows" (out), "gate_columns" (in), "gate_A" (R, in), "gate_B" (out, R). Cost: a pass over x and one over y. Saves x
/// and f's result. Source: Lindenbaum et al. 2024 (FineGates).
template <class T>
struct gated {
  using value_type = T;
  parameter<T, 1> rows, columns;       // logits
  std::optional<parameter<T, 2>> a, b;
  gated_options options;
  std::uint64_t stream = 0;  // of the noise
  std::string layer;         // for errors

  gated(index_t in, index_t out, gated_options o = {}, random_stream random = random_stream{}, std::string_view path = {})
      : rows(first_logits(out, (o.validate(), o), random.substream("gate_rows"))), columns(first_logits(in, o, random.substream("gate_columns"))),
        options(o), stream(random.substream("noise").bits()), layer(path) {
    rows.tag = columns.tag = "adapter";
    if (o.rank == 0) return;
    tensor<T, 2> down({o.rank, in});
    fill_uniform(down.span(), random.substream("gate_A"), 1 / std::sqrt(static_cast<double>(in)));
    a.emplace(std::move(down));
    b.emplace(tensor<T, 2>::zeros({out, o.rank}));
    a->tag = b->tag = "adapter";
  }
  static void visit(auto& self, auto& v) {
    v("gate_rows", self.rows);
    v("gate_columns", self.columns);
    v("gate_A", self.a);
    v("gate_B", self.b);
  }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    const auto of_columns = gates(t, t.leaf(columns), {options.noise, mix(stream, 1)}, layer);
    const auto of_rows = gates(t, t.leaf(rows), {options.noise, mix(stream, 0)}, layer);
    const auto open = scale(t, x, of_columns);
    return scale(t, a ? f.plus_low_rank(open, open, t.leaf(*a), t.leaf(*b), 1) : f(open), of_rows);
  }
  /// The layer's term of the loss: half the sum of both axes' |mean of pi - (1 - sparsity)|, or the sum of all pi.
  var<T, 0> penalty(tape<T>& t) {
    const gate_penalty_options o{options.spread, 1 - options.sparsity, options.objective};
    const auto both = add(t, gate_penalty(t, t.leaf(rows), o), gate_penalty(t, t.leaf(columns), o));
    return options.objective == gate_objective::target ? scale(t, both, 0.5) : both;
  }
  /// With the gates of evaluation, whatever the batch before was.
  void merge_into(affine<T> w) const {
    const auto r = row_gates(), c = column_gates();
    context serial;
    if (a) kernel::matmul_nn<T>(serial, b->view(), a->matrix(), w.weight, {1, 1});
    for (index_t i = 0; i < w.weight.shape[0]; ++i) {
      for (index_t j = 0; j < w.weight.shape[1]; ++j) w.weight(i, j) *= r(i) * c(j);
      if (w.bias.data != nullptr) w.bias(i) *= r(i);
    }
  }
  std::string describe() const {
    return concat("gated(sparsity ", options.sparsity, ", noise ", options.noise, options.rank == 0 ? "" : concat(", rank ", options.rank), ")");
  }

  /// The gates of evaluation. Throws state_error naming the layer where a logit is NaN.
  tensor<T, 1> row_gates() const { return gate_values<T>(rows.view(), layer); }
  tensor<T, 1> column_gates() const { return gate_values<T>(columns.view(), layer); }

 private:
  static tensor<T, 1> first_logits(index_t n, const gated_options& o, random_stream random) {
    tensor<T, 1> u({n});
    for (T& v : u.span()) v = static_cast<T>(o.initial_mean + o.initial_deviation * std::clamp(random.normal(), -4.0, 4.0));
    return u;
  }
};

/// Gates on the named layers. Biases of these layers can be trained beside them: attach_options::bias.
template <module M>
index_t attach(M& model, const target_modules& where, const gated_options& gates, const attach_options& o = {}) {
  using T = typename M::value_type;
  gates.validate();
  return attach(model, where, [&](const adapter_site& s) { return gated<T>(s.in, s.out, gates, s.random, s.path); }, o);
}

}  // namespace graft
