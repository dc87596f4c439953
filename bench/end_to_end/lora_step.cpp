// SPDX-License-Identifier: Apache-2.0
// One training step of LoRA on a SmolLM-135M: forward, backward, AdamW; one sequence, one thread, float, random weights.
// Usage: bench_lora_step [--steps N] [--tokens N]. compare.sh runs it next to the same step in libtorch.
#include <cstdio>

#include "graft/core/random.hpp"
#include "graft/io/load_model.hpp"
#include "graft/precompiled.hpp"
#include "support/allocations.hpp"
#include "support/machine.hpp"
#include "support/steps.hpp"

namespace {

using graft::index_t;

/// Flops of a token's forward and backward pass, counted from the shapes; a multiply and an add are two.
///   base: two for every weight forward, two for the gradient of the layer's input; the frozen weights have none.
///   LoRA: two for every element of A and B forward, four backward, as both factors and the input have gradients.
///   attention: with D the head size, 4 D for every visible pair and head forward, 10 D backward (the scores are computed
///   again); token n of a sequence sees n, so (tokens + 1) / 2 on average.
/// For SmolLM-135M at 256 tokens: 269 + 269 + 14.7 + 8.9 + 22.2 = 584 million.
double flops_per_token(const graft::llama_config& c, index_t rank, long tokens) {
  const double width = static_cast<double>(c.hidden_size), inner = static_cast<double>(c.intermediate_size), r = static_cast<double>(rank);
  const double q = static_cast<double>(c.num_attention_heads * c.head_dim), kv = static_cast<double>(c.num_key_value_heads * c.head_dim);
  const double layers = static_cast<double>(c.num_hidden_layers);
  const double base = layers * (2 * width * q + 2 * width * kv + 3 * width * inner) + width * static_cast<double>(c.vocab_size);
  const double adapters = layers * r * (2 * (width + q) + 2 * (width + kv) + 3 * (width + inner));
  const double pairs = layers * q * (static_cast<double>(tokens) + 1) / 2;
  return 4 * base + 6 * adapters + 14 * pairs;
}

}  // namespace

int main(int argc, char** argv) {
  const bench::step_options o = bench::parse_step_options(argc, argv);
  constexpr graft::lora_options lora{.rank = 8, .alpha = 16};
  auto model = graft::load_or_make_llama<float>("random:smollm-135m");
  graft::attach(model, graft::all_linear(), lora);
  const auto trained = graft::trainable(model);
  graft::adamw<float> optimizer(trained, {.lr = 1e-4});

  auto random = graft::random_stream(1).substream("tokens");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(o.tokens));
  for (auto& id : ids) id = static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(model.config.vocab_size)));
  graft::token_batch batch;
  batch.add_with_next_labels(ids);

  graft::context ctx;
  graft::meter cost;
  double loss = 0, first_loss = 0;
  const auto step = [&] {
    {
      graft::tape<float> tape(ctx, graft::recording::on, {.training = true});
      const auto l = model.loss(tape, batch);
      loss = static_cast<double>(*l.value.data);
      tape.backward(l);
    }
    optimizer.step(ctx);
  };
  ctx.cost = &cost;
  step();
  ctx.cost = nullptr;
  first_loss = loss;
  const bench::step_times times = bench::time_steps(o, step);
  const std::size_t before = graft::test::allocations();
  step();
  const std::size_t allocations = graft::test::allocations() - before;

  const double rss = bench::peak_rss_bytes();  // before the machine is measured, which takes memory too
  const double flops = flops_per_token(model.config, lora.rank, o.tokens), peak = bench::fma_peak();
  std::printf("%s\n", bench::describe_machine().c_str());
  bench::print_rates(o, times);
  bench::print_value("peak_rss_mib", rss / 1048576);
  bench::print_value("trainable_parameters", static_cast<double>(graft::count_parameters(model, graft::is_trainable)));
  bench::print_value("loss_first", first_loss);
  bench::print_value("loss_last", loss);
  bench::print_value("mflop_per_token", flops * 1e-6);
  bench::print_value("mflop_per_token_forward", static_cast<double>(cost.total().flops) * 1e-6 / static_cast<double>(o.tokens));
  bench::print_value("share_of_peak", flops * static_cast<double>(o.tokens) / bench::median(times.computed) / peak);
  bench::print_value("saved_mib", static_cast<double>(cost.total().peak_saved_bytes) / 1048576);
  bench::print_value("allocations_a_step", static_cast<double>(allocations));
}
