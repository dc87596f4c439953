// SPDX-License-Identifier: Apache-2.0
// GPT-2: learned positions, layer normalisation before each part, queries, keys and values from one product.
// Read next: models/generate.hpp, io/load_model.hpp.
#pragma once
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graft/autograd/checkpoint.hpp"
#include "graft/models/decoder_pass.hpp"
#include "graft/nn/linear.hpp"
#include "graft/nn/norm.hpp"
#include "graft/ops/columns.hpp"

namespace graft {

/// Sizes under the names the other models have; config.json says n_embd, n_inner, n_layer, n_head, n_positions.
struct gpt2_config {
  index_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  index_t num_hidden_layers = 0, num_attention_heads = 0;
  index_t max_position_embeddings = 1024;
  double layer_norm_eps = 1e-5;
  std::string hidden_act = "gelu_new";  // or gelu, relu
  std::optional<std::int32_t> bos_token_id;
  std::vector<std::int32_t> eos_token_ids;

  /// Throws option_error when sizes are impossible or do not go together.
  void validate() const {
    const auto positive = [](std::string_view name, index_t v, index_t most) {
      if (v < 1 || v > most) throw_error<option_error>("gpt2 config: ", name, " is ", v, ", expected 1 to ", most);
    };
    positive("vocab_size", vocab_size, 1 << 24);
    positive("n_embd", hidden_size, 1 << 20);
    positive("n_inner", intermediate_size, 1 << 22);
    positive("n_layer", num_hidden_layers, 4096);
    positive("n_head", num_attention_heads, 1 << 14);
    positive("n_positions", max_position_embeddings, 1 << 28);
    if (hidden_size % num_attention_heads != 0)
      throw_error<option_error>("gpt2 config: n_embd ", hidden_size, " is not a multiple of ", num_attention_heads, " heads");
    if (!(layer_norm_eps > 0)) throw_error<option_error>("gpt2 config: layer_norm_epsilon is ", layer_norm_eps, ", expected more than 0");
    if (hidden_act != "gelu_new" && hidden_act != "gelu" && hidden_act != "relu")
      throw_error<option_error>("gpt2 config: activation_function is \"", hidden_act, "\", expected gelu_new, gelu or relu");
  }
};

template <class T>
struct gpt2_attention {
  using value_type = T;
  adapted_linear<T> c_attn, c_proj;  // queries, keys and values one behind the other

  explicit gpt2_attention(const gpt2_config& c) : c_attn(c.hidden_size, 3 * c.hidden_size, true), c_proj(c.hidden_size, c.hidden_size, true) {}
  static void visit(auto& self, auto& v) {
    v("c_attn", self.c_attn);
    v("c_proj", self.c_proj);
  }
};

template <class T>
struct gpt2_mlp {
  using value_type = T;
  adapted_linear<T> c_fc, c_proj;

  explicit gpt2_mlp(const gpt2_config& c) : c_fc(c.hidden_size, c.intermediate_size, true), c_proj(c.intermediate_size, c.hidden_size, true) {}
  static void visit(auto& self, auto& v) {
    v("c_fc", self.c_fc);
    v("c_proj", self.c_proj);
  }
};

template <class T>
struct gpt2_layer {
  using value_type = T;
  layer_norm_module<T> ln_1, ln_2;
  gpt2_attention<T> attn;
  gpt2_mlp<T> mlp;
  index_t heads, number;
  enum class activation { gelu_tanh, gelu, relu } act;

  gpt2_layer(const gpt2_config& c, index_t n)
      : ln_1(c.hidden_size, c.layer_norm_eps), ln_2(c.hidden_size, c.layer_norm_eps), attn(c), mlp(c), heads(c.num_attention_heads), number(n),
        act(c.hidden_act == "gelu" ? activation::gelu : c.hidden_act == "relu" ? activation::relu : activation::gelu_tanh) {}
  static void visit(auto& self, auto& v) {
    v("ln_1", self.ln_1);
    v("attn", self.attn);
    v("ln_2", self.ln_2);
    v("mlp", self.mlp);
  }

  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x, const decoder_pass<T>& pass) {
    const auto scope = t.scope("h", number);
    const auto y = add(t, x, attend(t, ln_1(t, x), pass));
    const auto mlp_scope = t.scope("mlp");
    const auto wide = mlp.c_fc(t, ln_2(t, y));
    return add(t, y, mlp.c_proj.last_of_block(t, act == activation::gelu_tanh ? gelu_tanh(t, wide) : act == activation::gelu ? gelu(t, wide) : relu(t, wide)));
  }

