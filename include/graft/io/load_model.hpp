// SPDX-License-Identifier: Apache-2.0
// Published checkpoint folders as models: frozen and memory-mapped. Read next: io/peft_folder.hpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "graft/io/checkpoint.hpp"
#include "graft/io/detail/gpt2_layout.hpp"
#include "graft/io/model_config.hpp"
#include "graft/nn/init.hpp"
#include "graft/nn/state.hpp"

namespace graft {

struct load_model_options {
  bool check_finite = true;  // refuse NaN and infinite weights; reads every byte once
};

namespace detail {

inline bool renamed_ending(std::string& name, std::string_view from, std::string_view to) {
  if (!name.ends_with(from)) return false;
  name.replace(name.size() - from.size(), from.size(), to);
  return true;
}

/// Frozen arrays of a checkpoint under the names that a model of ours has. `rename` may change a name, or make it empty to
/// drop the array.
template <class Rename>
records<frozen_array> model_arrays(const checkpoint_files& c, const load_model_options& o, Rename rename) {
  records<frozen_array> arrays;
  for (const auto& [name, a] : c.arrays()) {
    std::string ours = name;
    rename(ours);
    if (ours.empty()) continue;
    if (o.check_finite) check_finite(c.where().string(), name, a.type, a.bytes);
    arrays.emplace_back(std::move(ours), c.frozen(name));
  }
  return arrays;
}

/// "bert.encoder..." and "encoder..." alike; buffers dropped; LayerNorm's old names changed to the new.
inline void rename_bert(std::string& name) {
  if (name.starts_with("bert.")) name.erase(0, 5);
  renamed_ending(name, "LayerNorm.gamma", "LayerNorm.weight") || renamed_ending(name, "LayerNorm.beta", "LayerNorm.bias");
  if (name.ends_with("position_ids")) name.clear();
}

}  // namespace detail

/// A model of the Llama family from a folder as published: config.json and model.safetensors, or shards with an index.
/// Weights stay in their storage type (f32, bf16, f16), mapped and shared; nothing is trainable. Throws io_error,
/// format_error with the full report when names or shapes do not fit, and for weights that are not finite.
template <class T>
llama<T> load_llama(const std::filesystem::path& folder, const load_model_options& o = {}) {
  auto config = read_llama_config(folder);
  const checkpoint_files weights(folder);
  const bool bare = weights.find("model.embed_tokens.weight") == nullptr && weights.find("embed_tokens.weight") != nullptr;
  const array_ref* head = weights.find("lm_head.weight");
  const array_ref* embedding = weights.find(bare ? "embed_tokens.weight" : "model.embed_tokens.weight");
  if (head == nullptr) {
    config.tie_word_embeddings = true;
  } else if (config.tie_word_embeddings) {  // saved all the same: equal means tied, different means that something untied them
    config.tie_word_embeddings = embedding != nullptr && head->type == embedding->type && std::ranges::equal(head->bytes, embedding->bytes);
  }
  llama<T> model(config);
  load_frozen(model, detail::model_arrays(weights, o, [&](std::string& name) {
                if (name.ends_with("rotary_emb.inv_freq") || (name == "lm_head.weight" && config.tie_word_embeddings)) name.clear();
                else if (bare && name != "lm_head.weight") name.insert(0, "model.");
              }));
  return model;
}

/// A GPT-2 from a folder as published. Linear weights, which the files hold as (in, out), are copied around; the rest is mapped.
/// Throws as load_llama().
template <class T>
gpt2<T> load_gpt2(const std::filesystem::path& folder, const load_model_options& o = {}) {
  gpt2<T> model(read_gpt2_config(folder));
  const checkpoint_files weights(folder);
  const bool bare = weights.find("transformer.wte.weight") == nullptr && weights.find("wte.weight") != nullptr;
  const auto buffer = [](const std::string& name) { return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"); };  // the causal mask
  auto arrays = detail::model_arrays(weights, o, [&](std::string& name) {
    if (name == "lm_head.weight" || buffer(name)) name.clear();
    else if (bare) name.insert(0, "transformer.");
  });
  detail::turn_linear_weights(arrays);
  load_frozen(model, arrays);
  return model;
}

namespace detail {

template <class T>
bert<T> bert_encoder(bert_config config, const checkpoint_files& weights, const load_model_options& o) {
  config.pooler = weights.find("pooler.dense.weight") != nullptr || weights.find("bert.pooler.dense.weight") != nullptr;
  bert<T> model(config);
  load_frozen(model, model_arrays(weights, o, [](std::string& name) {
                if (name.starts_with("cls.") || name.starts_with("classifier.")) name.clear();
                rename_bert(name);
              }));
  return model;
}

}  // namespace detail

/// A BERT encoder from a folder: bare checkpoints (MiniLM) and the encoder of task checkpoints, whose heads are left alone.
template <class T>
bert<T> load_bert(const std::filesystem::path& folder, const load_model_options& o = {}) {
  const auto config = read_bert_config(folder);
  return detail::bert_encoder<T>(config, checkpoint_files(folder), o);
}

/// A BERT classifier. Where the folder has no classifier of that many labels, a fresh one, drawn from the seed.
template <class T>
bert_classifier<T> load_bert_classifier(const std::filesystem::path& folder, index_t labels, pooling how = pooling::pooler,
                                        std::uint64_t seed = 0, const load_model_options& o = {}) {
  const auto config = read_bert_config(folder);
  const checkpoint_files weights(folder);
  bert_classifier<T> model(detail::bert_encoder<T>(config, weights, o), labels, how);
  const array_ref* head = weights.find("classifier.weight");
  if (head != nullptr && !head->shape.empty() && head->shape[0] == labels) {
    load_frozen(model.classifier, detail::model_arrays(weights, o, [](std::string& name) {
                  if (name.starts_with("classifier.")) name.erase(0, 11);
                  else name.clear();
                }));
  } else {
    initialize(model.classifier, seed);
    freeze(model.classifier);
  }
  return model;
}

/// "random:tiny", "random:stories-260k", "random:smollm-135m": a shape by name with random weights; else a folder.
template <class T>
llama<T> load_or_make_llama(const std::string& model, std::uint64_t seed = 0) {
  if (!model.starts_with("random:")) return load_llama<T>(model);
  const std::string_view name = std::string_view(model).substr(7);
  llama_config config;
  if (name == "tiny") config = llama_config::tiny();
  else if (name == "stories-260k") config = llama_config::stories_260k();
  else if (name == "smollm-135m") config = llama_config::smollm_135m();
  else throw_error<option_error>("no shape is named \"", name, "\"; there are tiny, stories-260k, smollm-135m");
  llama<T> made(config);
  initialize(made, seed);
  freeze(made);
  return made;
}

}  // namespace graft
