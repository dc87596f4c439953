// SPDX-License-Identifier: Apache-2.0
// Tuned normalisation layers as the folders Python's peft writes and reads for its type LN_TUNING.
// Read next: io/prompt_folder.hpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/io/checkpoint.hpp"
#include "graft/io/detail/adapter_folder.hpp"
#include "graft/nn/linear.hpp"
#include "graft/nn/state.hpp"
#include "graft/peft/targets.hpp"
#include "graft/peft/tuning.hpp"

namespace graft {

namespace detail {

/// Last segments of these paths where they mean no other of the model's modules, else the paths themselves.
template <class = void>
std::vector<std::string> short_names(const std::vector<std::string>& meant, const std::vector<std::string>& all) {
  std::set<std::string> names;
  for (const auto& path : meant) names.insert(path.substr(path.rfind('.') + 1));
  for (const auto& path : all)
    if (std::ranges::find(meant, path) == meant.end() && names.contains(path.substr(path.rfind('.') + 1))) return meant;
  return {names.begin(), names.end()};
}

/// The parameter a key of a LN_TUNING file means, "layers.0.norm.weight"; "" for other keys. The adapter's name may still be in it.
template <class = void>
std::string tuned_parameter(std::string_view key) {
  constexpr std::string_view prefix = "base_model.model.", mark = ".ln_tuning_layers.";
  if (key.starts_with(prefix)) key.remove_prefix(prefix.size());
  const auto at = key.find(mark);
  if (at == key.npos) return {};
  const auto rest = key.substr(at + mark.size());
  return concat(key.substr(0, at), '.', rest.substr(rest.rfind('.') + 1));
}

}  // namespace detail

/// Writes the normalisation layers of which a parameter trains, whole. Throws state_error when none does and when anything else trains,
/// which such a folder has no place for; io_error when the files cannot be written, and then the old ones stay.
template <module M>
void save_tuned_norms(M& model, const std::filesystem::path& folder, const adapter_folder_options& o = {}) {
  using T = typename M::value_type;
  const auto norms = norm_paths(model);
  std::vector<std::string> tuned, modules = norms;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>&) { modules.emplace_back(path); });
  for (const auto& p : trainable(model)) {
    if (!detail::in_modules(norms)(p)) throw_error<state_error>("save_tuned_norms: ", p.path, " trains too, and is of no normalisation layer");
    const std::string path = p.path.substr(0, p.path.rfind('.'));
    if (std::ranges::find(tuned, path) == tuned.end()) tuned.push_back(path);
  }
  if (tuned.empty()) throw_error<state_error>("save_tuned_norms: no normalisation layer of the model is trainable");
  state_dict state = save_state(model, detail::in_modules(tuned));
  for (auto& [name, value] : state.items) {
    const auto end = name.rfind('.');
    name = concat("base_model.model.", name.substr(0, end), ".ln_tuning_layers", name.substr(end));
  }
  state.metadata = {{"format", "pt"}};
  auto settings = detail::adapter_settings_text("LN_TUNING", o);
  settings.add("target_modules", detail::short_names(tuned, modules));
  detail::write_adapter_folder(folder, state, settings.str());
}

struct load_tuned_options {
  bool trainable = true;  // false leaves them frozen
};

/// Brings the normalisation layers in a folder into a model, in place of its own. Returns how many values these are. Throws format_error
/// when the folder is of another type or for another model, when a layer is there in part or values are not finite; then the model is as
/// it was.
template <module M>
index_t load_tuned_norms(M& model, const std::filesystem::path& folder, const load_tuned_options& o = {}) {
  const auto config = detail::read_adapter_settings(folder, "LN_TUNING", {"target_modules", "exclude_modules"});
  const auto path = folder / "adapter_model.safetensors";
  const checkpoint_files file(path);
  records<array_ref> arrays;
  std::vector<std::string> modules;
  for (const auto& [key, array] : file.arrays()) {
    detail::check_finite(path.string(), key, array.type, array.bytes);
    const std::string name = detail::tuned_parameter(key);
    if (name.empty()) throw_error<format_error>(path.string(), ": ", detail::in_quotes(key), " is no tensor of a tuned normalisation layer");
    modules.push_back(name.substr(0, name.rfind('.')));
    arrays.emplace_back(name, array);
  }
  if (arrays.empty()) throw_error<format_error>(path.string(), ": holds no tensors");
  const auto norms = norm_paths(model);
  for (const auto& m : modules)
    if (std::ranges::find(norms, m) == norms.end())
      throw_error<format_error>(path.string(), ": is for another model: this one has no normalisation layer ", detail::in_quotes(m));
  if (const auto names = config.optional("target_modules"); names && names->is_array() && !config.optional("exclude_modules"))
    for (const auto& name : names->template as<std::vector<std::string>>())
      if (std::ranges::none_of(modules, [&](const auto& m) { return target_modules::names_path(name, m); }))
        throw_error<format_error>(path.string(), ": holds no tensor for target module ", detail::in_quotes(name), " of adapter_config.json");
  const auto which = detail::in_modules(modules);
  try {
    load_state(model, arrays, {}, which);
  } catch (const format_error& e) {
    throw_error<format_error>(path.string(), ": ", e.what());
  }
  if (o.trainable) unfreeze(model, which);
  return count_parameters(model, which);
}

}  // namespace graft
