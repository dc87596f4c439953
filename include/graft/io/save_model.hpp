// SPDX-License-Identifier: Apache-2.0
// A whole model, its adapters folded in, as a checkpoint folder that transformers and our loaders read: config.json and
// model.safetensors. Read next: io/load_model.hpp, io/peft_folder.hpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/finite.hpp"
#include "graft/io/detail/gpt2_layout.hpp"
#include "graft/io/detail/json_text.hpp"
#include "graft/io/detail/weights_folder.hpp"
#include "graft/models/bert.hpp"
#include "graft/models/gpt2.hpp"
#include "graft/models/llama.hpp"
#include "graft/nn/filter.hpp"
#include "graft/nn/quantize.hpp"

namespace graft {

struct save_model_options {
  dtype type = dtype::f32;  // of every weight: f64, f32, bf16 or f16. Narrow types round the adapters' part away with the rest
};

/// config.json of a config. Biases decide the kind: those of qwen2 are on q, k and v alone, llama has none or on all of attention.
/// Throws option_error for biases that no published kind has.
template <class = void>
std::string write_llama_config(const llama_config& c, dtype type = dtype::f32);
/// The same for GPT-2, under the names of its own.
template <class = void>
std::string write_gpt2_config(const gpt2_config& c, dtype type = dtype::f32);
/// The same for BERT: a bare encoder, or with labels a sequence classifier.
template <class = void>
std::string write_bert_config(const bert_config& c, dtype type = dtype::f32, index_t labels = 0);

namespace detail {

template <class = void>
std::string_view torch_name(dtype type) {
  switch (type) {
    case dtype::f64: return "float64";
    case dtype::f32: return "float32";
    case dtype::bf16: return "bfloat16";
    case dtype::f16: return "float16";
    default: throw_error<option_error>("save_model: ", name_of(type), " is not one of f64, f32, bf16, f16");
  }
}

/// A number, a list of several, or null.
template <class = void>
std::string token_text(const std::vector<std::int32_t>& tokens) {
  std::string text;
  for (const std::int32_t t : tokens) text += concat(text.empty() ? "" : ", ", t);
  return tokens.empty() ? "null" : tokens.size() == 1 ? text : "[" + text + "]";
}

template <class = void>
std::string rotary_text(const rotary_config& c) {
  if (c.scaling == "default") return "null";
  const auto number = [](double v) { return json_text(v, "config.json"); };
  std::string text = concat("{\"factor\": ", number(c.factor));
  if (c.scaling == "llama3")
    text += concat(", \"high_freq_factor\": ", number(c.high_frequency_factor), ", \"low_freq_factor\": ", number(c.low_frequency_factor),
                   ", \"original_max_position_embeddings\": ", c.original_max_positions);
  return text + concat(", \"rope_type\": ", json_text(c.scaling, "config.json"), "}");
}

/// The sizes every kind of transformer has, as read_sizes() reads them.
void add_sizes(json_object_text& out, const auto& c) {
  out.add("hidden_size", c.hidden_size);
  out.add("intermediate_size", c.intermediate_size);
  out.add("num_attention_heads", c.num_attention_heads);
  out.add("num_hidden_layers", c.num_hidden_layers);
  out.add("max_position_embeddings", c.max_position_embeddings);
  out.add("vocab_size", c.vocab_size);
}

/// Throws state_error where a weight has another size than in `published`, a model of the same config: after pruning, which no
/// config can say.
template <module M>
void require_published_sizes(M& model, M published) {
  std::map<std::string, const parameter_base<typename M::value_type>*, std::less<>> expected;
  for (const auto& p : parameters(published)) expected.emplace(p.path, p.parameter);
  for (const auto& p : parameters(model))
    if (const auto at = expected.find(p.path); at != expected.end() && !std::ranges::equal(p.shape(), at->second->shape()))
      throw_error<state_error>("save_model: ", p.path, " has shape ", to_string(p.shape()), ", not ", to_string(at->second->shape()),
                               " as its config says: a pruned model has no published form");
}

/// Every weight under its published name, adapters folded in, as `type`. Shares what has the type already.
template <module M>
records<frozen_array> merged_weights(M& model, M published, dtype type) {
  require_published_sizes(model, std::move(published));
  using T = typename M::value_type;
  records<frozen_array> arrays;
  std::map<std::string, frozen_array, std::less<>> folded;
  std::vector<std::string> slots;  // what lies below is no weight of the published model
  require_own_head(model, "save_model");
  visit_embeddings(model, [&](std::string_view path, embedding_module<T>& e) {
    if (e.adapters.empty()) return;
    slots.push_back(concat(path, ".adapters."));
    folded.emplace(concat(path, ".weight"), frozen_array(e.merged()));
  });
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    if (layer.adapters.empty()) return;
    slots.push_back(concat(path, ".adapters."));
    auto [weight, bias] = detail::merged(layer, "save_model", path);
    folded.emplace(concat(path, ".weight"), frozen_array(std::move(weight)));
    if (bias) folded.emplace(concat(path, ".bias"), frozen_array(std::move(*bias)));
  });
  for (const auto& p : parameters(model)) {
    if (std::ranges::any_of(slots, [&](const std::string& slot) { return p.path.starts_with(slot); })) continue;
    const auto own = folded.find(p.path);
    const frozen_array whole = own != folded.end() ? own->second : p.parameter->share();
    if (first_not_finite(whole.type(), whole.bytes()) >= 0) throw_error<state_error>("save_model: ", p.path, " holds NaN or infinity");
    auto stored = whole.type() == type ? whole : convert_array(whole, type);
    if (first_not_finite(type, stored.bytes()) >= 0) throw_error<state_error>("save_model: ", p.path, " goes beyond the range of ", name_of(type));
    arrays.emplace_back(p.path, std::move(stored));
    if (own != folded.end()) folded.erase(own);
  }
  return arrays;
}

