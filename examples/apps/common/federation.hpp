// SPDX-License-Identifier: Apache-2.0
// A simulated federation of language-model adapters, beside what each client and a data centre would reach alone.
// Read next: ../federate.cpp, ../quickstart.cpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "graft/core/worker_list.hpp"
#include "graft/fed/client.hpp"
#include "graft/fed/fedavg.hpp"
#include "graft/fed/simulation.hpp"
#include "graft/io/peft_folder.hpp"
#include "graft/io/update_codec.hpp"
#include "graft/models/llama.hpp"
#include "training.hpp"

namespace app {

struct client_text {
  std::string label;
  ids train, heldout;
};

struct federation_options {
  index_t rounds = 10, per_round = 16, local_steps = 50, batch = 4, sequence = 256;
  double lr = 5e-3;
  graft::lora_options lora{.rank = 8, .alpha = 16};
  std::string targets = "all-linear";
  graft::fed::weighting weights = graft::fed::weighting::samples;
  std::uint64_t seed = 0;
  index_t round_tokens = 4096;  // of each client's held-out text, scored after every round; the final scores use all of it
};

struct round_row {
  std::uint64_t round = 0;
  double mean = 0, worst = 0;
  std::uint64_t bytes_up = 0, bytes_down = 0, rejected = 0;
};
inline results rounds_as_json(const std::vector<round_row>& rounds) {
  auto all = results::array();
  for (const auto& r : rounds)
    all.push_back({{"round", r.round}, {"mean", r.mean}, {"worst", r.worst}, {"bytes_up", r.bytes_up}, {"bytes_down", r.bytes_down}, {"rejected", r.rejected}});
  return all;
}
inline std::vector<round_row> rounds_from_json(const results& all) {
  std::vector<round_row> rounds;
  for (const auto& r : all) rounds.push_back({r.at("round"), r.at("mean"), r.at("worst"), r.at("bytes_up"), r.at("bytes_down"), r.at("rejected")});
  return rounds;
}

struct client_row {
  std::string label;
  double base = 0, local_only = 0, federated = 0, centralised = 0;
};
struct federation_report {
  std::vector<round_row> rounds;
  std::vector<client_row> clients;
  std::uint64_t bytes_up = 0, bytes_down = 0;

  double mean(double client_row::*column) const {
    double sum = 0;
    for (const auto& c : clients) sum += c.*column;
    return sum / static_cast<double>(clients.size());
  }
  results json() const {
    results r{{"rounds", rounds_as_json(rounds)}, {"base", mean(&client_row::base)}, {"local_only", mean(&client_row::local_only)},
              {"federated", mean(&client_row::federated)}, {"centralised", mean(&client_row::centralised)}, {"clients", results::array()},
              {"bytes_up", bytes_up}, {"bytes_down", bytes_down}};
    for (const auto& c : clients)
      r["clients"].push_back({{"client", c.label}, {"base", c.base}, {"local_only", c.local_only}, {"federated", c.federated}, {"centralised", c.centralised}});
    return r;
  }
};

/// One federation over a frozen base. Every way of training sees the same windows: client c draws them from (seed, c, step).
class federation {
 public:
  using model_type = graft::llama<float>;

  /// `base` carries adapters already; it is replicated, never trained itself.
  federation(graft::thread_pool& pool, const model_type& base, std::vector<client_text> clients, const federation_options& o)
      : pool_(pool), base_(base), clients_(std::move(clients)), options_(o) {}

