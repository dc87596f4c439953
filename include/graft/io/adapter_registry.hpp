// SPDX-License-Identifier: Apache-2.0
// Any number of LoRA adapters from PEFT folders, mapped and by name, ready to be served. Read next: peft/served.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "graft/io/checkpoint.hpp"
#include "graft/io/peft_config.hpp"
#include "graft/io/peft_layers.hpp"
#include "graft/peft/served.hpp"

namespace graft {

namespace detail {

/// Throws format_error for what a folder of a LoRA adapter may hold and a served one cannot have.
template <class = void>
void require_servable(const peft_config& config, const peft_arrays& arrays, std::string_view file) {
  if (config.type != peft_type::lora || config.dora)
    throw_error<format_error>(file, ": is a ", config.dora ? std::string_view("DoRA") : name_of(config.type), " adapter, only LoRA is served; convert it");
  if (!arrays.whole.empty())
    throw_error<format_error>(file, ": holds ", in_quotes(arrays.whole.front().first), ", a parameter of the model itself, which serving would share");
  if (!arrays.shared.empty()) throw_error<format_error>(file, ": holds ", in_quotes(arrays.shared.begin()->first), ", which is none of LoRA's");
  if (arrays.layers.empty()) throw_error<format_error>(file, ": holds no LORA adapter");
  for (const std::string& name : config.target_modules)
    if (!config.excludes_modules && std::ranges::none_of(arrays.layers, [&](const auto& l) { return target_modules::names_path(name, l.first); }))
      throw_error<format_error>(file, ": holds no tensor for target module ", in_quotes(name), " of adapter_config.json");
}

/// Both factors of a layer. Throws format_error unless they are there, alone, and fit one another.
template <class = void>
std::pair<const array_ref*, const array_ref*> lora_factors(std::string_view file, std::string_view layer, const peft_arrays::parts& parts) {
  const auto a = parts.find("lora_A"), b = parts.find("lora_B");
  if (a == parts.end() || b == parts.end() || parts.size() != 2)
    throw_error<format_error>(file, ": ", in_quotes(layer), " has ", in_quotes(parts.begin()->first), parts.size() == 1 ? " alone" : " and others",
                              ", expected lora_A and lora_B");
  const auto &sa = a->second->shape, &sb = b->second->shape;
  if (sa.size() != 2 || sb.size() != 2 || sa[0] != sb[1] || sa[0] < 1 || sa[0] > (1 << 16))
    throw_error<format_error>(file, ": ", in_quotes(layer), " has LoRA factors of shapes ", to_string(sa), " and ", to_string(sb),
                              ", expected (R, in) and (out, R)");
  return {a->second, b->second};
}

/// One file mapped twice, with the same arrays in the same places: `checked` is read through, its pages go with it; `kept` stays untouched.
struct twin_maps {
  checkpoint_files checked, kept;
  std::map<const array_ref*, std::size_t> number;  // of each array of `checked`, and of its twin