 private:
  var<T, 2> attend(tape<T>& t, const var<T, 2>& x, const decoder_pass<T>& pass) {
    const auto scope = t.scope("attn");
    const index_t width = x.shape()[1], size = width / heads;
    const auto all = attn.c_attn(t, x);
    const auto part = [&](index_t i) { return slice_columns(t, all, i * width, width); };
    const auto q = part(0), k = part(1), v = part(2);
    return attn.c_proj(t, pass.attend(t, {heads, heads, size, 1 / std::sqrt(static_cast<double>(size))}, number, q, k, v));
  }
};

template <class T>
struct gpt2_body {
  using value_type = T;
  embedding_module<T> wte, wpe;
  std::vector<gpt2_layer<T>> h;
  layer_norm_module<T> ln_f;

  explicit gpt2_body(const gpt2_config& c)
      : wte(c.vocab_size, c.hidden_size), wpe(c.max_position_embeddings, c.hidden_size), ln_f(c.hidden_size, c.layer_norm_eps) {
    for (index_t i = 0; i < c.num_hidden_layers; ++i) h.emplace_back(c, i);
  }
  static void visit(auto& self, auto& v) {
    v("wte", self.wte);
    v("wpe", self.wpe);
    v("h", self.h);
    v("ln_f", self.ln_f);
  }
};

/// A causal language model whose output layer is its embedding. Parameter paths equal the names in published checkpoints, but linear
/// weights are (out, in) here and (in, out) there: load_gpt2() turns them. Made from a config it is frozen and without values.
template <class T>
struct gpt2 {
  using value_type = T;
  gpt2_config config;
  gpt2_body<T> transformer;
  index_t checkpointed_layers = 0;  // the first so many keep one row a token for backward and are computed twice

  explicit gpt2(const gpt2_config& c) : config((c.validate(), c)), transformer(c) {}
  static void visit(auto& self, auto& v) { v("transformer", self.transformer); }
  static constexpr std::string_view layers_scope = "transformer.h";  // what a meter calls them; the number follows

  /// The last hidden states, normalised: (tokens, hidden_size). With a cache the batch is the continuation of its one
  /// sequence; nothing may be trained then. Virtual tokens may stand before those of the batch; their rows are no part of the result.
  /// Throws shape_error beyond max_position_embeddings or the vocabulary.
  var<T, 2> hidden(tape<T>& t, const token_batch& batch, kv_cache<T>* cache = nullptr, virtual_tokens<T> before = {}) {
    const decoder_pass<T> pass(t, batch, cache, config.max_position_embeddings, "gpt2", before);
    const auto scope = t.scope("transformer");
    const auto words = pass.with_virtual(t, transformer.wte(t, t.keep(std::span<const std::int32_t>(batch.ids))));
    auto x = add(t, words, transformer.wpe(t, pass.positions));
    for (auto& layer : transformer.h) {
      if (layer.number < checkpointed_layers && cache == nullptr)
        x = checkpoint(t, x, [&layer, pass](tape<T>& inner, const var<T, 2>& in) { return layer(inner, in, pass); }, block_end::sum);
      else
        x = layer(t, x, pass);
    }
    pass.advance_cache();
    return transformer.ln_f(t, pass.without_virtual(t, x));
  }

  /// Scores of every token of the vocabulary: (rows of x, vocab_size).
  var<T, 2> logits(tape<T>& t, const var<T, 2>& x) {
    const auto scope = t.scope("lm_head");
    return linear(t, x, transformer.wte.weight);
  }
  var<T, 2> logits(tape<T>& t, const token_batch& batch, virtual_tokens<T> before = {}) {
    return logits(t, hidden(t, batch, nullptr, before));
  }

  /// The mean negative log-likelihood of the batch's labels, in nats. The logits never exist all at once.
  var<T, 0> loss(tape<T>& t, const token_batch& batch, virtual_tokens<T> before = {}) {
    const auto x = hidden(t, batch, nullptr, before);
    const auto labels = t.keep(std::span<const std::int32_t>(batch.labels));
    const auto scope = t.scope("lm_head");
    return linear_cross_entropy(t, x, transformer.wte.weight, labels);
  }

  /// An empty cache for generation of up to `capacity` tokens.
  kv_cache<T> make_cache(index_t capacity) const { return kv_cache<T>(config.num_hidden_layers, config.hidden_size, capacity); }
  embedding_module<T>& token_embeddings() { return transformer.wte; }
  bool has_tied_head() const { return true; }
};

}  // namespace graft
