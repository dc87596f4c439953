// SPDX-License-Identifier: Apache-2.0
// Adapters as the folders Python's peft writes and reads: adapter_config.json and adapter_model.safetensors.
// Read next: io/peft_config.hpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "graft/io/atomic_file.hpp"
#include "graft/io/checkpoint.hpp"
#include "graft/io/peft_config.hpp"
#include "graft/nn/state.hpp"
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

inline constexpr std::string_view peft_prefix = "base_model.model.";

/// The shortest names that mean these layers and no other: last segments where they do, else whole paths.
inline std::vector<std::string> target_names(const std::vector<std::string>& adapted, const std::vector<std::string>& others) {
  const auto last = [](const std::string& path) { return path.substr(path.rfind('.') + 1); };
  std::set<std::string> names;
  for (const auto& path : adapted) names.insert(last(path));
  for (const auto& path : others)
    if (names.contains(last(path))) return adapted;
  return {names.begin(), names.end()};
}

/// "a.b.lora_A.weight", also with the adapter's name left in: the module's path and which factor. Nothing for other keys.
struct lora_key {
  std::string module;
  char factor = 0;  // 'A' or 'B'
};
inline lora_key parse_lora_key(std::string_view key) {
  for (const char factor : {'A', 'B'}) {
    const std::string infix = concat(".lora_", factor, ".");
    const auto at = key.find(infix);
    if (at == key.npos) continue;
    const std::string_view rest = key.substr(at + infix.size());
    if (rest == "weight" || (rest.ends_with(".weight") && rest.find('.') == rest.size() - 7)) return {std::string(key.substr(0, at)), factor};
  }
  return {};
}

/// The two factors of every module an adapter file holds, and what else it holds.
struct peft_arrays {
  struct pair {
    const array_ref *a = nullptr, *b = nullptr;
  };
  std::map<std::string, pair> factors;  // by module path
  records<array_ref> whole;             // modules_to_save, by parameter path

  peft_arrays(const checkpoint_files& file, std::string_view where) {
    for (const auto& [key, array] : file.arrays()) {
      check_finite(where, key, array.type, array.bytes);
      std::string_view name = key;
      if (name.starts_with(peft_prefix)) name.remove_prefix(peft_prefix.size());
      const auto lora = parse_lora_key(name);
      if (lora.factor == 'A') factors[lora.module].a = &array;
      else if (lora.factor == 'B') factors[lora.module].b = &array;
      else whole.emplace_back(std::string(name), array);
    }
  }
};

}  // namespace detail