template <class = void>
void write_model_folder(const std::filesystem::path& folder, std::string_view config, const records<frozen_array>& arrays) {
  records<array_ref> items;
  for (const auto& [name, a] : arrays) items.emplace_back(name, array_ref(a.type(), {a.shape().begin(), a.shape().end()}, a.bytes()));
  write_weights_folder(folder, model_files, items, {{"format", "pt"}}, config);
}

}  // namespace detail

template <class>
std::string write_llama_config(const llama_config& c, dtype type) {
  c.validate();
  const bool qwen2 = c.qkv_bias && !c.output_bias;
  if (c.qkv_bias < c.output_bias || (qwen2 && c.mlp_bias))
    throw_error<option_error>("save_model: no published kind of model has ", c.qkv_bias ? "" : "no ", "biases on q, k and v, ", c.output_bias ? "" : "no ",
                              "bias on the attention's output and ", c.mlp_bias ? "" : "no ", "biases in the feed-forward part");
  detail::json_object_text out("config.json");
  out.add("architectures", std::vector<std::string>{qwen2 ? "Qwen2ForCausalLM" : "LlamaForCausalLM"});
  out.add("model_type", qwen2 ? "qwen2" : "llama");
  detail::add_sizes(out, c);
  out.add("num_key_value_heads", c.num_key_value_heads);
  out.add("head_dim", c.head_dim);
  out.add("hidden_act", "silu");
  out.add("rms_norm_eps", c.rms_norm_eps);
  out.add("rope_theta", c.rotary.theta);
  out.add_text("rope_scaling", detail::rotary_text(c.rotary));
  if (qwen2) {
    out.add("use_sliding_window", false);
  } else {
    out.add("attention_bias", c.qkv_bias);
    out.add("mlp_bias", c.mlp_bias);
  }
  out.add("tie_word_embeddings", c.tie_word_embeddings);
  out.add_text("bos_token_id", c.bos_token_id ? std::to_string(*c.bos_token_id) : "null");
  out.add_text("eos_token_id", detail::token_text(c.eos_token_ids));
  out.add("torch_dtype", detail::torch_name(type));
  return out.str();
}

