// SPDX-License-Identifier: Apache-2.0
// The Llama family: SmolLM, Llama 2 and 3, Mistral, Qwen2. A model file only says how the parts are wired.
// Read next: models/generate.hpp, io/load_model.hpp.
#pragma once
#include <cmath>
#include <optional>
#include <string_view>
#include <vector>

#include "graft/autograd/checkpoint.hpp"
#include "graft/models/decoder_pass.hpp"
#include "graft/models/rotary.hpp"
#include "graft/nn/linear.hpp"
#include "graft/nn/norm.hpp"
#include "graft/ops/elementwise.hpp"

namespace graft {

/// Sizes and switches, named as in the published config.json.
struct llama_config {
  index_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  index_t num_hidden_layers = 0, num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  index_t max_position_embeddings = 2048;
  double rms_norm_eps = 1e-5;
  rotary_config rotary;
  bool tie_word_embeddings = false;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  std::optional<std::int32_t> bos_token_id;
  std::vector<std::int32_t> eos_token_ids;

  /// Throws option_error when sizes are impossible or do not go together.
  void validate() const {
    const auto positive = [](std::string_view name, index_t v, index_t most) {
      if (v < 1 || v > most) throw_error<option_error>("llama config: ", name, " is ", v, ", expected 1 to ", most);
    };
    positive("vocab_size", vocab_size, 1 << 24);
    positive("hidden_size", hidden_size, 1 << 20);
    positive("intermediate_size", intermediate_size, 1 << 22);
    positive("num_hidden_layers", num_hidden_layers, 4096);
    positive("num_attention_heads", num_attention_heads, 1 << 14);
    positive("num_key_value_heads", num_key_value_heads, num_attention_heads);
    positive("head_dim", head_dim, 1 << 14);
    positive("max_position_embeddings", max_position_embeddings, 1 << 28);
    if (num_attention_heads % num_key_value_heads != 0)
      throw_error<option_error>("llama config: ", num_attention_heads, " attention heads cannot share ", num_key_value_heads, " key-value heads");
    if (head_dim % 2 != 0) throw_error<option_error>("llama config: head_dim is ", head_dim, ", expected an even number");
    if (!(rms_norm_eps > 0)) throw_error<option_error>("llama config: rms_norm_eps is ", rms_norm_eps, ", expected more than 0");
    rotary_frequencies(rotary, head_dim);
  }

  // Shapes by name, for benchmarks and first steps.
  static llama_config tiny() {  // 1.0 M parameters over bytes
    llama_config c;
    c.vocab_size = 256, c.hidden_size = 128, c.intermediate_size = 344;
    c.num_hidden_layers = 5, c.num_attention_heads = 4, c.num_key_value_heads = 4, c.head_dim = 32;
    c.tie_word_embeddings = true;
    return c;
  }
  static llama_config smollm_135m() {
    llama_config c;
    c.vocab_size = 49152, c.hidden_size = 576, c.intermediate_size = 1536;
    c.num_hidden_layers = 30, c.num_attention_heads = 9, c.num_key_value_heads = 3, c.head_dim = 64;
    c.tie_word_embeddings = true;
    return c;
  }
  static llama_config stories_260k() {
    llama_config c;
    c.vocab_size = 512, c.hidden_size = 64, c.intermediate_size = 172;
    c.num_hidden_layers = 5, c.num_attention_heads = 8, c.num_key_value_heads = 4, c.head_dim = 8;
    c.max_position_embeddings = 512;
    c.tie_word_embeddings = true;
    return c;
  }
};

template <class T>
struct llama_attention {
  using value_type = T;
  adapted_linear<T> q_proj, k_proj, v_proj, o_proj;
  index_t heads, kv_heads, head_size;