/// Writes the LoRA adapters of one name, and whatever else of the model is trainable as modules_to_save. The folder is made
/// if need be. Both files are on the disk before either takes its place, so that a full disk leaves the old two, which belong
/// together. Throws state_error when there is no such adapter or it is not LoRA, io_error when the files cannot be written.
template <module M>
void save_peft(M& model, const std::filesystem::path& folder, const save_peft_options& o = {}) {
  using T = typename M::value_type;
  std::vector<std::string> adapted, others;
  std::vector<std::pair<std::string, const lora<T>*>> loras;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    const auto a = std::ranges::find(layer.adapters, o.name, &named_adapter<T>::name);
    (a == layer.adapters.end() ? others : adapted).emplace_back(path);
    if (a == layer.adapters.end()) return;
    const auto* as_lora = a->adapter.template get<lora<T>>();
    if (as_lora == nullptr) throw_error<state_error>("save_peft: the adapter of ", path, " is ", a->adapter.describe(), ", not a LoRA");
    loras.emplace_back(path, as_lora);
  });
  if (loras.empty()) throw_error<state_error>("save_peft: the model has no adapter named \"", o.name, "\"");

  peft_config config;
  config.lora = loras.front().second->options;
  config.target_modules = detail::target_names(adapted, others);
  config.base_model_name = o.base_model_name;
  config.task_type = o.task_type;
  std::map<std::string, index_t> ranks;
  state_dict state{{}, {{"format", "pt"}}};
  for (const auto& [path, l] : loras) {
    if (l->options.rank_stabilised != config.lora.rank_stabilised)
      throw_error<state_error>("save_peft: ", path, " is scaled by another rule than ", loras.front().first, "; a folder has one rule");
    if (l->options.rank != config.lora.rank) ranks["^" + path] = l->options.rank;
    if (l->options.alpha != config.lora.alpha) config.alpha_pattern["^" + path] = l->options.alpha;
    const std::string prefix = concat(detail::peft_prefix, path);
    state.items.emplace_back(prefix + ".lora_A.weight", to_array<T, 2>(l->a.weight.view()));
    state.items.emplace_back(prefix + ".lora_B.weight", to_array<T, 2>(l->b.weight.view()));
  }
  std::set<std::string> whole;
  for (const auto& p : select(model, both(is_trainable, tagged("base")))) {
    const auto bytes = p.parameter->bytes();
    state.items.emplace_back(concat(detail::peft_prefix, p.path), array{p.type(), {p.shape().begin(), p.shape().end()}, {bytes.begin(), bytes.end()}});
    const std::string module_path = p.path.substr(0, p.path.rfind('.'));
    whole.insert(module_path.substr(module_path.rfind('.') + 1));
  }
  config.modules_to_save.assign(whole.begin(), whole.end());
  const auto arrays = view(state);
  const auto plan = detail::plan_safetensors(arrays, state.metadata);
  const std::string settings_text = write_peft_config(config, ranks);
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) throw_error<io_error>("cannot make the folder \"", folder.string(), "\": ", failure.message());
  detail::temporary_file weights(folder / "adapter_model.safetensors"), settings(folder / "adapter_config.json");
  detail::write_safetensors(plan, [&](std::span<const std::byte> part) { weights.write(part); });
  settings.write(std::as_bytes(std::span(settings_text)));
  weights.complete();
  settings.complete();
  weights.take_place();
  settings.take_place();
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
  if (arrays.factors.empty()) throw_error<format_error>(path.string(), ": holds no LoRA factors");

  std::map<std::string, any_adapter<T>> made;
  visit_layers(model, [&](std::string_view layer_path, adapted_linear<T>& layer) {
    const auto found = arrays.factors.find(std::string(layer_path));
    if (found == arrays.factors.end()) return;
    for (const auto& present : layer.adapters)
      if (present.name == o.name) throw_error<option_error>("load_peft: ", layer_path, " already has an adapter named \"", o.name, "\"");
    const auto [a, b] = found->second;
    if (a == nullptr || b == nullptr) throw_error<format_error>(path.string(), ": ", layer_path, " has one LoRA factor, expected lora_A and lora_B");
    const index_t rank = a->shape.empty() ? 0 : a->shape[0];
    if (rank < 1 || a->shape != std::vector<index_t>{rank, layer.inputs()} || b->shape != std::vector<index_t>{layer.outputs(), rank})
      throw_error<format_error>(path.string(), ": ", layer_path, " has LoRA factors of shapes ", to_string(a->shape), " and ", to_string(b->shape),
                                ", the model's layer is ", to_string(extents<2>{layer.outputs(), layer.inputs()}));
    lora_options options = config.lora;
    options.rank = rank;
    for (const auto& [key, alpha] : config.alpha_pattern)
      if (detail::pattern_names(key, layer_path)) {
        options.alpha = alpha;
        break;
      }
    lora<T> l(layer.inputs(), layer.outputs(), options, random_stream(0).substream(layer_path));
    convert_array(a->type, a->shape, a->bytes.data(), l.a.weight.value().data());
    convert_array(b->type, b->shape, b->bytes.data(), l.b.weight.value().data());
    made.emplace(layer_path, std::move(l));
  });
  for (const auto& [layer_path, unused] : arrays.factors)
    if (!made.contains(layer_path))
      throw_error<format_error>(path.string(), ": is for another model: this one has no linear layer ", detail::in_quotes(layer_path));
  for (const std::string& name : config.target_modules)
    if (std::ranges::none_of(made, [&](const auto& m) { return target_modules::names_path(name, m.first); }))
      throw_error<format_error>(path.string(), ": holds no tensor for target module ", detail::in_quotes(name), " of adapter_config.json");

  const auto in_whole = [&](const auto& p) { return find(arrays.whole, p.path) != nullptr; };
  try {
    if (!arrays.whole.empty()) load_state(model, arrays.whole, {}, in_whole);
  } catch (const format_error& e) {
    throw_error<format_error>(path.string(), ": ", e.what());
  }
  attach(model, target_modules::pattern("", [&](std::string_view p) { return made.contains(std::string(p)); }),
         [&](const adapter_site& s) { return made.at(std::string(s.path)); }, {.name = o.name});
  if (o.trainable) unfreeze(model, in_whole);
  else freeze(model);
}

}  // namespace graft