  template <class = void>
  explicit twin_maps(const std::filesystem::path& path) : checked(path), kept(path) {
    const auto &a = checked.arrays(), &b = kept.arrays();
    bool same = a.size() == b.size();
    const auto place = [](const auto& all, std::size_t i) { return all[i].second.bytes.data() - all[0].second.bytes.data(); };
    for (std::size_t i = 0; same && i < a.size(); ++i) {
      same = a[i].first == b[i].first && a[i].second.type == b[i].second.type && a[i].second.shape == b[i].second.shape && place(a, i) == place(b, i);
      number.emplace(&a[i].second, i);
    }
    if (!same) throw_error<io_error>("\"", path.string(), "\" was replaced while it was read");
  }
};

}  // namespace detail

/// Reads the LoRA adapter in a PEFT folder for serving. Factors stored as T stay in the file, which is mapped for as long as anybody
/// has the adapter; others are converted once. Which layers have some follows from the tensors; whether they fit a model is for its
/// bank to say. Every value is looked at for NaN, through a map that is let go again: opening costs a reading of the file, and leaves
/// only the pages resident that are used. Throws format_error as load_peft() does, and for adapters of other kinds and
/// parameters of the model itself; io_error for files that cannot be read or are replaced meanwhile.
template <class T>
served_adapter<T> open_served_adapter(const std::filesystem::path& folder) {
  const peft_config config = read_peft_config(read_json(folder / "adapter_config.json"));
  const auto path = folder / "adapter_model.safetensors";
  const std::string name = path.string();
  std::error_code ignored;
  const auto written = std::filesystem::last_write_time(path, ignored);
  const detail::twin_maps file(path);
  const detail::peft_arrays arrays(file.checked, name);
  detail::require_servable(config, arrays, name);

  served_adapter<T> made;
  const auto owners = std::make_shared<std::vector<frozen_array>>();
  bool file_is_kept = false;
  const auto values = [&](const array_ref* of) -> tensor_view<const T, 2> {
    frozen_array a = file.kept.frozen(file.kept.arrays()[file.number.at(of)].first);
    const bool in_file = a.bytes().data() == file.kept.arrays()[file.number.at(of)].second.bytes.data();
    if (!a.template holds<T>()) a = frozen_array(a.template to_tensor<T, 2>());
    else if (in_file && std::exchange(file_is_kept, true)) return a.template view<T, 2>();  // one owner keeps the whole file
    return owners->emplace_back(std::move(a)).template view<T, 2>();
  };
  for (const auto& [layer, parts] : arrays.layers) {
    const auto [a, b] = detail::lora_factors(name, layer, parts);
    lora_options options = config.lora;
    options.rank = a->shape[0];
    if (const double* alpha = find_module_value(config.alpha_pattern, layer)) options.alpha = *alpha;
    if (!std::isfinite(options.scale()))
      throw_error<format_error>(name, ": ", detail::in_quotes(layer), " has alpha ", options.alpha, ", expected a finite number");
    made.layers.push_back({layer, values(a), values(b), options.scale()});
  }
  if (std::filesystem::last_write_time(path, ignored) != written) throw_error<io_error>("\"", name, "\" was replaced while it was read");
  owners->shrink_to_fit();
  made.owner = owners;
  return made;
}

/// LoRA adapters by name, each as open_served_adapter() gives it: adapter_bank::with() takes them without a copy, and keeps what it took
/// whatever becomes of the registry. Memory besides the pages in use: some 200 bytes an adapted layer. Reading from several
/// threads is safe while nobody adds or removes.
template <class T>
class adapter_registry {
 public:
  /// Adds the adapter of a folder, or puts it in the place of the one that has the name. Errors as above; then nothing has changed.
  void add(std::string name, const std::filesystem::path& folder) { adapters_.insert_or_assign(std::move(name), open_served_adapter<T>(folder)); }
  /// Adds every folder in a folder that has an adapter_config.json, under the folder's name. Returns how many. Throws io_error when it
  /// cannot be listed, and as above for the first folder that is refused; then nothing has changed.
  index_t add_all(const std::filesystem::path& folder) {
    std::error_code failure;
    std::map<std::string, served_adapter<T>, std::less<>> found;
    for (std::filesystem::directory_iterator at(folder, failure), end; !failure && at != end; at.increment(failure))
      if (std::error_code ignored; std::filesystem::exists(at->path() / "adapter_config.json", ignored))
        found.emplace(at->path().filename().string(), open_served_adapter<T>(at->path()));
    if (failure) throw_error<io_error>("cannot list the folder \"", folder.string(), "\": ", failure.message());
    const auto count = static_cast<index_t>(found.size());
    for (auto& [name, adapter] : found) adapters_.insert_or_assign(name, std::move(adapter));
    return count;
  }
  /// Whether there was one.
  bool remove(std::string_view name) {
    const auto found = adapters_.find(name);
    if (found == adapters_.end()) return false;
    adapters_.erase(found);
    return true;
  }

  index_t size() const noexcept { return static_cast<index_t>(adapters_.size()); }
  bool contains(std::string_view name) const { return adapters_.contains(name); }
  /// Throws option_error when there is no such adapter.
  const served_adapter<T>& at(std::string_view name) const {
    const auto found = adapters_.find(name);
    if (found == adapters_.end()) throw_error<option_error>("adapter_registry: there is no adapter ", detail::in_quotes(name), " among ", size());
    return found->second;
  }
  /// Sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, adapter] : adapters_) all.push_back(name);
    return all;
  }

 private:
  std::map<std::string, served_adapter<T>, std::less<>> adapters_;
};

}  // namespace graft
