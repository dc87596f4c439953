// SPDX-License-Identifier: Apache-2.0
// The tour, 2: the tape. Operations compute at once and note how to go back; gradients gather in the parameters.
// Read next: 03_own_op.cpp.
// Ends with: the gradient agrees with central differences to better than 1e-8
#include <cstdio>

#include "graft/graft.hpp"

int main() {
  graft::context ctx;  // threads, memory, seed: passed to everything that computes
  graft::random_stream random(1);
  const auto x = graft::random_normal<double>(random, {32, 4});       // 32 rows of 4 inputs
  const auto target = graft::random_normal<double>(random, {32, 3});  // what they should give
  // [excerpt parameters]
  graft::parameter<double, 2> weight(graft::random_normal<double>(random, {3, 4}, 0, 0.5));  // trainable
  graft::parameter<double, 1> bias(graft::tensor<double, 1>::zeros({3}));

  // y = tanh(x W^T + b), and its mean squared distance from the target.
  const auto loss = [&](graft::tape<double>& t) {
    const auto y = graft::linear(t, t.constant(x.view()), t.leaf(weight));
    return graft::mean_squared_error(t, graft::tanh(t, graft::add_bias(t, y, t.leaf(bias))), target.view());
  };
  // [/excerpt parameters]

  // [excerpt step]
  const auto descend = [](auto& p) {
    for (std::size_t i = 0; i < p.value().size(); ++i) p.value()[i] -= 0.5 * p.gradient_values()[i];
    p.clear_gradient();
  };
  for (int step = 0; step <= 100; ++step) {
    graft::tape<double> t(ctx);  // one tape a step; its memory comes from the context and goes back
    const auto value = loss(t);
    t.backward(value);
    if (step % 50 == 0) std::printf("step %3d: loss %.4f, %d nodes on the tape\n", step, *value.value.data, t.nodes());
    descend(weight);
    descend(bias);
  }
  // [/excerpt step]

  // [excerpt frozen]
  bias.freeze();  // immutable from here on: no node, no gradient, no memory kept for one
  graft::tape<double> t(ctx);
  const auto value = loss(t);
  std::printf("with a frozen bias: %d nodes\n", t.nodes());
  t.backward(value);
  // [/excerpt frozen]
  bias.unfreeze();

  // [excerpt check]
  const graft::checked_leaf<double> leaves[] = {{weight.value(), weight.gradient()}, {bias.value(), bias.gradient()}};
  const double error = graft::gradient_error<double>(ctx, leaves, loss);  // relative; 0 when only rounding differs
  // [/excerpt check]
  std::printf("the gradient %s central differences to better than 1e-8\n", error < 1e-8 ? "agrees with" : "DIFFERS FROM");
}
