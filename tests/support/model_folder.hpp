// SPDX-License-Identifier: Apache-2.0
// Small model folders in the published form, written by hand.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "graft/io/load_model.hpp"
#include "support/data.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

namespace graft::test {

inline std::string config_json(const llama_config& c) {
  return nlohmann::json{{"model_type", "llama"},
              {"vocab_size", c.vocab_size},
              {"hidden_size", c.hidden_size},
              {"intermediate_size", c.intermediate_size},
              {"num_hidden_layers", c.num_hidden_layers},
              {"num_attention_heads", c.num_attention_heads},
              {"num_key_value_heads", c.num_key_value_heads},
              {"head_dim", c.head_dim},
              {"max_position_embeddings", c.max_position_embeddings},
              {"rms_norm_eps", c.rms_norm_eps},
              {"rope_theta", c.rotary.theta},
              {"tie_word_embeddings", c.tie_word_embeddings}}
      .dump();
}

inline std::string config_json(const bert_config& c) {
  return nlohmann::json{{"model_type", "bert"},
              {"vocab_size", c.vocab_size},
              {"hidden_size", c.hidden_size},
              {"intermediate_size", c.intermediate_size},
              {"num_hidden_layers", c.num_hidden_layers},
              {"num_attention_heads", c.num_attention_heads},
              {"max_position_embeddings", c.max_position_embeddings},
              {"type_vocab_size", c.type_vocab_size},
              {"layer_norm_eps", c.layer_norm_eps},
              {"hidden_act", c.hidden_act}}
      .dump();
}

/// config.json and model.safetensors.
template <class C>
void write_model_folder(const std::filesystem::path& folder, const C& config, const state_dict& weights) {
  write_file(folder / "config.json", config_json(config));
  save_safetensors(folder / "model.safetensors", weights);
}

/// The array of this name, to change.
inline array& at(state_dict& state, std::string_view name) {
  for (auto& [key, a] : state.items)
    if (key == name) return a;
  throw_error<option_error>("the state has no ", name);
}

/// Every array under the name that rename gives it; without those it renames to nothing.
template <class Rename>
state_dict renamed(state_dict state, Rename rename) {
  for (auto& [name, a] : state.items) name = rename(name);
  std::erase_if(state.items, [](const auto& item) { return item.first.empty(); });
  return state;
}

/// What a model makes of a batch, without training.
template <module M, class T = typename M::value_type>
tensor<T, 2> logits_of(M& m, const token_batch& batch) {
  context ctx;
  tape<T> t(ctx, recording::off);
  return tensor<T, 2>::copy_of(m.logits(t, batch).value);
}
inline bool same_logits(llama<float>& a, llama<float>& b) { return equal_bits(logits_of(a, two_sequences), logits_of(b, two_sequences)); }
template <class T>
tensor<T, 2> pooled_by(bert<T>& m, const token_batch& batch, pooling how = pooling::mean) {
  context ctx;
  tape<T> t(ctx, recording::off);
  return tensor<T, 2>::copy_of(m.pooled(t, batch, how).value);
}

}  // namespace graft::test
