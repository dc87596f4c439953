// SPDX-License-Identifier: Apache-2.0
// config.json of published models as configs of ours. Read next: io/load_model.hpp.
#pragma once
#include <cmath>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graft/io/json.hpp"
#include "graft/models/bert.hpp"
#include "graft/models/gpt2.hpp"
#include "graft/models/llama.hpp"

namespace graft {

namespace detail {

/// One number or a list of them, as published configs write end tokens.
inline std::vector<std::int32_t> token_list(const std::optional<json_node>& node) {
  if (!node) return {};
  if (node->is_array()) return node->as<std::vector<std::int32_t>>();
  return {node->as<std::int32_t>()};
}

/// The rotary part: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).
template <class = void>
rotary_config read_rotary(const json_node& root) {
  rotary_config c;
  c.theta = root.optional<double>("rope_theta").value_or(c.theta);
  auto scaling = root.optional("rope_parameters");
  if (!scaling) scaling = root.optional("rope_scaling");
  if (scaling) {
    for (const json_node& node : scaling->members())
      if (node.is_object()) node.reject("a number or a text: rotary settings by kind of layer are not supported");
    c.theta = scaling->optional<double>("rope_theta").value_or(c.theta);
    auto type = scaling->optional("rope_type");
    if (!type) type = scaling->optional("type");
    c.scaling = type ? type->as<std::string>() : "default";
    if (c.scaling != "default" && c.scaling != "linear" && c.scaling != "llama3") type->reject("one of default, linear, llama3");
    if (c.scaling != "default") c.factor = scaling->required<double>("factor");
    if (c.scaling == "llama3") {
      c.low_frequency_factor = scaling->required<double>("low_freq_factor");
      c.high_frequency_factor = scaling->required<double>("high_freq_factor");
      c.original_max_positions = scaling->required<index_t>("original_max_position_embeddings");
      if (!(c.high_frequency_factor > c.low_frequency_factor) || !(c.low_frequency_factor > 0) || c.original_max_positions < 1)
        scaling->reject("0 < low_freq_factor < high_freq_factor and positive positions");
    }
    if (!(c.factor > 0)) scaling->reject("a factor above 0");
  }
  if (!(c.theta > 0)) throw_error<format_error>(root.where(), ": rope_theta is ", c.theta, ", expected more than 0");
  if (const auto part = root.optional("partial_rotary_factor"); part && part->as<double>() != 1)
    part->reject("1: partly rotated heads are not supported");
  return c;
}

inline void require_value(const json_node& root, std::string_view key, std::string_view value) {
  if (const auto node = root.optional(key); node && node->as<std::string>() != value) node->reject(in_quotes(value));
}

/// The sizes every kind of transformer has, under the same keys.
void read_sizes(const json_node& root, auto& c) {
  c.vocab_size = root.required<index_t>("vocab_size");
  c.hidden_size = root.required<index_t>("hidden_size");
  c.intermediate_size = root.required<index_t>("intermediate_size");
  c.num_hidden_layers = root.required<index_t>("num_hidden_layers");
  c.num_attention_heads = root.required<index_t>("num_attention_heads");
}

void read_special_tokens(const json_node& root, auto& c) {
  if (const auto bos = token_list(root.optional("bos_token_id")); !bos.empty()) c.bos_token_id = bos.front();
  if (const auto eos = token_list(root.optional("eos_token_id")); !eos.empty()) c.eos_token_ids = eos;
}

}  // namespace detail

/// "llama", "bert" ...: the kind of model a folder holds. Throws io_error or format_error.
inline std::string model_type(const std::filesystem::path& folder) {
  return read_json(folder / "config.json").required<std::string>("model_type");
}

/// A config of the Llama family: model types llama, mistral and qwen2. Where attention slides over a window, sequences are
/// limited to the window, within which it is the plain attention computed here. Throws format_error naming file and key.
template <class = void>
llama_config read_llama_config(const json_node& root) {
  const auto type = root.required("model_type");
  const auto name = type.as<std::string>();
  if (name != "llama" && name != "mistral" && name != "qwen2") type.reject("one of llama, mistral, qwen2");
  detail::require_value(root, "hidden_act", "silu");
  llama_config c;
  detail::read_sizes(root, c);
  c.num_key_value_heads = root.optional<index_t>("num_key_value_heads").value_or(c.num_attention_heads);
  if (const auto size = root.optional<index_t>("head_dim")) {
    c.head_dim = *size;
  } else if (c.num_attention_heads > 0) {
    c.head_dim = c.hidden_size / c.num_attention_heads;
    if (c.hidden_size % c.num_attention_heads != 0)
      throw_error<format_error>(root.where(), ": hidden_size ", c.hidden_size, " is not a multiple of ", c.num_attention_heads,
                                " attention heads, and there is no head_dim");
  }
  c.max_position_embeddings = root.optional<index_t>("max_position_embeddings").value_or(2048);
  c.rms_norm_eps = root.optional<double>("rms_norm_eps").value_or(1e-6);
  c.rotary = detail::read_rotary(root);
  c.tie_word_embeddings = root.optional<bool>("tie_word_embeddings").value_or(false);
  const bool attention_bias = root.optional<bool>("attention_bias").value_or(false);
  c.qkv_bias = name == "qwen2" || attention_bias;  // Qwen2's code always has them, whatever its config says
  c.output_bias = name != "qwen2" && attention_bias;
  c.mlp_bias = root.optional<bool>("mlp_bias").value_or(false);
  const bool slides = name == "mistral" || root.optional<bool>("use_sliding_window").value_or(false);
  if (const auto window = root.optional<index_t>("sliding_window"); slides && window)
    c.max_position_embeddings = std::min(c.max_position_embeddings, *window);
  detail::read_special_tokens(root, c);
  root.located([&] { c.validate(); });
  return c;
}

/// The same from a folder; end tokens come from generation_config.json where that has them.
template <class = void>
llama_config read_llama_config(const std::filesystem::path& folder) {
  auto c = read_llama_config(read_json(folder / "config.json"));
  if (const auto generation = folder / "generation_config.json"; std::filesystem::exists(generation))
    detail::read_special_tokens(read_json(generation), c);
  return c;
}

/// A GPT-2 config. Throws format_error naming file and key.
template <class = void>
gpt2_config read_gpt2_config(const json_node& root) {
  detail::require_value(root, "model_type", "gpt2");
  for (const std::string_view key : {"scale_attn_by_inverse_layer_idx", "add_cross_attention"})
    if (const auto node = root.optional(key); node && node->as<bool>()) node->reject("false: this setting is not supported");
  if (const auto node = root.optional("scale_attn_weights"); node && !node->as<bool>()) node->reject("true: this setting is not supported");
  if (const auto node = root.optional("tie_word_embeddings"); node && !node->as<bool>()) node->reject("true: an output layer of its own is not supported");
  gpt2_config c;
  c.vocab_size = root.required<index_t>("vocab_size");
  c.hidden_size = root.required<index_t>("n_embd");
  c.intermediate_size = root.optional<index_t>("n_inner").value_or(c.hidden_size > 0 && c.hidden_size < (index_t{1} << 40) ? 4 * c.hidden_size : 0);
  c.num_hidden_layers = root.required<index_t>("n_layer");
  c.num_attention_heads = root.required<index_t>("n_head");
  c.max_position_embeddings = root.optional<index_t>("n_positions").value_or(1024);
  c.layer_norm_eps = root.optional<double>("layer_norm_epsilon").value_or(1e-5);
  c.hidden_act = root.optional<std::string>("activation_function").value_or("gelu_new");
  detail::read_special_tokens(root, c);
  root.located([&] { c.validate(); });
  return c;
}
template <class = void>
gpt2_config read_gpt2_config(const std::filesystem::path& folder) { return read_gpt2_config(read_json(folder / "config.json")); }

/// A BERT config. Throws format_error naming file and key.
template <class = void>
bert_config read_bert_config(const json_node& root) {
  detail::require_value(root, "model_type", "bert");
  detail::require_value(root, "position_embedding_type", "absolute");
  bert_config c;
  detail::read_sizes(root, c);
  c.max_position_embeddings = root.optional<index_t>("max_position_embeddings").value_or(512);
  c.type_vocab_size = root.optional<index_t>("type_vocab_size").value_or(2);
  c.layer_norm_eps = root.optional<double>("layer_norm_eps").value_or(1e-12);
  c.hidden_act = root.optional<std::string>("hidden_act").value_or("gelu");
  if (c.hidden_act == "gelu_pytorch_tanh") c.hidden_act = "gelu_new";
  root.located([&] { c.validate(); });
  return c;
}
template <class = void>
bert_config read_bert_config(const std::filesystem::path& folder) { return read_bert_config(read_json(folder / "config.json")); }

/// The labels of a classification checkpoint: the size of `id2label`, or 2.
inline index_t read_label_count(const std::filesystem::path& folder) {
  const auto labels = read_json(folder / "config.json").optional("id2label");
  return labels ? static_cast<index_t>(labels->members().size()) : 2;
}

}  // namespace graft
