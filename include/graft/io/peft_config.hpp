// SPDX-License-Identifier: Apache-2.0
// adapter_config.json, both ways, for LoRA. Read next: io/peft_folder.hpp.
#pragma once
#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "graft/io/detail/json_text.hpp"
#include "graft/io/json.hpp"
#include "graft/peft/lora.hpp"
#include "graft/peft/targets.hpp"

namespace graft {

/// What an adapter_config.json says about LoRA, as far as it bears on the numbers.
struct peft_config {
  lora_options lora;
  std::vector<std::string> target_modules;        // names; empty when they were written as a pattern
  std::vector<std::string> modules_to_save;       // modules stored whole
  std::map<std::string, double> alpha_pattern;    // alpha of modules that differ, by "^full.name", "name" or "end.of.name"
  std::string base_model_name, task_type;         // may be empty
};

namespace detail {

/// Keys without a bearing on inference, and keys this reader handles. Any other key must be null, false or empty: dropping
/// what is unknown could change the numbers in silence.
inline bool is_known_peft_key(std::string_view key) {
  static constexpr std::array<std::string_view, 30> known{
      "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "r", "lora_alpha",
      "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
      "modules_to_save", "fan_in_fan_out", "lora_dropout", "init_lora_weights", "loftq_config", "eva_config", "corda_config",
      "lora_ga_config", "velora_config", "megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying", "bias"};
  return std::ranges::find(known, key) != known.end();
}

/// Whether a key of alpha_pattern names a module: Python's re.match("(.*\.)?(KEY)$"), for keys that are plain names.
inline bool pattern_names(std::string_view key, std::string_view module_path) {
  std::string plain;
  for (std::size_t i = 0; i < key.size(); ++i)
    if (key[i] != '\\') plain += key[i];
  if (plain.starts_with('^')) return plain.substr(1) == module_path;
  return target_modules::names_path(plain, module_path);
}
inline void require_plain_pattern(const json_node& where, std::string_view key) {
  for (std::size_t i = 0; i < key.size(); ++i) {
    const char c = key[i];
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-' ||
                       (c == '^' && i == 0) || (c == '\\' && i + 1 < key.size() && key[i + 1] == '.');
    if (!plain) where.reject(concat("names of modules as keys; ", in_quotes(key), " is a regular expression"));
  }
}

}  // namespace detail

/// Reads adapter_config.json. Throws format_error naming file and key for a type other than LORA and for settings that
/// change the numbers and are not supported here.
inline peft_config read_peft_config(const json_node& root) {
  const auto type = root.required("peft_type");
  if (type.as<std::string>() != "LORA") type.reject("\"LORA\"");
  for (const json_node& node : root.members())
    if (!detail::is_known_peft_key(node.name()) && !node.says_nothing())
      node.reject("null, false or nothing: this setting is not supported");
  if (const auto bias = root.optional("bias"); bias && bias->as<std::string>() != "none") bias->reject("\"none\"");
  if (const auto init = root.optional("init_lora_weights"); init && init->is_string()) {
    const auto name = init->as<std::string>();  // these overwrite the base: the factors alone mean nothing
    for (const std::string_view changes : {"pissa", "olora", "corda", "lora_ga", "loftq"})
      if (name.starts_with(changes)) init->reject("an initialisation that leaves the base as it is; convert the adapter first");
  }
  peft_config c;
  c.lora.rank = root.optional<index_t>("r").value_or(8);
  c.lora.alpha = root.optional<double>("lora_alpha").value_or(8);
  c.lora.rank_stabilised = root.optional<bool>("use_rslora").value_or(false);
  c.lora.dropout = root.optional<double>("lora_dropout").value_or(0);
  root.located([&] { c.lora.validate(); });
  if (const auto targets = root.optional("target_modules"); targets && targets->is_array())
    c.target_modules = targets->as<std::vector<std::string>>();
  c.modules_to_save = root.optional<std::vector<std::string>>("modules_to_save").value_or(std::vector<std::string>{});
  if (const auto pattern = root.optional("alpha_pattern"))
    for (const json_node& node : pattern->members()) {
      detail::require_plain_pattern(*pattern, node.name());
      c.alpha_pattern[std::string(node.name())] = node.as<double>();
    }
  c.base_model_name = root.optional<std::string>("base_model_name_or_path").value_or("");
  c.task_type = root.optional<std::string>("task_type").value_or("");
  return c;
}

/// The text of an adapter_config.json that Python's peft loads. rank_pattern follows from `ranks`, one a module that differs.
/// Throws format_error for names that are not UTF-8.
inline std::string write_peft_config(const peft_config& c, const std::map<std::string, index_t>& ranks = {}) {
  std::string text;
  const auto add = [&](std::string_view key, const auto& value) {
    text += concat(text.empty() ? "{\n  \"" : ",\n  \"", key, "\": ", value);
  };
  const auto written = [](const auto& value) { return detail::json_text(value, "adapter_config.json"); };
  const auto or_null = [&](const auto& value) { return value.empty() ? std::string("null") : written(value); };
  add("alpha_pattern", written(c.alpha_pattern));
  add("base_model_name_or_path", or_null(c.base_model_name));
  add("bias", written("none"));
  add("fan_in_fan_out", written(false));
  add("inference_mode", written(true));
  add("init_lora_weights", written(true));
  add("lora_alpha", written(c.lora.alpha));
  add("lora_dropout", written(c.lora.dropout));
  add("modules_to_save", or_null(c.modules_to_save));
  add("peft_type", written("LORA"));
  add("r", written(c.lora.rank));
  add("rank_pattern", written(ranks));
  add("target_modules", written(c.target_modules));
  add("task_type", or_null(c.task_type));
  add("use_rslora", written(c.lora.rank_stabilised));
  return text + "\n}\n";
}

}  // namespace graft
