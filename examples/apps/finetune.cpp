// SPDX-License-Identifier: Apache-2.0
// LoRA on a causal language model, from a text file to a PEFT folder.
#include "common/corpus.hpp"
#include "common/storage.hpp"
#include "common/training.hpp"
#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/text.hpp"

int main(int argc, char** argv) {
  CLI::App cli("Trains a LoRA adapter on a text and writes it as a PEFT folder.", "finetune");
  std::string model_path, text, out, targets = "q_proj,v_proj", dtype = "stored";
  app::training_options training;
  double holdout = 0.1;
  bool checkpointing = false, bf16_products = false, int16_saved = false;
  double budget_mib = 0;
  graft::lora_options lora{.rank = 8, .alpha = 16};
  app::common_options common;
  cli.add_option("MODEL", model_path, "Checkpoint folder, or random:<shape>")->required();
  cli.add_option("--text", text, "Text file; for a random model its bytes are the tokens");
  cli.add_option("--out", out, "PEFT folder to write")->required();
  cli.add_option("--rank", lora.rank, "Of the adapters");
  cli.add_option("--alpha", lora.alpha, "The update is scaled by alpha / rank");
  cli.add_option("--dropout", lora.dropout, "On the input of the update");
  cli.add_flag("--rslora", lora.rank_stabilised, "Scale by alpha / sqrt(rank)");
  cli.add_option("--targets", targets, "Names of layers with commas between, all-linear, or a regular expression for whole paths");
  cli.add_option("--steps", training.steps, "Optimiser steps")->check(CLI::Range(1, 1 << 30));
  cli.add_option("--batch", training.batch, "Windows a step")->check(CLI::Range(1, 1 << 16));
  cli.add_option("--micro-batch", training.micro_batch, "Windows of a step that a thread takes at a time; within a memory budget, that all threads take at a time. 0: those of 512 tokens")
      ->check(CLI::Range(0, 1 << 16));
  cli.add_option("--seq", training.sequence, "Tokens a window")->check(CLI::Range(2, 1 << 20));
  cli.add_option("--lr", training.lr, "Learning rate; falls along a cosine after a short rise");
  cli.add_option("--seed", training.seed, "Of first values, windows and dropout");
  cli.add_option("--holdout", holdout, "Share of the text at its end that is scored, not learned")->check(CLI::Range(0.0, 0.9));
  app::add_dtype_option(cli, dtype);
  cli.add_flag("--bf16-products", bf16_products, "Round the factors of large products to bf16, sum in float: faster where the processor can, and as before where not");
  cli.add_flag("--int16-saved", int16_saved, "Keep what the backward pass needs in 16 bits a value instead of 32");
  auto* every_layer = cli.add_flag("--checkpointing", checkpointing, "Keep less for the backward pass, compute every layer twice");
  auto* within = cli.add_option("--memory-budget", budget_mib, "MiB for weights, training state and activations: computes as few layers twice as that needs")
                     ->excludes(every_layer)->check(CLI::PositiveNumber);
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    lora.validate();
    graft::thread_pool pool(common.threads);
    graft::context ctx(pool);
    ctx.seed = training.seed;
    if (bf16_products) ctx.products = graft::product_precision::bf16;
    if (int16_saved) ctx.saved = graft::saved_precision::int16;
    auto model = graft::load_or_make_llama<float>(model_path, training.seed);
    app::store_weights(model, dtype);
    if (checkpointing) model.checkpointed_layers = graft::all_layers;
    const bool random = model_path.starts_with("random:");
    const auto tokens = random ? app::random_tokens(text, model.config.vocab_size, training) : graft::load_tokenizer(model_path).encode(app::read_text(text)).ids;
    const auto held = static_cast<std::size_t>(holdout * static_cast<double>(tokens.size()));
    const app::ids_view train = app::ids_view(tokens).first(tokens.size() - held), heldout = app::ids_view(tokens).last(held);
    if (train.size() < 2) graft::throw_error<graft::format_error>("\"", text, "\" leaves ", train.size(), " tokens to learn from, expected 2 or more");

    const auto adapted = graft::attach(model, app::parse_targets(targets), lora, {.seed = training.seed});
    const auto before = app::evaluate(ctx, model, heldout, training.sequence);
    std::optional<graft::memory_plan> plan;
    if (*within) {
      training.replicas = 1;
      plan = app::plan_training(ctx, model, train, training, budget_mib);
    }
    ctx.pool().reset_peak();  // scoring has had its own
    const auto run = app::train(ctx, model, train, training);
    const auto used = graft::memory_in_use(ctx, model);
    const auto after = app::evaluate(ctx, model, heldout, training.sequence);
    graft::save_peft(model, out, {.base_model_name = model_path, .task_type = "CAUSAL_LM"});

    const auto trainable = graft::count_parameters(model, graft::is_trainable);
    std::printf("%td layers, %td trainable parameters, %.0f tokens/s, peak memory %.0f MiB\n", adapted, trainable, run.tokens_per_second,
                static_cast<double>(app::peak_rss_bytes()) / 1048576);
    if (plan) app::print_memory(*plan, used);
    if (bf16_products)
      std::puts(graft::kernel::multiplies_in_bf16<float>() ? "large products in bf16" : "this processor gains nothing by products in bf16: they were taken in float");
    std::printf("loss %.4f -> %.4f, held-out %.4f -> %.4f nats a token; adapter in %s\n", run.loss_first, run.loss_last, before.nll, after.nll, out.c_str());
    common.write({{"loss_first", run.loss_first}, {"loss_last", run.loss_last}, {"heldout_nll_before", before.nll}, {"heldout_nll_after", after.nll},
                  {"steps", training.steps}, {"tokens_per_second", run.tokens_per_second}, {"peak_rss_bytes", app::peak_rss_bytes()},
                  {"trainable_parameters", trainable}, {"threads", pool.concurrency()}, {"checkpointed_layers", std::min(model.checkpointed_layers, model.config.num_hidden_layers)},
                  {"memory_predicted_bytes", plan ? plan->predicted.total() : 0}, {"memory_used_bytes", used.total()}});
  });
}
