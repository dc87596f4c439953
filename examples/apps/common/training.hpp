// SPDX-License-Identifier: Apache-2.0
// The training loop of a causal language model, and arguments as types. Read next: ../finetune.cpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "corpus.hpp"
#include "graft/models/data_parallel.hpp"
#include "graft/models/memory_plan.hpp"
#include "graft/nn/filter.hpp"
#include "graft/optim/adamw.hpp"
#include "graft/optim/clip.hpp"
#include "graft/optim/schedule.hpp"
#include "graft/peft/target_pattern.hpp"

namespace app {

struct training_options {
  index_t steps = 300, batch = 4, sequence = 256;
  double lr = 1e-3;
  std::uint64_t seed = 0;
  index_t micro_batch = 0;  // sequences a thread takes at a time; 0: as many as fit its caches
  index_t replicas = 8;     // 1: all threads together take one micro-batch after another

  index_t at_once() const {
    const index_t asked = micro_batch > 0 ? micro_batch : graft::data_parallel_options{}.micro_batch_tokens / sequence;
    return std::clamp<index_t>(asked, 1, batch);
  }
};

struct training_run {
  double loss_first = 0, loss_last = 0;  // of the first step, and the mean of the last tenth
  double tokens_per_second = 0;          // median over the steps after the first
};

/// Trains what is trainable on random windows: AdamW, a warm-up of a twentieth of the steps, then half a cosine, gradients
/// clipped to norm 1. Throws state_error when the loss is no longer a number.
template <class M>
training_run train(graft::context& ctx, M& model, ids_view tokens, const training_options& o) {
  using T = typename M::value_type;
  const auto parameters = graft::trainable(model);
  graft::adamw<T> optimizer(parameters, {.lr = o.lr, .weight_decay = 0});
  graft::data_parallel workers(ctx, model, {.micro_batch = o.at_once(), .replicas = o.replicas});
  progress p("training", static_cast<double>(o.steps), "steps");
  std::vector<double> rates, losses;
  graft::token_batch batch;
  for (index_t step = 0; step < o.steps; ++step) {
    batch.clear();
    add_windows(tokens, o.sequence, o.batch, o.seed, static_cast<std::uint64_t>(step), batch);
    const stopwatch clock;
    const graft::batch_info info{.training = true, .step = static_cast<std::uint64_t>(step)};
    losses.push_back(workers.loss_and_gradients(batch, info));
    if (!std::isfinite(losses.back())) graft::throw_error<graft::state_error>("training: the loss is ", losses.back(), " at step ", step, "; try a lower --lr");
    graft::clip_gradients(parameters, 1.0);
    optimizer.step(ctx, graft::cosine_schedule(step, o.steps, o.steps / 20));
    rates.push_back(static_cast<double>(batch.tokens()) / clock.seconds());
    p.at(static_cast<double>(step + 1), "loss " + std::to_string(losses.back()));
  }
  training_run run;
  run.loss_first = losses.front();
  const std::size_t tail = std::max<std::size_t>(1, losses.size() / 10);
  for (std::size_t i = losses.size() - tail; i < losses.size(); ++i) run.loss_last += losses[i] / static_cast<double>(tail);
  if (rates.size() > 1) rates.erase(rates.begin());
  std::ranges::nth_element(rates, rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2));
  run.tokens_per_second = rates[rates.size() / 2];
  return run;
}

/// Chooses how many layers are computed twice, so that training on batches up to this one stays within so many MiB, and says so.
/// Throws state_error when none does.
template <class M>
graft::memory_plan plan_within(graft::context& ctx, M& model, const graft::token_batch& largest, double budget_mib) {
  const auto plan = graft::plan_memory(ctx, model, largest, static_cast<std::size_t>(budget_mib * 1048576));
  std::printf("memory: %td of %td layers computed twice, predicted peak %s of %.1f MiB\n", plan.computed_twice, plan.layers,
              graft::in_mebibytes(plan.predicted.total()).c_str(), budget_mib);
  std::fflush(stdout);
  return plan;
}

/// The same for windows of a text.
template <class M>
graft::memory_plan plan_training(graft::context& ctx, M& model, ids_view tokens, const training_options& o, double budget_mib) {
  graft::token_batch batch;
  add_windows(tokens, o.sequence, o.at_once(), o.seed, 0, batch);
  return plan_within(ctx, model, batch, budget_mib);
}

/// What was predicted beside what training took.
inline void print_memory(const graft::memory_plan& plan, const graft::memory_use& used) {
  const auto line = [](const char* name, const graft::memory_use& m) {
    std::printf("memory %s: %s MiB: %s\n", name, graft::in_mebibytes(m.total()).c_str(), graft::describe(m).c_str());
  };
  line("predicted", plan.predicted);
  line("measured", used);
}

/// "q_proj,v_proj", "all-linear", or a regular expression for whole paths.
inline graft::target_modules parse_targets(const std::string& text) {
  if (text == "all-linear") return graft::all_linear();
  if (text.find_first_of("\\*+?^$|()[]{}") != std::string::npos) return graft::target_pattern(text);
  std::vector<std::string> names;
  for (std::size_t first = 0; first <= text.size();) {
    const std::size_t comma = std::min(text.find(',', first), text.size());
    if (comma > first) names.push_back(text.substr(first, comma - first));
    first = comma + 1;
  }
  return graft::targets(std::move(names));
}

/// Tokens for a model of random weights: a file's bytes where the vocabulary has that many, else random numbers.
inline ids random_tokens(const std::string& text, index_t vocabulary, const training_options& o) {
  ids tokens;
  if (!text.empty()) {
    for (const char c : read_text(text)) tokens.push_back(static_cast<unsigned char>(c) % static_cast<std::int32_t>(vocabulary));
  } else {
    auto random = graft::random_stream(o.seed).substream("tokens");
    for (index_t i = 0; i < 20 * o.sequence * o.batch; ++i) tokens.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(vocabulary))));
  }
  return tokens;
}

}  // namespace app
