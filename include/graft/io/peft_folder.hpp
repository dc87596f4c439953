// SPDX-License-Identifier: Apache-2.0
// Adapters as the folders Python's peft writes and reads: adapter_config.json and adapter_model.safetensors.
// Read next: io/peft_layers.hpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/io/detail/weights_folder.hpp"
#include "graft/io/checkpoint.hpp"
#include "graft/io/peft_layers.hpp"
#include "graft/peft/attach.hpp"

namespace graft {

struct save_peft_options {
  std::string name = "default";     // of the adapter to save
  std::string base_model_name;      // informative; where the base came from
  std::string task_type;            // "CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION" or nothing
};

struct load_peft_options {
  std::string name = "default";  // for the adapter to get
  bool trainable = true;         // false freezes it
};

namespace detail {

/// The shortest names that mean these layers and no other: last segments where they do, else whole paths.
template <class = void>
std::vector<std::string> target_names(const std::vector<std::string>& adapted, const std::vector<std::string>& others) {
  const auto last = [](const std::string& path) { return path.substr(path.rfind('.') + 1); };
  std::set<std::string> names;
  for (const auto& path : adapted) names.insert(last(path));
  for (const auto& path : others)
    if (names.contains(last(path))) return adapted;
  return {names.begin(), names.end()};
}

/// The layers that hold an adapter of this name, ready to be written, and the paths of the others. Throws state_error for a kind PEFT
/// has not, and for adapters of several kinds.
template <module M>
std::pair<std::vector<std::pair<std::string, peft_layer>>, std::vector<std::string>> store_adapters(M& model, std::string_view name) {
  using T = typename M::value_type;
  std::vector<std::pair<std::string, peft_layer>> adapted;
  std::vector<std::string> others;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    const auto a = std::ranges::find(layer.adapters, name, &named_adapter<T>::name);
    if (a == layer.adapters.end()) return static_cast<void>(others.emplace_back(path));
    auto stored = store_adapter<T>(a->adapter, path);
    if (!stored) throw_error<state_error>("save_peft: the adapter of ", path, " is ", a->adapter.describe(), ", which PEFT folders cannot hold; merge or convert it");
    adapted.emplace_back(path, std::move(*stored));
    const peft_layer &first = adapted.front().second, &last = adapted.back().second;
    if (first.type != last.type || first.dora != last.dora)
      throw_error<state_error>("save_peft: ", path, " has an adapter of another kind than ", adapted.front().first, "; a folder has one kind");
  });
  visit_embeddings(model, [&](std::string_view path, embedding_module<T>& e) {
    const auto rows = std::ranges::find(e.adapters, name, &low_rank_rows<T>::name);
    if (rows == e.adapters.end()) return static_cast<void>(others.emplace_back(path));
    if (!adapted.empty() && (adapted.front().second.type != peft_type::lora || adapted.front().second.dora))
      throw_error<state_error>("save_peft: ", path, " has a LoRA, ", adapted.front().first, " another kind; a folder has one kind");
    adapted.emplace_back(path, store_embedding<T>(*rows));
  });
  if (adapted.empty()) throw_error<state_error>("save_peft: the model has no adapter named \"", name, "\"");
  return {std::move(adapted), std::move(others)};
}

/// One size for the blocks of all layers, or one number of blocks.
template <class = void>
void describe_rotations(const std::vector<std::pair<std::string, peft_layer>>& adapted, peft_config& c) {
  const auto& [first_path, first] = adapted.front();
  c.oft = first.oft;
  for (const auto& [path, layer] : adapted) {
    if (layer.oft.size != first.oft.size) c.oft.size = 0;
    if (layer.oft.count != first.oft.count) c.oft.count = 0;
    if (layer.oft.shared != first.oft.shared || (c.oft.size == 0 && c.oft.count == 0))
      throw_error<state_error>("save_peft: ", path, " is divided into blocks by another rule than ", first_path, "; a folder has one rule");
  }
  if (c.oft.size != 0) c.oft.count = 0;
}

