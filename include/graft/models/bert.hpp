// SPDX-License-Identifier: Apache-2.0
// The BERT encoder, as in BERT and MiniLM checkpoints, and a classifier on top. Read next: io/load_model.hpp.
#pragma once
#include <cmath>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graft/autograd/checkpoint.hpp"
#include "graft/nn/batch.hpp"
#include "graft/nn/linear.hpp"
#include "graft/nn/norm.hpp"
#include "graft/ops/attention.hpp"
#include "graft/ops/elementwise.hpp"
#include "graft/ops/embedding.hpp"

namespace graft {

/// Sizes and switches, named as in the published config.json.
struct bert_config {
  index_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  index_t num_hidden_layers = 0, num_attention_heads = 0;
  index_t max_position_embeddings = 512, type_vocab_size = 2;
  double layer_norm_eps = 1e-12;
  std::string hidden_act = "gelu";  // "gelu", "gelu_new" or "relu"
  bool pooler = true;

  /// Throws option_error when sizes are impossible or do not go together.
  void validate() const {
    const auto positive = [](std::string_view name, index_t v, index_t most) {
      if (v < 1 || v > most) throw_error<option_error>("bert config: ", name, " is ", v, ", expected 1 to ", most);
    };
    positive("vocab_size", vocab_size, 1 << 24);
    positive("hidden_size", hidden_size, 1 << 20);
    positive("intermediate_size", intermediate_size, 1 << 22);
    positive("num_hidden_layers", num_hidden_layers, 4096);
    positive("num_attention_heads", num_attention_heads, 1 << 14);
    positive("max_position_embeddings", max_position_embeddings, 1 << 28);
    positive("type_vocab_size", type_vocab_size, 1 << 10);
    if (hidden_size % num_attention_heads != 0)
      throw_error<option_error>("bert config: hidden_size ", hidden_size, " is not a multiple of ", num_attention_heads, " attention heads");
    if (!(layer_norm_eps > 0)) throw_error<option_error>("bert config: layer_norm_eps is ", layer_norm_eps, ", expected more than 0");
    if (hidden_act != "gelu" && hidden_act != "gelu_new" && hidden_act != "relu")
      throw_error<option_error>("bert config: hidden_act \"", hidden_act, "\" is not one of gelu, gelu_new, relu");
  }

  static bert_config minilm_l6() {  // the shape of all-MiniLM-L6-v2
    bert_config c;
    c.vocab_size = 30522, c.hidden_size = 384, c.intermediate_size = 1536;
    c.num_hidden_layers = 6, c.num_attention_heads = 12;
    return c;
  }
};

/// A linear layer, the residual sum and a normalisation: how every BERT block ends. Paths: "dense", "LayerNorm".
template <class T>
struct bert_output {
  using value_type = T;
  adapted_linear<T> dense;
  layer_norm_module<T> layer_norm;

  bert_output(index_t in, index_t out, double eps) : dense(in, out, true), layer_norm(out, eps) {}
  static void visit(auto& self, auto& v) {
    v("dense", self.dense);
    v("LayerNorm", self.layer_norm);
  }
  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x, const var<T, 2>& residual) {
    return layer_norm(t, add(t, dense(t, x), residual));
  }
};

template <class T>
struct bert_self_attention {
  using value_type = T;
  adapted_linear<T> query, key, value;

  explicit bert_self_attention(index_t size) : query(size, size, true), key(size, size, true), value(size, size, true) {}
  static void visit(auto& self, auto& v) {
    v("query", self.query);
    v("key", self.key);
    v("value", self.value);
  }
};

/// One row of each sequence: numbers among all rows, and 0, 1, 2 ..., where each sequence begins among the chosen. Lives in the
/// tape; empty where all rows are meant.
struct row_a_sequence {
  std::span<const std::int32_t> rows;
  std::span<const index_t> offsets;

  template <class T>
  static row_a_sequence first(tape<T>& t, const token_batch& batch) {
    const auto n = static_cast<std::size_t>(batch.sequences());
    const auto rows = t.template keep_room<std::int32_t>(n);
    const auto offsets = t.template keep_room<index_t>(n + 1);
    for (std::size_t s = 0; s < n; ++s) rows[s] = static_cast<std::int32_t>(batch.offsets[s]);
    std::iota(offsets.begin(), offsets.end(), index_t{0});
    return {rows, offsets};
  }
};

