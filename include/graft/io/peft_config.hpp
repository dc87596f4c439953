// SPDX-License-Identifier: Apache-2.0
// adapter_config.json, both ways, for the kinds of adapters that PEFT has too. Read next: io/peft_layers.hpp.
#pragma once
#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/io/detail/json_text.hpp"
#include "graft/io/json.hpp"
#include "graft/peft/ia3.hpp"
#include "graft/peft/lora.hpp"
#include "graft/peft/vera.hpp"

namespace graft {

/// The kinds of folders that are understood. DoRA is a LoRA folder with lengths.
enum class peft_type { lora, ia3, vera, oft };

/// How an OFT folder divides a layer's inputs into blocks: into so many, or into blocks of a size. One of the two is 0.
struct oft_blocks {
  index_t count = 0, size = 32;
  bool shared = false;  // one rotation for all blocks
};

/// What an adapter_config.json says, as far as it bears on the numbers. Of lora, ia3, vera and oft the type's own counts.
struct peft_config {
  peft_type type = peft_type::lora;
  lora_options lora;
  bool dora = false;
  ia3_options ia3;
  vera_options vera;
  oft_blocks oft;
  std::vector<std::string> target_modules;   // names; empty when they were written as a pattern
  bool excludes_modules = false;             // some that the targets name have no adapter
  std::vector<std::string> modules_to_save;  // modules stored whole
  bool trains_biases = false;                // biases of the base are stored too
  module_values<double> alpha_pattern;       // of LoRA
  std::string base_model_name, task_type;    // may be empty
};

namespace detail {

inline constexpr std::array<std::pair<std::string_view, peft_type>, 4> peft_types{
    {{"LORA", peft_type::lora}, {"IA3", peft_type::ia3}, {"VERA", peft_type::vera}, {"OFT", peft_type::oft}}};

template <class = void>
std::string_view name_of(peft_type type) { return std::ranges::find(peft_types, type, &std::pair<std::string_view, peft_type>::second)->first; }

/// Keys without a bearing on inference, and keys this reader handles. Any other key must be null, false or empty: dropping
/// what is unknown could change the numbers in silence.
template <class = void>
bool is_known_peft_key(peft_type type, std::string_view key) {
  static constexpr std::array<std::string_view, 14> always{
      "peft_type", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "peft_version", "inference_mode", "target_modules",
      "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "fan_in_fan_out", "bias"};
  static constexpr std::array<std::string_view, 17> of_lora{
      "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_dropout", "init_lora_weights", "loftq_config", "eva_config",
      "corda_config", "lora_ga_config", "velora_config", "megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying"};
  static constexpr std::array<std::string_view, 2> of_ia3{"feedforward_modules", "init_ia3_weights"};
  static constexpr std::array<std::string_view, 6> of_vera{"r", "projection_prng_key", "save_projection", "vera_dropout", "d_initial", "init_weights"};
  static constexpr std::array<std::string_view, 8> of_oft{"r", "oft_block_size", "module_dropout", "init_weights", "eps", "block_share",
                                                          "use_cayley_neumann", "num_cayley_neumann_terms"};
  const auto in = [key](const auto& list) { return std::ranges::find(list, key) != list.end(); };
  if (in(always)) return true;
  switch (type) {
    case peft_type::lora: return in(of_lora);
    case peft_type::ia3: return in(of_ia3);
    case peft_type::vera: return in(of_vera);
    case peft_type::oft: break;
  }
  return in(of_oft);
}

template <class = void>
void require_plain_pattern(const json_node& where, std::string_view key) {
  for (std::size_t i = 0; i < key.size(); ++i) {
    const char c = key[i];
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-' ||
                       (c == '^' && i == 0) || (c == '\\' && i + 1 < key.size() && key[i + 1] == '.');
    if (!plain) where.reject(concat("names of modules as keys; ", in_quotes(key), " is a regular expression"));
  }
}

template <class = void>
void read_lora_config(const json_node& root, peft_config& c) {
  if (const auto init = root.optional("init_lora_weights"); init && init->is_string()) {
    const auto name = init->as<std::string>();  // these overwrite the base: the factors alone mean nothing
    for (const std::string_view changes : {"pissa", "olora", "corda", "lora_ga", "loftq"})
      if (name.starts_with(changes)) init->reject("an initialisation that leaves the base as it is; convert the adapter first");
  }
  c.lora.rank = root.optional<index_t>("r").value_or(8);
  c.lora.alpha = root.optional<double>("lora_alpha").value_or(8);
  c.lora.rank_stabilised = root.optional<bool>("use_rslora").value_or(false);
  c.lora.dropout = root.optional<double>("lora_dropout").value_or(0);
  c.dora = root.optional<bool>("use_dora").value_or(false);
  root.located([&] { c.lora.validate(); });
  if (const auto pattern = root.optional("alpha_pattern"))
    for (const json_node& node : pattern->members()) {
      require_plain_pattern(*pattern, node.name());
      std::string name(node.name());
      std::erase(name, '\\');
      c.alpha_pattern.emplace_back(std::move(name), node.as<double>());
    }
}

template <class = void>
void read_vera_config(const json_node& root, peft_config& c) {
  if (const auto save = root.optional("save_projection"); save && !save->as<bool>())
    save->reject("true: the projections cannot be drawn again from another program's random numbers");
  c.vera.rank = root.optional<index_t>("r").value_or(256);
  c.vera.d_initial = root.optional<double>("d_initial").value_or(0.1);
  c.vera.dropout = root.optional<double>("vera_dropout").value_or(0);
  root.located([&] { c.vera.validate(); });
}

template <class = void>
void read_oft_config(const json_node& root, peft_config& c) {
  const auto size = root.required("oft_block_size");  // without it the folder is of a time when the tensors meant something else
  if (const auto neumann = root.required("use_cayley_neumann"); neumann.as<bool>())
    neumann.reject("false: the series is not the rotation that Cayley's transform makes of the same numbers");
  c.oft.size = size.integer<index_t>(0, 1 << 30);
  const auto count = root.optional("r");
  c.oft.count = count ? count->integer<index_t>(0, 1 << 30) : 0;
  if ((c.oft.size == 0) == (c.oft.count == 0)) size.reject(concat(c.oft.size == 0 ? "1 or more" : "0", " where r is ", c.oft.count));
  c.oft.shared = root.optional<bool>("block_share").value_or(false);
}

template <class = void>
std::vector<std::string> optional_names(const json_node& root, std::string_view key) {
  const auto names = root.optional(key);
  return names && names->is_array() ? names->as<std::vector<std::string>>() : std::vector<std::string>{};
}

}  // namespace detail

/// Reads adapter_config.json. Throws format_error naming file and key for a type other than LORA, IA3, VERA and OFT and for settings
/// that change the numbers and are not supported here.
template <class = void>
peft_config read_peft_config(const json_node& root) {
  peft_config c;
  const auto type = root.required("peft_type");
  const auto found = std::ranges::find(detail::peft_types, type.as<std::string>(), &std::pair<std::string_view, peft_type>::first);
  if (found == detail::peft_types.end()) type.reject("\"LORA\", \"IA3\", \"VERA\" or \"OFT\"");
  c.type = found->second;
  for (const json_node& node : root.members())
    if (!detail::is_known_peft_key(c.type, node.name()) && !node.says_nothing())
      node.reject("null, false or nothing: this setting is not supported");
  if (const auto bias = root.optional("bias")) {
    const auto which = bias->as<std::string>();
    if (which != "none" && which != "all" && which != "lora_only" && which != "vera_only" && which != "oft_only") bias->reject("\"none\", \"all\" or that of this type only");
    c.trains_biases = which != "none";
  }
  if (c.type == peft_type::lora) detail::read_lora_config(root, c);
  if (c.type == peft_type::ia3) c.ia3.feedforward = detail::optional_names(root, "feedforward_modules");
  if (c.type == peft_type::vera) detail::read_vera_config(root, c);
  if (c.type == peft_type::oft) detail::read_oft_config(root, c);
  c.target_modules = detail::optional_names(root, "target_modules");
  if (const auto excluded = root.optional("exclude_modules")) c.excludes_modules = !excluded->says_nothing();
  c.modules_to_save = detail::optional_names(root, "modules_to_save");
  c.base_model_name = root.optional<std::string>("base_model_name_or_path").value_or("");
  c.task_type = root.optional<std::string>("task_type").value_or("");
  return c;
}

/// The text of an adapter_config.json that Python's peft loads. rank_pattern follows from `ranks`, one a module that differs.
/// Throws format_error for names that are not UTF-8.
template <class = void>
std::string write_peft_config(const peft_config& c, const std::map<std::string, index_t>& ranks = {}) {
  detail::json_object_text out("adapter_config.json");
  out.add_or_null("base_model_name_or_path", c.base_model_name);
  if (c.type != peft_type::ia3) out.add("bias", c.trains_biases ? "all" : "none");
  out.add("fan_in_fan_out", false);
  out.add("inference_mode", true);
  out.add_or_null("modules_to_save", c.modules_to_save);
  out.add("peft_type", std::string(detail::name_of(c.type)));
  out.add("target_modules", c.target_modules);
  out.add_or_null("task_type", c.task_type);
  if (c.type == peft_type::lora) {
    out.add("alpha_pattern", std::map<std::string, double>(c.alpha_pattern.begin(), c.alpha_pattern.end()));
    out.add("init_lora_weights", true);
    out.add("lora_alpha", c.lora.alpha);
    out.add("lora_dropout", c.lora.dropout);
    out.add("r", c.lora.rank);
    out.add("rank_pattern", ranks);
    out.add("use_dora", c.dora);
    out.add("use_rslora", c.lora.rank_stabilised);
  }
  if (c.type == peft_type::ia3) {
    out.add("feedforward_modules", c.ia3.feedforward);
    out.add("init_ia3_weights", true);
  }
  if (c.type == peft_type::vera) {
    out.add("d_initial", c.vera.d_initial);
    out.add("projection_prng_key", index_t{0});
    out.add("r", c.vera.rank);
    out.add("save_projection", true);
    out.add("vera_dropout", c.vera.dropout);
  }
  if (c.type == peft_type::oft) {
    out.add("block_share", c.oft.shared);
    out.add("coft", false);
    out.add("init_weights", true);
    out.add("module_dropout", 0.0);
    out.add("oft_block_size", c.oft.size);
    out.add("r", c.oft.count);
    out.add("use_cayley_neumann", false);
  }
  return out.str();
}

}  // namespace graft
