// SPDX-License-Identifier: Apache-2.0
// Federated learning with dual adapters, FedDPA: what a client does in a round, and how much an input gets of the local branch.
// Read next: peft/dual.hpp, fed/simulation.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "graft/fed/client.hpp"
#include "graft/nn/batch.hpp"
#include "graft/ops/embedding.hpp"
#include "graft/peft/dual.hpp"

namespace graft {

/// When in its round a client trains its local branch: beside the shared one it received, or beside the one it has just trained.
enum class local_phase { before_global, after_global };

struct feddpa_options {
  local_phase order = local_phase::before_global;
  std::uint64_t seed = 0;  // of the local branches' first values: a function of (seed, client, path)
};

namespace detail {

/// Brings a client's own local branch into the model: as stored, or new where it has none yet.
template <module M>
void load_local(M& model, const state_dict& local, random_stream fresh) {
  if (local.items.empty()) renew_local(model, fresh);
  else load_state(model, view(local), {}, tagged("local"));
}

}  // namespace detail

/// A client's round of FedDPA-F, which is one of federated LoRA: the shared branch alone is trained and its change returned.
/// train(model, dual_phase) -> fed::local_result trains what is trainable, with an optimiser of its own; so in all functions here.
/// The server averages with fed::fedavg: each factor by itself, and the mean of products is another matrix than the product of means.
/// Throws as fed::answer(). Source: Yang et al. 2024.
template <module M, class Train>
fed::update feddpa_f_round(M& model, const fed::broadcast& b, fed::client_id client, Train train) {
  return fed::answer(model, b, client, [&](M& m) {
    set_phase(m, dual_phase::train_shared);
    return train(m, dual_phase::train_shared);
  }, tagged("shared"));
}

/// The end of FedDPA-F at a client: the local branch starts as a copy of the shared one and is tuned alone, at weight 1.
/// Returns what the client keeps. Throws format_error when the state does not fit the model, shape_error when the branches differ in shape.
template <module M, class Train>
state_dict feddpa_f_tune(M& model, const state_dict& shared, Train train) {
  load_state(model, view(shared), {}, tagged("shared"));
  copy_shared_to_local(model);
  set_phase(model, dual_phase::local_alone);
  train(model, dual_phase::local_alone);
  return save_state(model, tagged("local"));
}

/// A client's round of FedDPA-T. `local` is what the client kept from its last round, however long ago, or empty at first; it is
/// replaced when the round has succeeded. The local branch is trained mixed with the frozen shared one, the shared branch alone; only its
/// change is returned. In round 0 nothing has been averaged yet: with before_global the local branch then waits for the client's next.
/// Throws as fed::answer(), and format_error when `local` does not fit the model. Source: Yang et al. 2024 and its released program.
template <module M, class Train>
fed::update feddpa_t_round(M& model, const fed::broadcast& b, fed::client_id client, state_dict& local, Train train, const feddpa_options& o = {}) {
  state_dict kept = local;
  const auto train_local = [&](M& m) {
    detail::load_local(m, kept, random_stream(o.seed).substream("local").substream(client));
    set_phase(m, dual_phase::train_local);
    train(m, dual_phase::train_local);
    kept = save_state(m, tagged("local"));
  };
  fed::update u = fed::answer(model, b, client, [&](M& m) {
    if (o.order == local_phase::before_global && b.round > 0) train_local(m);
    set_phase(m, dual_phase::train_shared);
    const fed::local_result result = train(m, dual_phase::train_shared);
    if (o.order == local_phase::after_global) train_local(m);
    return result;
  }, tagged("shared"));
  local = std::move(kept);
  return u;
}

/// A client's model for inference: both branches loaded, in the phase mixed. Throws format_error when a state does not fit.
template <module M>
void load_personal(M& model, const state_dict& shared, const state_dict& local) {
  load_state(model, view(shared), {}, tagged("shared"));
  load_state(model, view(local), {}, tagged("local"));
  set_phase(model, dual_phase::mixed);
}

/// Which branch a high similarity to the client's own data favours. Its purpose says the local one; the released inference script of
/// FedDPA gives the weight to the shared one.
enum class similarity_drives { local, global };

/// How a prompt's last hidden states become one vector: the last token's, or the mean over tokens.
enum class prompt_embedding { last, mean };

struct instance_weight_options {
  index_t references = 5;   // S, >= 0: training prompts an input is compared with
  double scaling = 0.5;     // lambda, in [0, 1]: the most the favoured branch can get
  similarity_drives drives = similarity_drives::local;
  std::optional<double> fallback;  // in [0, 1]: the local weight of a client without references; nothing: an error

