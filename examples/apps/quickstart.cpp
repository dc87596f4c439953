// SPDX-License-Identifier: Apache-2.0
// The main job on text found on this machine: pretrain a small byte model, federate an adapter over 16 clients, and show where
// it stands against no adapter, local and centralised training.
#include <cmath>

#include "common/catalogue.hpp"
#include "common/federation.hpp"
#include "common/report.hpp"
#include "graft/io/load_model.hpp"

namespace {

using graft::index_t;

/// Trains every parameter of a byte-level model for a fixed number of steps, then freezes it.
graft::llama<float> pretrain(graft::thread_pool& pool, const app::ids& text, index_t steps, std::uint64_t seed) {
  graft::context ctx(pool);
  const auto config = graft::llama_config::tiny();
  graft::llama<float> model(config);
  graft::initialize(model, seed, 1 / std::sqrt(static_cast<double>(config.hidden_size)));  // so narrow a model learns sooner from larger weights
  std::printf("pretraining %.2f M parameters on %.1f MB of text of no client, %td steps of 16 x 256 bytes\n",
              static_cast<double>(graft::count_parameters(model)) / 1e6, static_cast<double>(text.size()) / 1e6, steps);
  std::fflush(stdout);
  const auto run = app::train(ctx, model, text, {.steps = steps, .batch = 16, .sequence = 256, .lr = 4e-3, .seed = seed, .micro_batch = 2});
  std::printf("loss %.4f -> %.4f nats a byte, %.0f bytes/s\n\n", run.loss_first, run.loss_last, run.tokens_per_second);
  graft::freeze(model);
  return model;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli("Pretrains, federates and reports, on the package catalogue of this machine.", "quickstart");
  std::string catalogue, text, model_path, out = "build/quickstart";
  app::federation_options o{.local_steps = 5, .batch = 3, .lr = 1e-2, .round_tokens = 2048};
  index_t steps = 400;
  app::common_options common;
  cli.add_option("--catalogue", catalogue, "TSV of examples/catalogue.sh");
  cli.add_option("--text", text, "A text file instead, cut into 16 clients");
  cli.add_option("--model", model_path, "Checkpoint folder over bytes instead of pretraining");
  cli.add_option("--out", out, "Folder for adapter/, report.html and result.json");
  cli.add_option("--pretrain-steps", steps, "Of pretraining")->check(CLI::Range(1, 1 << 20));
  cli.add_option("--rounds", o.rounds, "Federated rounds")->check(CLI::Range(1, 1000));
  cli.add_option("--local-steps", o.local_steps, "Optimiser steps of a client in a round")->check(CLI::Range(1, 1000));
  cli.add_option("--batch", o.batch, "Sequences of 256 bytes in a step of a client")->check(CLI::Range(1, 1024));
  cli.add_option("--lr", o.lr, "Learning rate of the adapters");
  cli.add_option("--seed", o.seed, "Of everything random");
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    const app::stopwatch clock;
    graft::thread_pool pool(common.threads);
    auto data = app::read_clients(catalogue, text, 16);
    std::printf("%s\n", data.description.c_str());
    auto model = model_path.empty() ? pretrain(pool, data.common, steps, o.seed) : graft::load_llama<float>(model_path);
    if (model.config.vocab_size != 256)
      graft::throw_error<graft::option_error>("--model \"", model_path, "\" has ", model.config.vocab_size, " tokens; this program feeds it bytes, 256");

    const std::filesystem::path folder(out);
    std::filesystem::create_directories(folder);
    const auto report = app::run_federation(pool, model, std::move(data.clients), o, folder / "adapter", {}, {.base_model_name = model_path, .task_type = "CAUSAL_LM"});
    app::print_clients(report);
    graft::write_file_atomically(folder / "result.json", report.json().dump(2) + "\n");
    graft::write_file_atomically(folder / "report.html", app::html_report(report));
    common.write(report.json());
    index_t better = 0;
    for (const auto& c : report.clients) better += c.federated < c.base;
    std::printf("\nfederated is below base for %td of %zu clients; %.1f MiB up, %.1f MiB down; %.0f s in all\n", better, report.clients.size(),
                static_cast<double>(report.bytes_up) / 1048576, static_cast<double>(report.bytes_down) / 1048576, clock.seconds());
    std::printf("adapter:  %s\nreport:   %s\nresults:  %s\n", (folder / "adapter").c_str(), (folder / "report.html").c_str(), (folder / "result.json").c_str());
    std::printf("next:     more local steps help local training most, more rounds the federation: try --local-steps 20 or --rounds 30,\n"
                "          then federate a model of your own with the federate program\n");
  });
}
