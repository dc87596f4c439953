// SPDX-License-Identifier: Apache-2.0
// The tour, 4: modules. A model is a struct that lists its members once; naming, first values, training, saving follow.
// Read next: 05_adapter.cpp.
// Ends with: the network tells the two spirals apart: 100 % of 200 points
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "graft/graft.hpp"

// [excerpt module]
struct mlp {
  using value_type = float;
  graft::adapted_linear<float> first{2, 32, true}, second{32, 32, true}, last{32, 2, true};  // inputs, outputs, with a bias

  static void visit(auto& self, auto& v) {  // one line a member: its name, and the member
    v("first", self.first);
    v("second", self.second);
    v("last", self.last);
  }
  graft::var<float, 2> operator()(graft::tape<float>& t, const graft::var<float, 2>& x) {
    return last(t, graft::tanh(t, second(t, graft::tanh(t, first(t, x)))));
  }
};
// [/excerpt module]

int main() {
  constexpr graft::index_t n = 200;  // points on two spirals, one inside the other
  graft::tensor<float, 2> points({n, 2});
  std::vector<std::int32_t> labels;
  for (graft::index_t i = 0; i < n; ++i) {
    const float along = 0.5f + 3.5f * static_cast<float>(i / 2) / (n / 2), turn = along + (i % 2 == 0 ? 0.0f : 3.14159265f);
    points(i, 0) = along * std::cos(turn) / 4;
    points(i, 1) = along * std::sin(turn) / 4;
    labels.push_back(static_cast<std::int32_t>(i % 2));
  }

  // [excerpt tree]
  mlp model;
  graft::initialize(model, 1, 0.4);  // first values from seed and path; everything becomes trainable
  for (const auto& p : graft::parameters(model)) std::printf("%-14s %s\n", p.path.c_str(), graft::to_string(p.shape()).c_str());
  std::printf("%td parameters\n", graft::count_parameters(model));
  // [/excerpt tree]

  // [excerpt train]
  graft::context ctx;
  graft::adamw<float> optimizer(graft::trainable(model), {.lr = 1e-2, .weight_decay = 0});
  for (int step = 0; step < 400; ++step) {
    graft::tape<float> t(ctx);
    const auto loss = graft::cross_entropy(t, model(t, t.constant(graft::tensor_view<const float, 2>(points))), labels);
    t.backward(loss);
    optimizer.step(ctx, graft::cosine_schedule(step, 400));
    if (step % 100 == 0) std::printf("step %3d: loss %.4f\n", step, static_cast<double>(loss.item()));
  }
  // [/excerpt train]

  // [excerpt evaluate]
  graft::tape<float> t(ctx, graft::recording::off);  // computes, keeps nothing
  const auto logits = model(t, t.constant(graft::tensor_view<const float, 2>(points)));
  const auto guess = graft::argmax(logits.value, 1);
  // [/excerpt evaluate]
  int right = 0;
  for (graft::index_t i = 0; i < n; ++i) right += guess(i) == labels[static_cast<std::size_t>(i)];
  std::printf("the network tells the two spirals apart: %d %% of %td points\n", right * 100 / static_cast<int>(n), n);
}