  void validate() const {
    if (references < 0) throw_error<option_error>("feddpa: references is ", references, ", expected 0 or more");
    if (!(scaling >= 0 && scaling <= 1)) throw_error<option_error>("feddpa: scaling is ", scaling, ", expected 0 to 1");
    if (fallback && !(*fallback >= 0 && *fallback <= 1)) throw_error<option_error>("feddpa: fallback is ", *fallback, ", expected 0 to 1");
    if (references == 0 && !fallback) throw_error<option_error>("feddpa: references is 0, expected 1 or more, or a fallback");
  }
};

/// The numbers of the training prompts a client keeps as its references, drawn once and in order: S of n, or all when there are no more.
/// Throws option_error when there are none and no fallback.
inline std::vector<index_t> draw_references(index_t n, const instance_weight_options& o, random_stream random) {
  o.validate();
  if (n < 1 && !o.fallback)
    throw_error<option_error>("feddpa: there are ", n, " training prompts to draw references from, expected 1 or more, or a fallback");
  std::vector<index_t> all(static_cast<std::size_t>(std::max<index_t>(n, 0)));
  std::iota(all.begin(), all.end(), index_t{0});
  if (o.references < n) {
    random.shuffle(std::span(all));
    all.resize(static_cast<std::size_t>(o.references));
    std::ranges::sort(all);
  }
  return all;
}

/// One vector for every prompt, by the model with this share of its local branches; the released program takes them alone.
/// Shapes: (sequences, hidden_size). Cost: a forward pass. Throws state_error unless dual adapters are in the phase mixed, shape_error for
/// a sequence without tokens.
template <module M>
tensor<typename M::value_type, 2> embed_prompts(context& ctx, M& model, const token_batch& prompts, prompt_embedding how = prompt_embedding::last,
                                                double local_weight = 1) {
  using T = typename M::value_type;
  each_dual(model, [](std::string_view path, const auto& d) {
    if (d.phase != dual_phase::mixed)
      throw_error<state_error>("embed_prompts: the adapter of ", path, " is in phase ", name_of(d.phase), ", expected mixed");
  });
  std::vector<std::int32_t> last;
  for (std::size_t s = 0; s + 1 < prompts.offsets.size(); ++s) {
    if (prompts.offsets[s + 1] <= prompts.offsets[s]) throw_error<shape_error>("embed_prompts: sequence ", s, " has no tokens");
    last.push_back(static_cast<std::int32_t>(prompts.offsets[s + 1] - 1));
  }
  batch_info info;
  info.local_weights = {&local_weight, 1};
  tape<T> t(ctx, recording::off, info);
  const auto x = model.hidden(t, prompts);
  const auto y = how == prompt_embedding::mean ? mean_rows(t, x, t.batch.sequence_offsets) : take_rows(t, x, std::span<const std::int32_t>(last));
  return tensor<T, 2>::copy_of(y.value);
}

/// Local weights of inputs, as batch_info.local_weights takes them.
struct instance_weights_result {
  std::vector<double> weights;
  index_t without_direction = 0;  // embeddings, of inputs and references, that are zero or not finite: their similarities count as 0
};

/// alpha = clamp(scaling * mean over references of the cosine to the input, 0, 1), or 1 - alpha where similarity drives the global branch;
/// without references the fallback. Each input's is its own: nothing is averaged over inputs. Shapes: inputs (N, C), references (S, C).
/// Cost: 2 N S C flops, in double. Throws option_error without references and fallback, shape_error when the sizes differ.
template <class T>
instance_weights_result instance_weights(tensor_view<const T, 2> inputs, tensor_view<const T, 2> references, const instance_weight_options& o = {}) {
  o.validate();
  const index_t n = inputs.shape[0], s = references.shape[0], c = inputs.shape[1];
  instance_weights_result result;
  if (s == 0) {
    if (!o.fallback) throw_error<option_error>("feddpa: there are 0 references, expected 1 or more, or a fallback");
    result.weights.assign(static_cast<std::size_t>(n), *o.fallback);
    return result;
  }
  if (references.shape[1] != c)
    throw_error<shape_error>("instance_weights: inputs are ", to_string(inputs.shape), ", references are ", to_string(references.shape));
  const auto product = [c](tensor_view<const T, 1> a, tensor_view<const T, 1> b) {
    double sum = 0;
    for (index_t i = 0; i < c; ++i) sum += static_cast<double>(a(i)) * static_cast<double>(b(i));
    return sum;
  };
  const auto lengths = [&](tensor_view<const T, 2> rows) {  // 0 for those without a direction
    std::vector<double> all;
    for (index_t r = 0; r < rows.shape[0]; ++r) {
      const double square = product(rows.row(r), rows.row(r));
      const bool usable = square > 0 && std::isfinite(square);
      all.push_back(usable ? std::sqrt(square) : 0);
      result.without_direction += usable ? 0 : 1;
    }
    return all;
  };
  const auto of_inputs = lengths(inputs), of_references = lengths(references);
  for (index_t i = 0; i < n; ++i) {
    double sum = 0;
    for (index_t r = 0; r < s; ++r)
      if (const double both = of_inputs[static_cast<std::size_t>(i)] * of_references[static_cast<std::size_t>(r)]; both > 0)
        sum += product(inputs.row(i), references.row(r)) / both;
    const double alpha = std::clamp(o.scaling * sum / static_cast<double>(s), 0.0, 1.0);
    result.weights.push_back(o.drives == similarity_drives::local ? alpha : 1 - alpha);
  }
  return result;
}

}  // namespace graft