/// Takes the options that all layers share from the first and writes down where layers differ; gives the ranks that do.
template <class = void>
std::map<std::string, index_t> describe_layers(const std::vector<std::pair<std::string, peft_layer>>& adapted, const std::vector<std::string>& others, peft_config& c) {
  const auto& [first_path, first] = adapted.front();
  c.type = first.type, c.lora = first.lora, c.dora = first.dora, c.vera = first.vera;
  if (c.type == peft_type::oft) describe_rotations(adapted, c);
  std::map<std::string, index_t> ranks;
  std::vector<std::string> paths, on_inputs, on_outputs;
  for (const auto& [path, layer] : adapted) {
    if (layer.lora.rank_stabilised != c.lora.rank_stabilised)
      throw_error<state_error>("save_peft: ", path, " is scaled by another rule than ", first_path, "; a folder has one rule");
    if (layer.lora.rank != c.lora.rank) ranks["^" + path] = layer.lora.rank;
    if (layer.lora.alpha != c.lora.alpha) c.alpha_pattern.emplace_back("^" + path, layer.lora.alpha);
    paths.push_back(path);
    (layer.on_inputs ? on_inputs : on_outputs).push_back(path);
  }
  c.target_modules = target_names(paths, others);
  if (!on_inputs.empty()) {
    c.ia3.feedforward = target_names(on_inputs, on_outputs);
    if (c.ia3.feedforward == on_inputs || c.target_modules == paths) {  // each must be among the targets as it is written
      c.ia3.feedforward = on_inputs;
      c.target_modules = paths;
    }
  }
  return ranks;
}

/// The pair of projections of a model's VeRA adapters, as shared arrays of the folder.
template <module M>
void store_projections(M& model, std::string_view name, state_dict& state) {
  using T = typename M::value_type;
  const vera_projections<T>* shared = nullptr;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    const auto a = std::ranges::find(layer.adapters, name, &named_adapter<T>::name);
    const vera<T>* v = a == layer.adapters.end() ? nullptr : a->adapter.template get<vera<T>>();
    if (v == nullptr) return;
    if (shared != nullptr && v->shared.get() != shared)
      throw_error<state_error>("save_peft: the adapter of ", path, " has projections of its own; a folder has one pair");
    shared = v->shared.get();
  });
  if (shared == nullptr) return;
  state.items.emplace_back(concat(peft_model_prefix, "vera_A"), to_array<T, 2>(shared->a.view()));
  state.items.emplace_back(concat(peft_model_prefix, "vera_B"), to_array<T, 2>(shared->b.view()));
}

/// The base's own trainable parameters: biases where PEFT keeps them, anything else as modules_to_save.
template <module M>
void store_base(M& model, const std::vector<std::pair<std::string, peft_layer>>& adapted, state_dict& state, peft_config& c) {
  std::set<std::string> whole;
  for (const auto& p : select(model, both(is_trainable, tagged("base")))) {
    const auto bytes = p.parameter->bytes();
    const std::string module_path = p.path.substr(0, p.path.rfind('.'));
    const bool bias = p.path.ends_with(".bias") && select(model, both(is_trainable, below(module_path + ".weight"))).empty();
    const bool wrapped = std::ranges::any_of(adapted, [&](const auto& a) { return a.first == module_path; });
    if (bias) c.trains_biases = true;
    else whole.insert(module_path.substr(module_path.rfind('.') + 1));
    const std::string path = bias && wrapped ? module_path + ".base_layer.bias" : p.path;
    state.items.emplace_back(concat(peft_prefix, path), array{p.type(), {p.shape().begin(), p.shape().end()}, {bytes.begin(), bytes.end()}});
  }
  c.modules_to_save.assign(whole.begin(), whole.end());
}

/// The adapters of a folder by layer, made and not yet attached.
template <class T>
struct made_adapters {
  std::map<std::string, any_adapter<T>, std::less<>> layers;
  std::map<std::string, low_rank_rows<T>, std::less<>> tables;  // of embeddings

  bool contains(std::string_view path) const { return layers.contains(path) || tables.contains(path); }
  template <module M>
  void attach_to(M& model, const std::string& name) const {
    freeze_but_adapters(model);
    if (!layers.empty())
      attach(model, target_modules::pattern("", [&](std::string_view p) { return layers.contains(p); }),
             [&](const adapter_site& s) { return layers.find(s.path)->second; }, {.name = name});
    visit_embeddings(model, [&](std::string_view path, embedding_module<T>& e) {
      if (const auto at = tables.find(path); at != tables.end()) e.adapters.push_back(at->second);
    });
  }
};

