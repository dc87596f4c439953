// SPDX-License-Identifier: Apache-2.0
// A program of somebody else: LoRA on a linear layer, trained for a step and merged.
#include <cstdio>

#include "graft/graft.hpp"

int main() {
  graft::thread_pool pool(2);
  graft::context ctx(pool);
  graft::adapted_linear<float> layer(6, 4, true);
  graft::initialize(layer, 1, 0.5);
  graft::freeze(layer);
  layer.adapters.push_back({"default", graft::lora<float>(6, 4, {.rank = 2})});

  graft::random_stream random(2);
  const auto x = graft::random_normal<float>(random, {3, 6});
  graft::adamw<float> optimizer(graft::trainable(layer), {.lr = 0.1});
  for (int step = 0; step < 2; ++step) {
    graft::tape<float> t(ctx);
    t.backward(graft::mean(t, layer(t, t.constant(x.view()))));
    optimizer.step(ctx);
  }
  graft::tape<float> t(ctx, graft::recording::off);
  const auto applied = layer(t, t.constant(x.view())).value.clone();
  const auto merged = layer.merged();
  const auto folded = graft::matmul(x, merged.weight.transpose()) + *merged.bias;
  std::printf("graft " GRAFT_VERSION ": merged %s applied\n", graft::all_close(applied, folded, {.absolute = 1e-5}) ? "equals" : "differs from");
}
