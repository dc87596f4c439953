// SPDX-License-Identifier: Apache-2.0
// A simulated federation over the rows of a table: clients come from a column.
#include <map>

#include "common/federation.hpp"
#include "common/table.hpp"
#include "graft/io/load_model.hpp"
#include "graft/text.hpp"

namespace {

struct table_options {
  std::string tsv;
  std::size_t client_column = 1, text_column = 2;  // from 1
  graft::index_t clients = 16;
  double holdout = 0.2;
};

/// The clients with the most text, their last share held out. Throws format_error when there are too few.
std::vector<app::client_text> read_clients(const table_options& o, const graft::tokenizer& words) {
  std::map<std::string, std::string> text;
  for (const auto& row : app::read_table(o.tsv, std::max(o.client_column, o.text_column)))
    text[row[o.client_column - 1]] += app::unescape_lines(row[o.text_column - 1]) + "\n";
  std::vector<std::pair<std::string, std::string>> all(text.begin(), text.end());
  std::ranges::stable_sort(all, [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  if (std::ssize(all) < o.clients)
    graft::throw_error<graft::format_error>("\"", o.tsv, "\" has ", all.size(), " clients in column ", o.client_column, ", expected ", o.clients);
  std::vector<app::client_text> clients;
  for (graft::index_t c = 0; c < o.clients; ++c) {
    auto ids = words.encode(all[static_cast<std::size_t>(c)].second).ids;
    const auto held = static_cast<std::size_t>(o.holdout * static_cast<double>(ids.size()));
    if (held < 2 || ids.size() - held < 2)
      graft::throw_error<graft::format_error>("\"", o.tsv, "\": client \"", all[static_cast<std::size_t>(c)].first, "\" has ", ids.size(), " tokens, too few to hold some out");
    clients.push_back({all[static_cast<std::size_t>(c)].first, {ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(held)}, {ids.end() - static_cast<std::ptrdiff_t>(held), ids.end()}});
  }
  return clients;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli("Simulates a federation that trains a LoRA adapter, beside local and centralised training. Rounds are saved in --out; a run that "
               "was cut off goes on when started again.", "federate");
  std::string model_path, out, rule = "fedavg";
  table_options table;
  app::federation_options o;
  app::common_options common;
  cli.add_option("MODEL", model_path, "Checkpoint folder")->required();
  cli.add_option("--tsv", table.tsv, "Table, cells apart by tabs")->required();
  cli.add_option("--client-column", table.client_column, "Number of the column that names the client, from 1")->required()->check(CLI::Range(1, 1000));
  cli.add_option("--text-column", table.text_column, "Number of the column with the text, from 1")->required()->check(CLI::Range(1, 1000));
  cli.add_option("--clients", table.clients, "The clients with the most text")->check(CLI::Range(1, 1 << 20));
  cli.add_option("--holdout", table.holdout, "Share of each client's text that is scored, not learned")->check(CLI::Range(0.01, 0.9));
  cli.add_option("--per-round", o.per_round, "Clients drawn for a round; 0: all")->check(CLI::NonNegativeNumber);
  cli.add_option("--rounds", o.rounds, "Rounds in all")->check(CLI::Range(1, 1 << 20));
  cli.add_option("--local-steps", o.local_steps, "Optimiser steps of a client in a round")->check(CLI::Range(1, 1 << 20));
  cli.add_option("--batch", o.batch, "Windows a step")->check(CLI::Range(1, 1 << 16));
  cli.add_option("--seq", o.sequence, "Tokens a window")->check(CLI::Range(2, 1 << 20));
  cli.add_option("--lr", o.lr, "Learning rate; falls along a cosine over the rounds");
  cli.add_option("--rank", o.lora.rank, "Of the adapters");
  cli.add_option("--alpha", o.lora.alpha, "The update is scaled by alpha / rank");
  cli.add_option("--targets", o.targets, "Names of layers with commas between, all-linear, or a regular expression for whole paths");
  cli.add_option("--rule", rule, "fedavg (weighted by samples) or fedavg-uniform")->check(CLI::IsMember({"fedavg", "fedavg-uniform"}));
  cli.add_option("--seed", o.seed, "Of first values, windows and the drawing of clients");
  cli.add_option("--out", out, "PEFT folder to write")->required();
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    o.lora.validate();
    if (rule == "fedavg-uniform") o.weights = graft::fed::weighting::uniform;
    graft::thread_pool pool(common.threads);
    auto model = graft::load_llama<float>(model_path);
    const std::filesystem::path folder(out), checkpoint = folder / "round.safetensors";
    std::filesystem::create_directories(folder);
    const auto report = app::run_federation(pool, model, read_clients(table, graft::load_tokenizer(model_path)), o, folder, checkpoint,
                                            {.base_model_name = model_path, .task_type = "CAUSAL_LM"});
    std::filesystem::remove(checkpoint);
    app::print_clients(report);
    common.write(report.json());
  });
}
