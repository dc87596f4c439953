// SPDX-License-Identifier: Apache-2.0
// The tour, 11: what a step costs. Flops and bytes kept for the backward pass, by module; 16 bits a value; checkpointing; a budget; bf16 weights.
// Read next: 12_host_threads.cpp.
// Ends with: checkpointing keeps [0-9]+ % of the bytes; the loss is the same to the bit
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "graft/graft.hpp"

namespace {

struct cost {
  double loss;
  graft::meter::row all, attention, mlp;
  std::string table;
};

// [excerpt meter]
cost measure(graft::context& ctx, graft::llama<float>& model, const graft::token_batch& batch) {
  graft::meter meter;
  ctx.cost = &meter;  // every tape of this context reports to it
  double loss = 0;
  {
    graft::tape<float> t(ctx);
    const auto l = model.loss(t, batch);
    t.backward(l);
    loss = static_cast<double>(l.item());
  }
  ctx.cost = nullptr;
  return {loss, meter.total(), meter.total("model.layers.0.self_attn"), meter.total("model.layers.0.mlp"),
          graft::cost_table(meter)};
}
// [/excerpt meter]

void print(const char* what, const graft::meter::row& r) {
  std::printf("%-28s %7.1f MFLOP, %4llu nodes, at most %8.1f KiB kept\n", what, static_cast<double>(r.flops) * 1e-6,
              static_cast<unsigned long long>(r.nodes), static_cast<double>(r.peak_saved_bytes) / 1024);
}

double in_mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / 1048576; }

}  // namespace

int main() {
  graft::context ctx;
  graft::llama<float> model(graft::llama_config::stories_260k());
  graft::initialize(model, 1, 0.08);
  graft::token_batch batch;
  std::vector<std::int32_t> text;
  for (std::int32_t i = 0; i < 128; ++i) text.push_back(i * 37 % 512);
  batch.add_with_next_labels(text);

  print("all parameters train", measure(ctx, model, batch).all);

  // [excerpt lora]
  graft::attach(model, graft::targets({"q_proj", "v_proj"}), graft::lora_options{.rank = 8, .alpha = 16});
  const auto plain = measure(ctx, model, batch);  // a frozen weight keeps nothing of its input
  print("LoRA on q_proj and v_proj", plain.all);
  print("  attention of layer 0", plain.attention);
  print("  feed-forward of layer 0", plain.mlp);
  // [/excerpt lora]
  std::printf("%s", plain.table.c_str());  // time and memory by operation

  // [excerpt saved]
  ctx.saved = graft::saved_precision::int16;  // what the backward pass needs is kept in 17 bits a value instead of 32
  const auto halved = measure(ctx, model, batch);
  ctx.saved = graft::saved_precision::full;
  print("LoRA, 16 bits a value", halved.all);
  std::printf("with 16 bits a value the loss is %s\n", halved.loss == plain.loss ? "the same to the bit" : "DIFFERENT");
  // [/excerpt saved]

  // [excerpt checkpointing]
  model.checkpointed_layers = graft::all_layers;  // keep the input of each layer, compute the layer again in the backward pass
  const auto checkpointed = measure(ctx, model, batch);
  print("LoRA, checkpointed", checkpointed.all);
  model.checkpointed_layers = 0;  // any number between is allowed: the first so many layers
  // [/excerpt checkpointing]

  // [excerpt budget]
  const auto plan = graft::plan_memory(ctx, model, batch, 5 << 19);  // measures; sets model.checkpointed_layers; throws when nothing fits
  std::printf("in 2.5 MiB %td of %td layers are computed twice: weights %.2f, training state %.2f, activations %.2f MiB\n", plan.computed_twice,
              plan.layers, in_mebibytes(plan.predicted.weights), in_mebibytes(plan.predicted.training), in_mebibytes(plan.predicted.activations));
  // [/excerpt budget]
  model.checkpointed_layers = 0;

  // [excerpt bf16]
  graft::store_weights_as(model, graft::dtype::bf16);  // frozen matrices only: two bytes a weight, widened when read
  const auto rounded = measure(ctx, model, batch);
  // [/excerpt bf16]
  // [excerpt blocks]
  graft::store_weights_as(model, graft::dtype::q8_0);  // 32 weights in 34 bytes, decoded where they are multiplied
  const auto quantised = measure(ctx, model, batch);
  // [/excerpt blocks]
  std::printf("with bf16 weights the loss is %.4f, with q8_0 %.4f instead of %.4f\n", rounded.loss, quantised.loss, plain.loss);
  std::printf("the pool holds %.1f KiB, in use at most %.1f KiB\n", static_cast<double>(ctx.pool().free_bytes()) / 1024,
              static_cast<double>(ctx.pool().peak_bytes()) / 1024);

  const double share = 100.0 * static_cast<double>(checkpointed.all.peak_saved_bytes) / static_cast<double>(plain.all.peak_saved_bytes);
  std::printf("checkpointing keeps %.0f %% of the bytes; the loss is %s\n", share,
              checkpointed.loss == plain.loss ? "the same to the bit" : "DIFFERENT");
}
