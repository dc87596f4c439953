// SPDX-License-Identifier: Apache-2.0
// Putting adapters into a model's slots, folding them in, taking them out. Read next: io/peft_folder.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "graft/core/random.hpp"
#include "graft/nn/filter.hpp"
#include "graft/nn/linear.hpp"
#include "graft/nn/storage.hpp"
#include "graft/peft/lora.hpp"
#include "graft/peft/targets.hpp"

namespace graft {

/// What an adapter's maker is told about a layer.
struct adapter_site {
  std::string_view path;
  index_t in, out;
  matrix_ref weight;     // the base, as stored
  random_stream random;  // a function of (seed, path): the same on every machine
};

/// Which biases of the base are trained beside the adapters: none, those of the adapted layers, or all.
enum class bias_training { none, adapted, all };

struct attach_options {
  std::string name = "default";  // a segment of the parameters' paths; unique within a layer
  std::uint64_t seed = 0;        // of the adapters' first values
  bias_training bias = bias_training::none;
};

namespace detail {

template <module M>
void freeze_but_adapters(M& model) {
  freeze(model, except(either(tagged("adapter"), either(tagged("shared"), tagged("local")))));
}

}  // namespace detail

/// Freezes the whole model, then puts make(site) into the slot of every layer the targets name, outermost. Returns how many.
/// Throws option_error when no layer matches, when a name of the list matches none, or when the adapter's name is taken;
/// the error lists what the model has. Nothing is attached then.
template <module M, class Make>
  requires std::is_invocable_v<Make&, const adapter_site&>
index_t attach(M& model, const target_modules& where, Make make, const attach_options& o = {}) {
  using T = typename M::value_type;
  std::vector<std::pair<std::string, adapted_linear<T>*>> chosen;
  std::vector<std::string> all;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    all.emplace_back(path);
    if (where.matches(path)) chosen.emplace_back(path, &layer);
  });
  const auto known = [&] {
    std::string s;
    for (const auto& path : all)
      if (const std::string last = path.substr(path.rfind('.') + 1); s.find(last) == std::string::npos) s += (s.empty() ? "" : ", ") + last;
    return s;
  };
  if (where.how() == target_modules::kind::names)
    for (const std::string& name : where.text())
      if (std::ranges::none_of(all, [&](const std::string& path) { return target_modules::names_path(name, path); }))
        throw_error<option_error>("attach: target module \"", name, "\" names no layer; the model has ", known());
  if (chosen.empty()) throw_error<option_error>("attach: the target modules name no layer; the model has ", known());
  for (const auto& [path, layer] : chosen)
    for (const auto& a : layer->adapters)
      if (a.name == o.name) throw_error<option_error>("attach: ", path, " already has an adapter named \"", o.name, "\"");

  std::vector<any_adapter<T>> made;
  for (const auto& [path, layer] : chosen)
    made.emplace_back(make(adapter_site{path, layer->inputs(), layer->outputs(), layer->weight.matrix(), random_stream(o.seed).substream(path)}));
  detail::freeze_but_adapters(model);
  for (std::size_t i = 0; i < chosen.size(); ++i) chosen[i].second->adapters.push_back({o.name, std::move(made[i])});
  if (o.bias == bias_training::all) unfreeze(model, both(tagged("base"), [](const auto& p) { return p.path == "bias" || p.path.ends_with(".bias"); }));
  if (o.bias == bias_training::adapted)
    for (const auto& [path, layer] : chosen)
      if (layer->bias) layer->bias->unfreeze();
  return static_cast<index_t>(chosen.size());
}

/// Options of LoRA that differ by layer; a name that means no adapted layer is an error.
struct lora_patterns {
  module_values<index_t> rank;
  module_values<double> alpha;
};

/// LoRA on the named layers, with ranks and alphas of their own where the patterns say so. Throws option_error as above, and for
/// a pattern that names no adapted layer or has an impossible value.
template <module M>
index_t attach(M& model, const target_modules& where, const lora_options& lora_o, const lora_patterns& patterns, const attach_options& o = {}) {
  using T = typename M::value_type;
  lora_o.validate();
  std::vector<const void*> used;
  const auto own = [&](std::string_view path) {
    lora_options mine = lora_o;
    if (const index_t* rank = find_module_value(patterns.rank, path)) used.push_back(rank), mine.rank = *rank;
    if (const double* alpha = find_module_value(patterns.alpha, path)) used.push_back(alpha), mine.alpha = *alpha;
    return mine;
  };
  visit_layers(model, [&](std::string_view path, adapted_linear<T>&) {
    if (where.matches(path)) own(path).validate();
  });
  const auto require_used = [&](const auto& values, std::string_view what) {
    for (const auto& [name, value] : values)
      if (std::ranges::find(used, static_cast<const void*>(&value)) == used.end())
        throw_error<option_error>("attach: ", what, " pattern \"", name, "\" decides about no adapted layer");
  };
  require_used(patterns.rank, "rank");
  require_used(patterns.alpha, "alpha");
  return attach(model, where, [&](const adapter_site& s) { return lora<T>(s.in, s.out, own(s.path), s.random); }, o);
}

/// LoRA on the named layers.
template <module M>
index_t attach(M& model, const target_modules& where, const lora_options& lora_o, const attach_options& o = {}) {
  using T = typename M::value_type;
  lora_o.validate();
  return attach(model, where, [&](const adapter_site& s) { return lora<T>(s.in, s.out, lora_o, s.random); }, o);
}

