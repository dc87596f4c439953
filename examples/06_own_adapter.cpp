// SPDX-License-Identifier: Apache-2.0
// The tour, 6: an adapter of one's own. One struct; no list to extend, no base class, nothing of the library edited.
// Read next: 07_federation.cpp.
// Ends with: merged and applied logits of my_scale agree to [0-9.]+e-0[5-9] of the largest
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "graft/graft.hpp"

// [excerpt adapter]
/// y = gain * f(x), column by column: one number for every output of a layer. Starts as the identity.
struct my_scale {
  graft::parameter<float, 1> gain;

  explicit my_scale(graft::index_t outputs) : gain(graft::tensor<float, 1>::full({outputs}, 1)) { gain.tag = "adapter"; }
  static void visit(auto& self, auto& v) { v("gain", self.gain); }

  // f is the layer as it is without this adapter. Differentiable operations are all it takes: the gradient follows.
  graft::var<float, 2> apply(graft::tape<float>& t, const graft::var<float, 2>& x, graft::linear_map<float> f) {
    return graft::scale(t, f(x), t.leaf(gain));
  }
  // The same on a dense weight (out, in) and its bias, where it has one.
  void merge_into(graft::affine<float> w) const {
    for (graft::index_t o = 0; o < gain.size(); ++o) {
      w.weight.row(o) *= gain.view()(o);
      if (w.bias.data != nullptr) w.bias(o) *= gain.view()(o);
    }
  }
  std::string describe() const { return "my_scale"; }
};
static_assert(graft::adapter<my_scale, float>);
// [/excerpt adapter]

int main() {
  graft::context ctx;
  graft::llama<float> model(graft::llama_config::stories_260k());
  graft::initialize(model, 1, 0.08);
  // [excerpt attach]
  graft::attach(model, graft::all_linear(), [](const graft::adapter_site& s) { return my_scale(s.out); });
  // [/excerpt attach]
  std::printf("%td gains train, first of them %s\n", graft::count_parameters(model, graft::is_trainable), graft::trainable(model)[0].path.c_str());

  graft::token_batch batch;
  batch.add_with_next_labels(std::vector<std::int32_t>{1, 17, 200, 33, 8, 99, 41, 7, 260, 12});
  graft::adamw<float> optimizer(graft::trainable(model), {.lr = 5e-2, .weight_decay = 0});
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    graft::tape<float> tape(ctx);
    const auto loss = model.loss(tape, batch);
    tape.backward(loss);
    optimizer.step(ctx);
    last = static_cast<double>(loss.item());
    if (step == 0) first = last;
  }
  std::printf("loss %.3f -> %.3f\n", first, last);

  const auto logits = [&](graft::llama<float>& m) {
    graft::tape<float> t(ctx, graft::recording::off);
    return m.logits(t, batch).value.clone();
  };
  const auto applied = logits(model);
  graft::merge_adapters(model);
  const double scale = static_cast<double>(graft::max(graft::abs(applied)));
  std::printf("merged and applied logits of my_scale agree to %.1e of the largest\n", graft::max_abs_difference(applied, logits(model)) / scale);
}