  /// Federated rounds from where the server stands. after(row, server) runs between rounds.
  template <class After>
  void run_rounds(graft::fed::server<graft::fed::fedavg>& server, After after) {
    graft::fed::simulation_options o{.rounds = static_cast<std::uint64_t>(options_.rounds), .clients = std::ssize(clients_),
                                     .clients_per_round = options_.per_round, .seed = options_.seed};
    graft::fed::simulate(
        pool_, server, graft::safetensors_codec(), o, [&] { return std::make_unique<worker>(graft::replicate(base_)); },
        [&](std::unique_ptr<worker>& w, graft::fed::client_id client, const graft::fed::broadcast& b) {
          return graft::fed::answer(w->model, b, client, [&](model_type& m) {
            const double loss = learn(w->ctx, m, {client}, static_cast<index_t>(b.round) * options_.local_steps, options_.local_steps);
            return graft::fed::local_result{static_cast<std::uint64_t>(options_.local_steps * options_.batch), {{"loss", loss}}};
          });
        },
        [&](const graft::fed::simulated_round& r) {
          auto model = graft::replicate(base_);
          graft::load_state(model, graft::view(server.state()), {}, graft::is_trainable);
          round_row row{r.result.round + 1, 0, 0, r.bytes_up, r.bytes_down, r.result.refused_in_all()};
          for (const double nll : score_all(model, options_.round_tokens)) {
            row.mean += nll / static_cast<double>(clients_.size());
            row.worst = std::max(row.worst, nll);
          }
          after(row, server);
        });
  }

  /// Held-out losses of one model for every client, clients in parallel.
  std::vector<double> score_all(const model_type& model, index_t limit = 0) {
    std::vector<double> scores(clients_.size());
    each_client([&](std::size_t c, graft::context& ctx) {
      auto own = graft::replicate(model);
      scores[c] = evaluate(ctx, own, clients_[c].heldout, options_.sequence, limit).nll;
    });
    return scores;
  }

  /// What every client reaches alone, with as many steps as it has in the federation.
  std::vector<double> local_only() {
    std::vector<double> scores(clients_.size());
    each_client([&](std::size_t c, graft::context& ctx) {
      auto own = graft::replicate(base_);
      learn(ctx, own, {c}, 0, options_.rounds * options_.local_steps);
      scores[c] = evaluate(ctx, own, clients_[c].heldout, options_.sequence).nll;
    });
    return scores;
  }

  /// What one learner with everybody's windows reaches: the same steps, a batch of all clients' windows each.
  std::vector<double> centralised(progress* p = nullptr) {
    graft::context ctx(pool_);
    auto model = graft::replicate(base_);
    std::vector<std::size_t> everyone(clients_.size());
    for (std::size_t c = 0; c < everyone.size(); ++c) everyone[c] = c;
    learn(ctx, model, everyone, 0, options_.rounds * options_.local_steps, p);
    return score_all(model);
  }

  const std::vector<client_text>& clients() const noexcept { return clients_; }

 private:
  struct worker {
    explicit worker(model_type m) : model(std::move(m)) {}
    model_type model;
    graft::context ctx;
  };

  template <class F>
  void each_client(F f) {
    graft::executor_ref(pool_).parallel_for(std::ssize(clients_), 1, [&](index_t c, index_t) {
      const auto ctx = contexts_.take([] { return graft::context(); });
      f(static_cast<std::size_t>(c), *ctx);
    });
  }

  /// Steps [first, first + count) of the whole run, on windows of these clients together, a client's windows at a time.
  /// Returns the mean loss.
  double learn(graft::context& ctx, model_type& model, const std::vector<std::size_t>& who, index_t first, index_t count, progress* p = nullptr) {
    const auto parameters = graft::trainable(model);
    graft::adamw<float> optimizer(parameters, {.lr = options_.lr, .weight_decay = 0});
    const index_t total = options_.rounds * options_.local_steps;
    graft::data_parallel<model_type> workers(ctx, model, {.micro_batch = options_.batch});
    graft::token_batch batch;
    double sum = 0;
    for (index_t step = first; step < first + count; ++step) {
      batch.clear();
      for (const std::size_t c : who)
        add_windows(clients_[c].train, options_.sequence, options_.batch, graft::mix(options_.seed, c), static_cast<std::uint64_t>(step), batch);
      sum += workers.loss_and_gradients(batch, {.training = true, .step = static_cast<std::uint64_t>(step)});
      graft::clip_gradients(parameters, 1.0);
      optimizer.step(ctx, graft::cosine_schedule(step, total));
      if (p != nullptr) p->at(static_cast<double>(step - first + 1));
    }
    return sum / static_cast<double>(count);
  }