  explicit llama_attention(const llama_config& c)
      : q_proj(c.hidden_size, c.num_attention_heads * c.head_dim, c.qkv_bias),
        k_proj(c.hidden_size, c.num_key_value_heads * c.head_dim, c.qkv_bias),
        v_proj(c.hidden_size, c.num_key_value_heads * c.head_dim, c.qkv_bias),
        o_proj(c.num_attention_heads * c.head_dim, c.hidden_size, c.output_bias),
        heads(c.num_attention_heads),
        kv_heads(c.num_key_value_heads),
        head_size(c.head_dim) {}
  static void visit(auto& self, auto& v) {
    v("q_proj", self.q_proj);
    v("k_proj", self.k_proj);
    v("v_proj", self.v_proj);
    v("o_proj", self.o_proj);
  }
};

template <class T>
struct llama_mlp {
  using value_type = T;
  adapted_linear<T> gate_proj, up_proj, down_proj;

  explicit llama_mlp(const llama_config& c)
      : gate_proj(c.hidden_size, c.intermediate_size, c.mlp_bias),
        up_proj(c.hidden_size, c.intermediate_size, c.mlp_bias),
        down_proj(c.intermediate_size, c.hidden_size, c.mlp_bias) {}
  static void visit(auto& self, auto& v) {
    v("gate_proj", self.gate_proj);
    v("up_proj", self.up_proj);
    v("down_proj", self.down_proj);
  }
  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x) {
    const auto gate = gate_proj(t, x);
    return down_proj.last_of_block(t, swiglu(t, gate, up_proj(t, x)));
  }
};

/// What the layers of one forward pass share: a decoder's, and the rotary tables.
template <class T>
struct llama_pass : decoder_pass<T> {
  using decoder_pass<T>::decoder_pass;
  tensor_view<const T, 2> cosine, sine;
};

template <class T>
struct llama_layer {
  using value_type = T;
  rms_norm_module<T> input_layernorm, post_attention_layernorm;
  llama_attention<T> self_attn;
  llama_mlp<T> mlp;
  index_t number;

  llama_layer(const llama_config& c, index_t n)
      : input_layernorm(c.hidden_size, c.rms_norm_eps), post_attention_layernorm(c.hidden_size, c.rms_norm_eps), self_attn(c), mlp(c), number(n) {}
  static void visit(auto& self, auto& v) {
    v("self_attn", self.self_attn);
    v("mlp", self.mlp);
    v("input_layernorm", self.input_layernorm);
    v("post_attention_layernorm", self.post_attention_layernorm);
  }

  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x, const llama_pass<T>& pass) {
    const auto scope = t.scope("layers", number);
    const auto y = add(t, x, attend(t, input_layernorm(t, x), pass));
    const auto mlp_scope = t.scope("mlp");
    return add(t, y, mlp(t, post_attention_layernorm(t, y)));
  }

 private:
  var<T, 2> attend(tape<T>& t, const var<T, 2>& x, const llama_pass<T>& pass) {
    const auto scope = t.scope("self_attn");
    auto& a = self_attn;
    const auto q = rotate_positions<T>(t, a.q_proj(t, x), a.head_size, pass.positions, pass.cosine, pass.sine);
    const auto k = rotate_positions<T>(t, a.k_proj(t, x), a.head_size, pass.positions, pass.cosine, pass.sine);
    const kernel::attention_layout at{a.heads, a.kv_heads, a.head_size, 1 / std::sqrt(static_cast<double>(a.head_size))};
    return a.o_proj(t, pass.attend(t, at, number, q, k, a.v_proj(t, x)));
  }
};

template <class T>
struct llama_body {
  using value_type = T;
  embedding_module<T> embed_tokens;
  std::vector<llama_layer<T>> layers;
  rms_norm_module<T> norm;

  explicit llama_body(const llama_config& c) : embed_tokens(c.vocab_size, c.hidden_size), norm(c.hidden_size, c.rms_norm_eps) {
    for (index_t i = 0; i < c.num_hidden_layers; ++i) layers.emplace_back(c, i);
  }
  static void visit(auto& self, auto& v) {
    v("embed_tokens", self.embed_tokens);
    v("layers", self.layers);
    v("norm", self.norm);
  }
};