template <class>
std::string write_gpt2_config(const gpt2_config& c, dtype type) {
  c.validate();
  detail::json_object_text out("config.json");
  out.add("architectures", std::vector<std::string>{"GPT2LMHeadModel"});
  out.add("model_type", "gpt2");
  out.add("n_embd", c.hidden_size);
  out.add("n_inner", c.intermediate_size);
  out.add("n_head", c.num_attention_heads);
  out.add("n_layer", c.num_hidden_layers);
  out.add("n_positions", c.max_position_embeddings);
  out.add("vocab_size", c.vocab_size);
  out.add("activation_function", c.hidden_act);
  out.add("layer_norm_epsilon", c.layer_norm_eps);
  out.add("tie_word_embeddings", true);
  out.add_text("bos_token_id", c.bos_token_id ? std::to_string(*c.bos_token_id) : "null");
  out.add_text("eos_token_id", detail::token_text(c.eos_token_ids));
  out.add("torch_dtype", detail::torch_name(type));
  return out.str();
}

template <class>
std::string write_bert_config(const bert_config& c, dtype type, index_t labels) {
  c.validate();
  detail::json_object_text out("config.json");
  out.add("architectures", std::vector<std::string>{labels > 0 ? "BertForSequenceClassification" : "BertModel"});
  out.add("model_type", "bert");
  detail::add_sizes(out, c);
  out.add("type_vocab_size", c.type_vocab_size);
  out.add("hidden_act", c.hidden_act);
  out.add("layer_norm_eps", c.layer_norm_eps);
  out.add("position_embedding_type", "absolute");
  if (labels > 0) {
    std::string names, numbers;  // in rising order
    for (index_t i = 0; i < labels; ++i) {
      names += concat(i == 0 ? "" : ", ", "\"", i, "\": \"LABEL_", i, "\"");
      numbers += concat(i == 0 ? "" : ", ", "\"LABEL_", i, "\": ", i);
    }
    out.add_text("id2label", concat("{", names, "}"));
    out.add_text("label2id", concat("{", numbers, "}"));
  }
  out.add("torch_dtype", detail::torch_name(type));
  return out.str();
}

/// Writes the model with all its adapters folded in; the model itself stays as it is. A tied head is not written. The folder
/// is made if need be; both files are on the disk before either takes its place, so that a full disk leaves the old two. Block
/// formats are widened. Tokenizer files are not written: they are those of the base. Memory: a copy of every weight that is
/// adapted or of another type (of GPT-2, all linear ones). Throws state_error when an adapter cannot be folded in, a weight is not finite (also in the
/// type to write) or a layer was pruned to another size, option_error for a type or biases that no published model has, io_error when the files cannot be written.
template <class T>
void save_model(llama<T>& model, const std::filesystem::path& folder, const save_model_options& o = {}) {
  auto config = model.config;
  config.tie_word_embeddings = !model.lm_head;
  const std::string text = write_llama_config(config, o.type);
  detail::write_model_folder(folder, text, detail::merged_weights(model, llama<T>(config), o.type));
}

/// The same for a GPT-2, its linear weights turned as the published ones lie.
template <class T>
void save_model(gpt2<T>& model, const std::filesystem::path& folder, const save_model_options& o = {}) {
  const std::string text = write_gpt2_config(model.config, o.type);
  auto arrays = detail::merged_weights(model, gpt2<T>(model.config), o.type);
  detail::turn_linear_weights(arrays);
  detail::write_model_folder(folder, text, arrays);
}

/// The same for an encoder, under the names of a bare one.
template <class T>
void save_model(bert<T>& model, const std::filesystem::path& folder, const save_model_options& o = {}) {
  const std::string text = write_bert_config(model.config, o.type);
  detail::write_model_folder(folder, text, detail::merged_weights(model, bert<T>(model.config), o.type));
}

/// The same for a classifier. Throws state_error unless it pools by the pooler, as the published ones all do: elsewhere another
/// pooling would be taken for it in silence.
template <class T>
void save_model(bert_classifier<T>& model, const std::filesystem::path& folder, const save_model_options& o = {}) {
  if (model.pool != pooling::pooler || !model.bert.pooler)
    throw_error<state_error>("save_model: published classifiers pool by the pooler, this one by ", model.pool == pooling::mean ? "the mean" : "the first token",
                             "; save its encoder, and its head with save_state()");
  const std::string text = write_bert_config(model.bert.config, o.type, model.classifier.outputs());
  detail::write_model_folder(folder, text, detail::merged_weights(model, bert_classifier<T>(model.bert.config, model.classifier.outputs(), model.pool), o.type));
}

}  // namespace graft
