// SPDX-License-Identifier: Apache-2.0
// The two files of a PEFT folder that holds no layers' adapters: settings written and read with care.
// Read next: io/tuned_folder.hpp, io/prompt_folder.hpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "graft/io/detail/json_text.hpp"
#include "graft/io/detail/weights_folder.hpp"
#include "graft/io/json.hpp"
#include "graft/nn/state.hpp"

namespace graft {

/// What a folder of prompts, prefixes or tuned norms says besides its numbers. Either may be empty.
struct adapter_folder_options {
  std::string base_model_name;            // informative; where the base came from
  std::string task_type = "CAUSAL_LM";    // or "SEQ_CLS", "FEATURE_EXTRACTION" ...
};

namespace detail {

/// What every adapter_config.json begins with.
template <class = void>
json_object_text adapter_settings_text(std::string_view peft_type, const adapter_folder_options& o) {
  json_object_text settings(adapter_files.settings);
  settings.add_or_null("base_model_name_or_path", o.base_model_name);
  settings.add("inference_mode", true);
  settings.add("peft_type", peft_type);
  settings.add_or_null("task_type", o.task_type);
  return settings;
}

template <class = void>
void write_adapter_folder(const std::filesystem::path& folder, const state_dict& state, const std::string& settings_text) {
  write_weights_folder(folder, adapter_files, view(state), state.metadata, settings_text);
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