/// A causal language model. Parameter paths equal the names in published checkpoints. Made from a config it is frozen and
/// without values: load_llama() fills it from a folder, initialize() with random values.
template <class T>
struct llama {
  using value_type = T;
  llama_config config;
  llama_body<T> model;
  std::optional<adapted_linear<T>> lm_head;  // none when tied to embed_tokens
  index_t checkpointed_layers = 0;           // the first so many keep one row a token for backward and are computed twice

  explicit llama(const llama_config& c) : config((c.validate(), c)), model(c), rotary_(c.rotary, c.head_dim) {
    if (!c.tie_word_embeddings) lm_head.emplace(c.hidden_size, c.vocab_size);
  }
  static void visit(auto& self, auto& v) {
    v("model", self.model);
    v("lm_head", self.lm_head);
  }
  static constexpr std::string_view layers_scope = "model.layers";  // what a meter calls them; the number follows

  /// The last hidden states, normalised: (tokens, hidden_size). With a cache the batch is the continuation of its one
  /// sequence; nothing may be trained then. Virtual tokens may stand before those of the batch; their rows are no part of the result.
  /// Throws shape_error beyond max_position_embeddings or the vocabulary.
  var<T, 2> hidden(tape<T>& t, const token_batch& batch, kv_cache<T>* cache = nullptr, virtual_tokens<T> before = {}) {
    const llama_pass<T> pass = begin(t, batch, cache, before);
    const auto scope = t.scope("model");
    auto x = pass.with_virtual(t, model.embed_tokens(t, t.keep(std::span<const std::int32_t>(batch.ids))));
    for (auto& layer : model.layers) {
      if (layer.number < checkpointed_layers && cache == nullptr)
        x = checkpoint(t, x, [&layer, pass](tape<T>& inner, const var<T, 2>& in) { return layer(inner, in, pass); }, block_end::sum);
      else
        x = layer(t, x, pass);
    }
    pass.advance_cache();
    return model.norm(t, pass.without_virtual(t, x));
  }

  /// Scores of every token of the vocabulary: (rows of x, vocab_size).
  var<T, 2> logits(tape<T>& t, const var<T, 2>& x) {
    const auto scope = t.scope("lm_head");
    return lm_head ? (*lm_head)(t, x) : linear(t, x, model.embed_tokens.weight);
  }
  var<T, 2> logits(tape<T>& t, const token_batch& batch, virtual_tokens<T> before = {}) {
    return logits(t, hidden(t, batch, nullptr, before));
  }

  /// The mean negative log-likelihood of the batch's labels, in nats. The logits never exist all at once.
  var<T, 0> loss(tape<T>& t, const token_batch& batch, virtual_tokens<T> before = {}) {
    const auto x = hidden(t, batch, nullptr, before);
    const auto labels = t.keep(std::span<const std::int32_t>(batch.labels));
    const auto scope = t.scope("lm_head");
    if (lm_head && (!lm_head->adapters.empty() || lm_head->bias)) return cross_entropy(t, (*lm_head)(t, x), labels);
    return linear_cross_entropy(t, x, lm_head ? lm_head->weight : model.embed_tokens.weight, labels);
  }

  /// An empty cache for generation of up to `capacity` tokens.
  kv_cache<T> make_cache(index_t capacity) const {
    return kv_cache<T>(config.num_hidden_layers, config.num_key_value_heads * config.head_dim, capacity);
  }
  embedding_module<T>& token_embeddings() { return model.embed_tokens; }
  bool has_tied_head() const { return !lm_head; }

 private:
  llama_pass<T> begin(tape<T>& t, const token_batch& batch, kv_cache<T>* cache, virtual_tokens<T> before) {
    llama_pass<T> pass(t, batch, cache, config.max_position_embeddings, "llama", before);
    rotary_.cover(pass.last_position() + 1);
    pass.cosine = rotary_.cosine();
    pass.sine = rotary_.sine();
    return pass;
  }

  rotary_table<T> rotary_;
};

}  // namespace graft