  graft::thread_pool& pool_;
  const model_type& base_;
  std::vector<client_text> clients_;
  federation_options options_;
  graft::worker_list<graft::context> contexts_;  // one a thread that trains or scores on its own
};

inline void print_round(const round_row& r) {
  if (r.round == 1) std::printf("round   mean   worst     up KiB   down KiB  refused\n");
  std::printf("%5llu  %.4f  %.4f  %8.1f  %8.1f  %7llu\n", static_cast<unsigned long long>(r.round), r.mean, r.worst,
              static_cast<double>(r.bytes_up) / 1024, static_cast<double>(r.bytes_down) / 1024, static_cast<unsigned long long>(r.rejected));
  std::fflush(stdout);
}

inline void print_clients(const federation_report& r) {
  std::printf("\n%-24s    base  local-only  federated  centralised\n", "client");
  const auto line = [](const std::string& label, double base, double local, double fed, double central) {
    std::printf("%-24s  %.4f      %.4f     %.4f       %.4f\n", label.c_str(), base, local, fed, central);
  };
  for (const auto& c : r.clients) line(c.label, c.base, c.local_only, c.federated, c.centralised);
  line("mean", r.mean(&client_row::base), r.mean(&client_row::local_only), r.mean(&client_row::federated), r.mean(&client_row::centralised));
}

/// Runs everything: base scores, the federation, and the two comparisons; prints tables as it goes and writes the federated
/// adapter to `out`. With a checkpoint path, every round is saved there and a run that was cut off goes on from it.
inline federation_report run_federation(graft::thread_pool& pool, graft::llama<float>& model, std::vector<client_text> clients,
                                        const federation_options& o, const std::filesystem::path& out, const std::filesystem::path& checkpoint,
                                        const graft::save_peft_options& save) {
  graft::attach(model, parse_targets(o.targets), o.lora, {.seed = o.seed});
  const auto start = graft::fed::shared_part(model);
  federation f(pool, model, std::move(clients), o);
  graft::fed::server server(graft::fed::fedavg({.weights = o.weights}), start);
  federation_report report;
  if (!checkpoint.empty() && std::filesystem::exists(checkpoint)) {
    const auto saved = graft::load_safetensors(checkpoint);
    const std::string* rows = graft::find(saved.metadata, "rows");
    if (rows == nullptr) graft::throw_error<graft::format_error>("\"", checkpoint.string(), "\" is no checkpoint of a federation: it has no rows");
    server.restore(saved);
    report.rounds = rounds_from_json(results::parse(*rows));
    std::printf("going on after round %llu\n", static_cast<unsigned long long>(server.round()));
  }
  f.run_rounds(server, [&](const round_row& row, const auto& s) {
    print_round(row);
    report.rounds.push_back(row);
    if (checkpoint.empty()) return;
    auto state = s.checkpoint();
    state.metadata.emplace_back("rows", rounds_as_json(report.rounds).dump());
    graft::save_safetensors(checkpoint, state);
  });

  const auto base = f.score_all(model), local = f.local_only();
  progress p("centralised", static_cast<double>(o.rounds * o.local_steps), "steps");
  const auto central = f.centralised(&p);
  graft::load_state(model, graft::view(server.state()), {}, graft::is_trainable);
  graft::save_peft(model, out, save);
  const auto federated = f.score_all(model);
  for (std::size_t c = 0; c < f.clients().size(); ++c)
    report.clients.push_back({f.clients()[c].label, base[c], local[c], federated[c], central[c]});
  for (const auto& r : report.rounds) {
    report.bytes_up += r.bytes_up;
    report.bytes_down += r.bytes_down;
  }
  return report;
}

}  // namespace app