/// Throws option_error where the name is taken, format_error where the folder's arrays do not fit the model's.
template <module M, class T = typename M::value_type>
made_adapters<T> make_adapters(M& model, peft_reader<T> reader, const peft_arrays& arrays, const std::string& name) {
  made_adapters<T> made;
  const auto require_free = [&](std::string_view path, bool taken) {
    if (taken) throw_error<option_error>("load_peft: ", path, " already has an adapter named \"", name, "\"");
  };
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    if (!arrays.layers.contains(path)) return;
    require_free(path, std::ranges::find(layer.adapters, name, &named_adapter<T>::name) != layer.adapters.end());
    made.layers.emplace(path, reader.make_adapter(path, layer));
  });
  visit_embeddings(model, [&](std::string_view path, embedding_module<T>& e) {
    if (!arrays.layers.contains(path)) return;
    require_free(path, std::ranges::find(e.adapters, name, &low_rank_rows<T>::name) != e.adapters.end());
    made.tables.emplace(path, reader.make_embedding(path, e, name));
  });
  return made;
}

}  // namespace detail

/// Writes the adapters of one name, which are LoRA, DoRA, IA3, VeRA or OFT (Hamming-weight adapters of order 1 on inputs), and what
/// else of the model is trainable: biases alone as the bias option of PEFT, anything else as modules_to_save. The folder is made if
/// need be. Both files are on the disk before either takes its place, so that a full disk leaves the old two, which belong together.
/// Throws state_error when there is no such adapter or it is of another kind, io_error when the files cannot be written.
template <module M>
void save_peft(M& model, const std::filesystem::path& folder, const save_peft_options& o = {}) {
  const auto [adapted, others] = detail::store_adapters(model, o.name);
  peft_config config;
  config.base_model_name = o.base_model_name;
  config.task_type = o.task_type;
  const auto ranks = detail::describe_layers(adapted, others, config);
  state_dict state{{}, {{"format", "pt"}}};
  for (const auto& [path, layer] : adapted)
    for (const auto& [part, values] : layer.parts) state.items.emplace_back(concat(detail::peft_prefix, path, '.', part), values);
  detail::store_projections(model, o.name, state);
  detail::store_base(model, adapted, state, config);
  detail::write_weights_folder(folder, detail::adapter_files, view(state), state.metadata, write_peft_config(config, ranks));
}

/// Attaches the adapter in a folder. Which layers get one follows from the file's tensors. Throws format_error when the
/// folder is for another model (it names the tensor and what the model has), when a factor is missing or of the wrong
/// shape, when values are not finite, or when the configuration asks for what is not supported, option_error when the name is
/// taken. Then the model is as it was.
template <module M>
void load_peft(M& model, const std::filesystem::path& folder, const load_peft_options& o = {}) {
  using T = typename M::value_type;
  const peft_config config = read_peft_config(read_json(folder / "adapter_config.json"));
  const auto path = folder / "adapter_model.safetensors";
  const checkpoint_files file(path);
  const detail::peft_arrays arrays(file, path.string());
  if (arrays.layers.empty()) throw_error<format_error>(path.string(), ": holds no ", detail::name_of(config.type), " adapter");

  const auto made = detail::make_adapters(model, detail::peft_reader<T>(config, arrays, path.string()), arrays, o.name);
  for (const auto& [layer_path, unused] : arrays.layers)
    if (!made.contains(layer_path))
      throw_error<format_error>(path.string(), ": is for another model: this one has no linear layer ", detail::in_quotes(layer_path));
  for (const std::string& name : config.target_modules)
    if (!config.excludes_modules && std::ranges::none_of(arrays.layers, [&](const auto& l) { return target_modules::names_path(name, l.first); }))
      throw_error<format_error>(path.string(), ": holds no tensor for target module ", detail::in_quotes(name), " of adapter_config.json");

  const auto in_whole = [&](const auto& p) { return find(arrays.whole, p.path) != nullptr; };
  try {
    if (!arrays.whole.empty()) load_state(model, arrays.whole, {}, in_whole);
  } catch (const format_error& e) {
    throw_error<format_error>(path.string(), ": ", e.what());
  }
  made.attach_to(model, o.name);
  // PEFT stores the table beside the LoRA of an embedding, where it stays frozen.
  if (o.trainable) unfreeze(model, [&](const auto& p) { return in_whole(p) && !made.tables.contains(p.path.substr(0, p.path.rfind('.'))); });
  else freeze(model);
}

}  // namespace graft
