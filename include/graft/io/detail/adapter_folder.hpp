// SPDX-License-Identifier: Apache-2.0
// The two files of a PEFT folder that holds no layers' adapters: settings written and read with care, both files put in place together.
// Read next: io/tuned_folder.hpp, io/prompt_folder.hpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "graft/io/atomic_file.hpp"
#include "graft/io/detail/json_text.hpp"
#include "graft/io/json.hpp"
#include "graft/io/safetensors.hpp"

namespace graft {

/// What a folder of prompts, prefixes or tuned norms says besides its numbers. Either may be empty.
struct adapter_folder_options {
  std::string base_model_name;            // informative; where the base came from
  std::string task_type = "CAUSAL_LM";    // or "SEQ_CLS", "FEATURE_EXTRACTION" ...
};

namespace detail {

/// The text of an adapter_config.json, key by key.
class adapter_settings_text {
 public:
  adapter_settings_text(std::string_view peft_type, const adapter_folder_options& o) {
    name("base_model_name_or_path", o.base_model_name);
    add("inference_mode", true);
    add("peft_type", peft_type);
    name("task_type", o.task_type);
  }
  template <class V>
  void add(std::string_view key, const V& value) { put(key, json_text(value, "adapter_config.json")); }
  std::string str() const { return text_ + "\n}\n"; }

 private:
  void put(std::string_view key, std::string_view value) { text_ += concat(text_.empty() ? "{\n  \"" : ",\n  \"", key, "\": ", value); }
  void name(std::string_view key, const std::string& value) { put(key, value.empty() ? "null" : json_text(value, "adapter_config.json")); }
  std::string text_;
};

/// Writes both files of the folder, which is made if need be. Both are on the disk before either takes its place. Throws io_error.
template <class = void>
void write_adapter_folder(const std::filesystem::path& folder, const state_dict& state, const std::string& settings_text) {
  const auto plan = plan_safetensors(records<array_ref>(state.items.begin(), state.items.end()), state.metadata);
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) throw_error<io_error>("cannot make the folder \"", folder.string(), "\": ", failure.message());
  temporary_file weights(folder / "adapter_model.safetensors"), settings(folder / "adapter_config.json");
  write_safetensors(plan, [&](std::span<const std::byte> part) { weights.write(part); });
  settings.write(std::as_bytes(std::span(settings_text)));
  weights.complete();
  settings.complete();
  weights.take_place();
  settings.take_place();
}

/// The adapter_config.json of a folder of this type. Throws format_error naming file and key for another type, and for settings beyond
/// `known` that say anything: dropping what is unknown could change the numbers in silence.
template <class = void>
json_node read_adapter_settings(const std::filesystem::path& folder, std::string_view peft_type,
                                std::initializer_list<std::string_view> known) {
  static constexpr std::string_view always[] = {"peft_type", "task_type",    "auto_mapping",  "base_model_name_or_path",
                                                "revision",  "peft_version", "inference_mode"};
  json_node root = read_json(folder / "adapter_config.json");
  const auto type = root.required("peft_type");
  if (type.as<std::string>() != peft_type) type.reject(concat('"', peft_type, '"'));
  for (const json_node& node : root.members())
    if (std::ranges::find(always, node.name()) == std::end(always) && std::ranges::find(known, node.name()) == known.end() &&
        !node.says_nothing())
      node.reject("null, false or nothing: this setting is not supported");
  return root;
}

}  // namespace detail
}  // namespace graft
