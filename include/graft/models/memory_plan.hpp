// SPDX-License-Identifier: Apache-2.0
// Training within a number of bytes: how many layers must be computed twice, found by measuring a step. Read next:
// autograd/checkpoint.hpp, models/llama.hpp.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "graft/autograd/checkpoint.hpp"
#include "graft/autograd/meter.hpp"
#include "graft/nn/batch.hpp"
#include "graft/nn/module.hpp"

namespace graft {

/// What training holds at its peak, in bytes. The process has more: its code, its texts, and buffers the pool keeps for
/// the next step, which are below a quarter of `activations` plus 32 MiB.
struct memory_use {
  std::size_t weights = 0;      // frozen values as they are stored, each shared array once
  std::size_t training = 0;     // of what is trainable: values, gradients and the optimiser's state
  std::size_t activations = 0;  // the pool's peak: what is kept for backward and what is in work
  std::size_t scratch = 0;      // of kernels, for all threads

  std::size_t total() const noexcept { return weights + training + activations + scratch; }
};

struct memory_plan_options {
  index_t optimizer_values = 2;  // an optimiser keeps for each trainable value: AdamW 2, SGD 0, with momentum 1
};

struct memory_plan {
  index_t layers = 0;               // of the model
  index_t checkpointed_layers = 0;  // the first so many
  index_t computed_twice = 0;       // of these, the ones that have anything to compute again
  memory_use predicted;             // of a training step
};

namespace detail {

/// Gives a variable back its value at the end of a scope, also when an exception ends it.
template <class V>
struct set_back {
  V& at;
  V value;
  ~set_back() { at = value; }
};

/// The part of a model whose layers can be checkpointed: itself, or the encoder below a head.
template <class M>
auto& layered_part(M& model) {
  if constexpr (requires { model.checkpointed_layers; }) return model;
  else return model.bert;
}

}  // namespace detail

/// So many bytes in MiB, to one digit.
inline std::string in_mebibytes(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", static_cast<double>(bytes) / 1048576);
  return text;
}

/// The parts of what training holds, in MiB.
inline std::string describe(const memory_use& use) {
  return concat("weights ", in_mebibytes(use.weights), ", training state ", in_mebibytes(use.training), ", activations ",
                in_mebibytes(use.activations), ", scratch ", in_mebibytes(use.scratch));
}

namespace detail {

/// The pool's peaks of a step, and what each layer kept for backward: nothing, below the lowest adapter.
struct measured_step {
  std::size_t forward = 0, peak = 0;  // of the first half, of both
  std::vector<std::size_t> kept;
};

/// One step without an optimiser; the gradients are dropped.
template <module M>
measured_step measure_step(context& ctx, M& model, const token_batch& batch) {
  using T = typename M::value_type;
  constexpr std::size_t node_bytes = 1024;  // at most: the records of an operation and its leaves, what it captured
  const auto& body = layered_part(model);
  meter m;
  const set_back<meter*> listening{ctx.cost, std::exchange(ctx.cost, &m)};
  measured_step step;
  ctx.pool().reset_peak();
  {
    tape<T> t(ctx, recording::on, batch_info{.training = true});
    const auto loss = model.loss(t, batch);
    step.forward = ctx.pool().peak_bytes();
    t.backward(loss);
  }
  step.peak = ctx.pool().peak_bytes();
  visit_parameters(model, [](std::string_view, parameter_base<T>& p) { p.clear_gradient(); });
  for (index_t i = 0; i < body.config.num_hidden_layers; ++i) {
    const auto layer = m.total(concat(body.layers_scope, '.', i));
    step.kept.push_back(layer.peak_saved_bytes + layer.nodes * node_bytes);
  }
  return step;
}

}  // namespace detail

/// What a model's training holds in this context: its values, gradients and optimiser state, the pool's peak since
/// activation_pool::reset_peak(), the kernels' scratch. After some steps this is the truth that a plan predicted.
template <module M>
memory_use memory_in_use(context& ctx, M& model, const memory_plan_options& o = {}) {
  using T = typename M::value_type;
  memory_use use;
  std::vector<const std::byte*> seen;
  visit_parameters(model, [&](std::string_view, parameter_base<T>& p) {
    if (p.trainable()) {
      use.training += static_cast<std::size_t>(p.size() * (2 + o.optimizer_values)) * sizeof(T);
    } else if (std::ranges::find(seen, p.bytes().data()) == seen.end()) {
      seen.push_back(p.bytes().data());
      use.weights += p.bytes().size();
    }
  });
  use.activations = ctx.pool().peak_bytes();
  use.scratch = ctx.scratch().bytes();
  return use;
}

/// Finds the fewest layers to checkpoint with which training on batches like this one stays within `budget` bytes, and sets
/// the model to it. The batch should be the largest to come: as many tokens, in sequences as long. Activations are measured:
/// a training step with every layer checkpointed, then with the last one kept, then with the last two, each left out where it
/// might not fit. From there on a layer that is kept adds what the meter says it kept; layers below the lowest adapter add
/// nothing and are never counted. Cost: three steps without an optimiser, which compute most layers twice, in the least
/// memory that training takes at all. Gradients are cleared, values stay. Throws state_error, with the numbers, when
/// no choice fits; the model is then as it was.
template <module M>
memory_plan plan_memory(context& ctx, M& model, const token_batch& batch, std::size_t budget, const memory_plan_options& o = {}) {
  auto& body = detail::layered_part(model);
  const index_t layers = body.config.num_hidden_layers;
  detail::set_back<index_t> chosen{body.checkpointed_layers, body.checkpointed_layers};
  const auto measure = [&](index_t n) {
    body.checkpointed_layers = n;
    return detail::measure_step(ctx, model, batch);
  };

  auto step = measure(layers);
  const std::vector<std::size_t> kept = step.kept;
  const index_t lowest = std::ranges::find_if(kept, [](std::size_t bytes) { return bytes != 0; }) - kept.begin();
  memory_use use = memory_in_use(ctx, model, o);
  std::optional<memory_plan> best, least;
  for (index_t n = layers;; --n) {
    use.activations = step.peak;
    const memory_plan plan{layers, n <= lowest ? 0 : n, n - lowest, use};
    if (!least || use.total() < least->predicted.total()) least = plan;
    if (use.total() <= budget) best = plan;
    if (n == lowest) break;
    const std::size_t more = kept[static_cast<std::size_t>(n) - 1], before = step.peak;
    step.peak += more;
    if (n + 2 <= layers) continue;
    use.activations = step.forward + more;  // what the loss needs comes on top of all that is kept
    if (step.forward + more > before && use.total() > budget) break;
    step = measure(n - 1);
  }
  ctx.pool().release_free();  // the buffers of other choices
  if (!best)
    throw_error<state_error>("plan_memory: training does not fit ", in_mebibytes(budget), " MiB; the least is ",
                             in_mebibytes(least->predicted.total()), " MiB, with ", least->computed_twice, " of ", layers,
                             " layers computed twice: ", describe(least->predicted),
                             " MiB; fewer tokens a batch, weights in fewer bits or fewer trainable values need less");
  chosen.value = best->checkpointed_layers;
  return *best;
}

}  // namespace graft
