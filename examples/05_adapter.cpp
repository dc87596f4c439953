// SPDX-License-Identifier: Apache-2.0
// The tour, 5: an adapter. LoRA on a frozen transformer, trained, merged, and shown to be the same function.
// Read next: 06_own_adapter.cpp.
// Ends with: merged and applied logits agree to [0-9.]+e-0[5-9] of the largest
#include <cstdint>
#include <cstdio>
#include <vector>

#include "graft/graft.hpp"

int main() {
  // [excerpt model]
  graft::thread_pool pool;        // or wrap an executor of your own in ten lines
  graft::context ctx(pool);
  graft::llama<float> model(graft::llama_config::stories_260k());  // 5 layers, width 64; graft/io.hpp loads published ones
  graft::initialize(model, 1, 0.08);
  // [/excerpt model]

  // [excerpt attach]
  const auto layers = graft::attach(model, graft::targets({"q_proj", "v_proj"}), graft::lora_options{.rank = 8, .alpha = 16});
  std::printf("%td adapted layers, %td of %td parameters train\n", layers, graft::count_parameters(model, graft::is_trainable),
              graft::count_parameters(model));
  // [/excerpt attach]

  // [excerpt train]
  graft::token_batch batch;  // sequences of any lengths, without padding
  batch.add_with_next_labels(std::vector<std::int32_t>{1, 17, 200, 33, 8, 99, 41, 7, 260, 12});
  batch.add_with_next_labels(std::vector<std::int32_t>{1, 5, 300, 301, 302, 60});

  graft::adamw<float> optimizer(graft::trainable(model), {.lr = 2e-2});
  for (int step = 0; step <= 40; ++step) {
    graft::tape<float> tape(ctx);
    const auto loss = model.loss(tape, batch);  // mean over the labels, in nats
    tape.backward(loss);
    optimizer.step(ctx);
    if (step % 10 == 0) std::printf("step %2d: loss %.3f\n", step, static_cast<double>(loss.item()));
  }
  // [/excerpt train]

  // [excerpt merge]
  const auto logits = [&](graft::llama<float>& m) {
    graft::tape<float> t(ctx, graft::recording::off);
    return m.logits(t, batch).value.clone();
  };
  auto merged = graft::replicate(model);  // shares what is frozen, clones what is trainable
  const auto changed = graft::merge_adapters(merged);
  const auto applied = logits(model), folded = logits(merged);
  // [/excerpt merge]

  auto base = graft::replicate(model);
  graft::detach(base);
  const double learned = graft::max_abs_difference(applied, logits(base)), scale = static_cast<double>(graft::max(graft::abs(applied)));
  std::printf("%td layers merged; the adapter moves logits by up to %.2f\n", changed, learned);
  std::printf("merged and applied logits agree to %.1e of the largest\n", graft::max_abs_difference(applied, folded) / scale);
}