template <class T>
struct bert_attention {
  using value_type = T;
  bert_self_attention<T> self_attention;
  bert_output<T> output;
  index_t heads;

  explicit bert_attention(const bert_config& c)
      : self_attention(c.hidden_size), output(c.hidden_size, c.hidden_size, c.layer_norm_eps), heads(c.num_attention_heads) {}
  static void visit(auto& self, auto& v) {
    v("self", self.self_attention);
    v("output", self.output);
  }
  /// Of all rows of x, or of the one of each sequence that `asked` names; all are keys and values.
  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x, const row_a_sequence& asked) {
    const auto scope = t.scope("attention");
    auto& a = self_attention;
    const auto from = asked.rows.empty() ? x : take_rows(t, x, asked.rows);
    const auto q = a.query(t, from), k = a.key(t, x);
    const double scale = 1 / std::sqrt(static_cast<double>(x.shape()[1]) / static_cast<double>(heads));  // of heads that are not pruned
    const auto all = t.batch.sequence_offsets;
    const kernel::attention_layout at{heads, heads, q.shape()[1] / heads, scale, false, asked.rows.empty() ? all : asked.offsets, all};
    return output(t, attention(t, at, q, k, a.value(t, x)), from);
  }
};

/// Paths: "dense".
template <class T>
struct bert_dense {
  using value_type = T;
  adapted_linear<T> dense;

  bert_dense(index_t in, index_t out) : dense(in, out, true) {}
  static void visit(auto& self, auto& v) { v("dense", self.dense); }
  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x) { return dense(t, x); }
};

template <class T>
struct bert_layer {
  using value_type = T;
  bert_attention<T> attention;
  bert_dense<T> intermediate;
  bert_output<T> output;
  index_t number;
  enum class activation { gelu, gelu_tanh, relu } act;

  bert_layer(const bert_config& c, index_t n)
      : attention(c), intermediate(c.hidden_size, c.intermediate_size), output(c.intermediate_size, c.hidden_size, c.layer_norm_eps), number(n),
        act(c.hidden_act == "gelu" ? activation::gelu : c.hidden_act == "relu" ? activation::relu : activation::gelu_tanh) {}
  static void visit(auto& self, auto& v) {
    v("attention", self.attention);
    v("intermediate", self.intermediate);
    v("output", self.output);
  }
  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x, const row_a_sequence& asked) {
    const auto scope = t.scope("layer", number);
    const auto y = attention(t, x, asked);
    const auto wide = intermediate(t, y);
    return output(t, act == activation::gelu ? gelu(t, wide) : act == activation::relu ? relu(t, wide) : gelu_tanh(t, wide), y);
  }
};

template <class T>
struct bert_embeddings {
  using value_type = T;
  embedding_module<T> word_embeddings, position_embeddings, token_type_embeddings;
  layer_norm_module<T> layer_norm;

  explicit bert_embeddings(const bert_config& c)
      : word_embeddings(c.vocab_size, c.hidden_size), position_embeddings(c.max_position_embeddings, c.hidden_size),
        token_type_embeddings(c.type_vocab_size, c.hidden_size), layer_norm(c.hidden_size, c.layer_norm_eps) {}
  static void visit(auto& self, auto& v) {
    v("word_embeddings", self.word_embeddings);
    v("position_embeddings", self.position_embeddings);
    v("token_type_embeddings", self.token_type_embeddings);
    v("LayerNorm", self.layer_norm);
  }
  var<T, 2> operator()(tape<T>& t, const token_batch& batch) {
    const auto scope = t.scope("embeddings");
    const auto kept = [&](const std::vector<std::int32_t>& v) { return t.keep(std::span<const std::int32_t>(v)); };
    const auto words = add(t, word_embeddings(t, kept(batch.ids)), token_type_embeddings(t, kept(batch.types)));
    return layer_norm(t, add(t, words, position_embeddings(t, kept(batch.positions))));
  }
};

template <class T>
struct bert_encoder {
  using value_type = T;
  std::vector<bert_layer<T>> layer;

  explicit bert_encoder(const bert_config& c) {
    for (index_t i = 0; i < c.num_hidden_layers; ++i) layer.emplace_back(c, i);
  }
  static void visit(auto& self, auto& v) { v("layer", self.layer); }
};

/// How a sequence's rows become one vector: their mean, the first row, or the first row through the pooler's dense layer
/// and tanh, as published classifiers do it.
enum class pooling { mean, cls, pooler };