/// Removes the adapters of this name, of linear layers and embeddings; returns how many.
template <module M>
index_t detach(M& model, std::string_view name = "default") {
  index_t removed = 0;
  visit_layers(model, [&](std::string_view, adapted_linear<typename M::value_type>& layer) {
    removed += static_cast<index_t>(std::erase_if(layer.adapters, [&](const auto& a) { return a.name == name; }));
  });
  visit_embeddings(model, [&](std::string_view, embedding_module<typename M::value_type>& e) {
    removed += static_cast<index_t>(std::erase_if(e.adapters, [&](const auto& a) { return a.name == name; }));
  });
  return removed;
}

namespace detail {

/// Gives every adapted layer and embedding the parameter that store(path, weight, dense) makes of its merged weight, and empties the
/// slots. All are made before the first takes its place: where one throws, the model is as it was.
template <module M, class Store>
index_t merge_layers(M& model, Store store) {
  using T = typename M::value_type;
  struct merged_layer {
    adapted_linear<T>* layer;
    parameter<T, 2> weight;
    std::optional<parameter<T, 1>> bias;
  };
  require_own_head(model, "merge_adapters");
  std::vector<std::pair<embedding_module<T>*, parameter<T, 2>>> tables;
  visit_embeddings(model, [&](std::string_view path, embedding_module<T>& e) {
    if (!e.adapters.empty()) tables.emplace_back(&e, store(path, e.weight, e.merged()));
  });
  std::vector<merged_layer> layers;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    if (layer.adapters.empty()) return;
    auto [weight, bias] = merged(layer, "merge_adapters", path);
    merged_layer& made = layers.emplace_back(merged_layer{&layer, store(path, layer.weight, std::move(weight)), {}});
    if (bias) made.bias.emplace(std::move(*bias));
  });

  for (auto& [embedding, weight] : tables) {
    embedding->weight = std::move(weight);
    embedding->weight.freeze();
    embedding->adapters.clear();
  }
  for (auto& [layer, weight, bias] : layers) {
    layer->weight = std::move(weight);
    layer->weight.freeze();
    if (bias) layer->bias = std::move(bias), layer->bias->freeze();
    layer->adapters.clear();
  }
  return static_cast<index_t>(tables.size() + layers.size());
}

/// |a - b| / |b|, of all elements as one vector; 0 where both are zero.
template <class T>
double relative_distance(tensor_view<const T, 2> a, tensor_view<const T, 2> b) {
  double difference = 0, size = 0;
  zip_elements(a, b, [&](const T& x, const T& y) {
    const double d = static_cast<double>(x) - static_cast<double>(y);
    difference += d * d;
    size += static_cast<double>(y) * static_cast<double>(y);
  });
  return difference == 0 ? 0 : std::sqrt(difference / size);
}

}  // namespace detail

/// Replaces every adapted layer's weight by a new dense one of the compute type, with its adapters folded in, and empties the
/// slots; embeddings likewise. Returns how many layers changed. Memory: a dense copy of each, all beside the old weights until the last is
/// made. Those, which others may share, stay as they are. Nothing is rounded but the sums: see below for weights that should stay small.
/// Throws state_error when an adapter cannot be merged or an adapted embedding is the output layer too; then nothing has changed.
template <module M>
index_t merge_adapters(M& model) {
  using T = typename M::value_type;
  return detail::merge_layers(model, [](std::string_view, const parameter<T, 2>&, tensor<T, 2> dense) { return parameter<T, 2>(std::move(dense)); });
}

struct merge_options {
  std::optional<dtype> type;  // of the merged weights: f32, bf16, f16, q8_0, q4_0, nf4; nothing: each as its base is stored
};

struct merge_report {
  struct layer {
    std::string path;
    dtype type;             // it is stored in now
    double relative_error;  // |stored - merged| / |merged|, Frobenius norms: what storing lost
  };
  std::vector<layer> layers;

  /// The largest relative error; 0 without layers.
  double worst() const {
    double most = 0;
    for (const layer& l : layers) most = std::max(most, l.relative_error);
    return most;
  }
};

/// The same, but each merged weight is stored again in its base's format, or in the one the options name. Into a block format
/// that loses about as much as quantising the base did, 4e-3 of the weights' norm in q8_0, 6e-2 to 9e-2 in 4 bits, and so
/// often more than an adapter changed: look at the report, and name a wider type where it is too much. Memory: a dense copy
/// of one layer at a time beside what is kept and what it replaces. Throws option_error for other types, and as above.
template <module M>
merge_report merge_adapters(M& model, const merge_options& o) {
  using T = typename M::value_type;
  if (o.type) detail::check_weight_type("merge_adapters", *o.type);
  merge_report report;
  detail::merge_layers(model, [&](std::string_view path, const parameter<T, 2>& weight, tensor<T, 2> dense) {
    const frozen_array merged(std::move(dense));
    const auto stored = convert_array(merged, o.type.value_or(weight.type()));
    const auto back = stored.template to_tensor<T, 2>();
    report.layers.push_back({std::string(path), stored.type(), detail::relative_distance<T>(back, merged.view<T, 2>())});
    parameter<T, 2> made(weight.extent());
    made.assign(stored);
    return made;
  });
  return report;
}

}  // namespace graft