/// A text encoder. Parameter paths equal the names in bare encoder checkpoints; task checkpoints prefix them with "bert.".
template <class T>
struct bert {
  using value_type = T;
  bert_config config;
  bert_embeddings<T> embeddings;
  bert_encoder<T> encoder;
  std::optional<bert_dense<T>> pooler;
  index_t checkpointed_layers = 0;  // the first so many keep one row a token for backward and are computed twice

  explicit bert(const bert_config& c) : config((c.validate(), c)), embeddings(c), encoder(c) {
    if (c.pooler) pooler.emplace(c.hidden_size, c.hidden_size);
  }
  static void visit(auto& self, auto& v) {
    v("embeddings", self.embeddings);
    v("encoder", self.encoder);
    v("pooler", self.pooler);
  }
  static constexpr std::string_view layers_scope = "encoder.layer";  // what a meter calls them; the number follows

  /// The last hidden states: (tokens, hidden_size). Throws shape_error beyond max_position_embeddings or the vocabulary.
  var<T, 2> hidden(tape<T>& t, const token_batch& batch) { return encode(t, batch, {}); }

  /// One vector a sequence: (sequences, hidden_size). Where that is the first row, the last layer computes no other: its keys and
  /// values are all that the rest costs there. Throws state_error when the checkpoint came without a pooler and one is asked for.
  var<T, 2> pooled(tape<T>& t, const token_batch& batch, pooling how) {
    for (index_t s = 0; s < batch.sequences(); ++s)
      if (batch.offsets[static_cast<std::size_t>(s) + 1] <= batch.offsets[static_cast<std::size_t>(s)])
        throw_error<shape_error>("bert: sequence ", s, " has no tokens to pool");
    if (how == pooling::mean) return mean_rows(t, hidden(t, batch), t.batch.sequence_offsets);
    if (how == pooling::pooler && !pooler) throw_error<state_error>("bert: this checkpoint has no pooler; use mean or cls pooling");
    const auto rows = encode(t, batch, row_a_sequence::first(t, batch));
    return how == pooling::cls ? rows : tanh(t, (*pooler)(t, rows));
  }

 private:
  /// The last hidden states of all rows, or of those asked for.
  var<T, 2> encode(tape<T>& t, const token_batch& batch, const row_a_sequence& asked) {
    if (batch.tokens() == 0) throw_error<shape_error>("bert: the batch has no tokens");
    for (const std::int32_t p : batch.positions)
      if (p >= config.max_position_embeddings)
        throw_error<shape_error>("bert: a sequence reaches position ", p, ", the model allows ", config.max_position_embeddings, " tokens");
    t.batch.sequence_offsets = t.keep(std::span<const index_t>(batch.offsets));
    auto x = embeddings(t, batch);
    const auto scope = t.scope("encoder");
    for (auto& layer : encoder.layer) {
      const auto rows = &layer == &encoder.layer.back() ? asked : row_a_sequence{};
      if (layer.number < checkpointed_layers)
        x = checkpoint(t, x, [&layer, rows](tape<T>& inner, const var<T, 2>& in) { return layer(inner, in, rows); });
      else
        x = layer(t, x, rows);
    }
    return x;
  }
};

/// An encoder with a linear head over the pooled vector. Paths: "bert.*", "classifier.weight", "classifier.bias".
template <class T>
struct bert_classifier {
  using value_type = T;
  graft::bert<T> bert;
  adapted_linear<T> classifier;
  pooling pool;

  bert_classifier(const bert_config& c, index_t labels, pooling how) : bert(c), classifier(c.hidden_size, labels, true), pool(how) {}
  bert_classifier(graft::bert<T> encoder, index_t labels, pooling how)
      : bert(std::move(encoder)), classifier(bert.config.hidden_size, labels, true), pool(how) {}
  static void visit(auto& self, auto& v) {
    v("bert", self.bert);
    v("classifier", self.classifier);
  }

  /// (sequences, labels)
  var<T, 2> logits(tape<T>& t, const token_batch& batch) {
    const auto x = bert.pooled(t, batch, pool);
    const auto scope = t.scope("classifier");
    return classifier(t, x);
  }
  /// Mean cross-entropy of batch.labels, here one a sequence.
  var<T, 0> loss(tape<T>& t, const token_batch& batch) {
    return cross_entropy(t, logits(t, batch), t.keep(std::span<const std::int32_t>(batch.labels)));
  }
};

}  // namespace graft
