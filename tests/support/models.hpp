// SPDX-License-Identifier: Apache-2.0
// Small models and batches for tests.
#pragma once
#include <algorithm>
#include <iterator>
#include <type_traits>
#include <utility>
#include <vector>

#include "graft/autograd/gradcheck.hpp"
#include "graft/core/random.hpp"
#include "graft/models/bert.hpp"
#include "graft/models/llama.hpp"
#include "graft/nn/init.hpp"
#include "graft/peft/attach.hpp"
#include "support/catch.hpp"

namespace graft::test {

inline llama_config small_llama_config(index_t layers = 3) {
  llama_config c;
  c.vocab_size = 50, c.hidden_size = 32, c.intermediate_size = 44;
  c.num_hidden_layers = layers, c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 8;
  c.max_position_embeddings = 64;
  c.tie_word_embeddings = true;
  return c;
}

/// Frozen, with random weights large enough that layers matter.
template <class T>
llama<T> small_llama(const llama_config& c, std::uint64_t seed = 1) {
  llama<T> m(c);
  initialize(m, seed, 0.15);
  freeze(m);
  return m;
}
template <class T>
llama<T> small_llama(index_t layers = 3, std::uint64_t seed = 1) { return small_llama<T>(small_llama_config(layers), seed); }

template <class T>
bert<T> small_bert(index_t layers = 2, std::uint64_t seed = 1) {
  bert_config c;
  c.vocab_size = 50, c.hidden_size = 24, c.intermediate_size = 40;
  c.num_hidden_layers = layers, c.num_attention_heads = 3, c.max_position_embeddings = 64;
  bert<T> m(c);
  initialize(m, seed, 0.15);
  freeze(m);
  return m;
}

/// A classifier of two kinds, its encoder wide enough that activations are what a tape keeps; adapters where they are wanted.
inline bert_classifier<float> wide_classifier(index_t layers, const target_modules& where) {
  bert_config c;
  c.vocab_size = 50, c.hidden_size = 96, c.intermediate_size = 384, c.num_hidden_layers = layers, c.num_attention_heads = 4;
  bert<float> encoder(c);
  initialize(encoder, 1, 0.08);
  bert_classifier<float> model(std::move(encoder), 2, pooling::mean);
  initialize(model.classifier, 2, 0.08);
  attach(model, where, lora_options{.rank = 4});
  return model;
}

/// Sequences of the given lengths over 50 tokens, labelled with their next tokens.
inline token_batch random_batch(std::initializer_list<index_t> lengths, std::uint64_t seed = 7) {
  random_stream random(seed);
  token_batch b;
  for (const index_t n : lengths) {
    std::vector<std::int32_t> ids;
    for (index_t i = 0; i < n; ++i) ids.push_back(static_cast<std::int32_t>(random.below(50)));
    b.add_with_next_labels(ids);
  }
  return b;
}

/// What many tests show a model.
inline const token_batch two_sequences = random_batch({9, 5});

/// y of a layer with its adapters, which nobody records.
template <class T>
tensor<T, 2> applied(adapted_linear<T>& layer, std::type_identity_t<tensor_view<const T, 2>> x, batch_info info = {}, executor_ref executor = {},
                     std::uint64_t seed = 0) {
  context ctx(executor);
  ctx.seed = seed;
  tape<T> t(ctx, recording::off, info);
  return tensor<T, 2>::copy_of(layer(t, t.constant(x)).value);
}

/// What central differences say of the gradients of everything trainable, `most` elements of each, after the loss of a batch.
template <module M>
double error_of_gradients(M& model, const token_batch& batch, index_t most) {
  context ctx;
  std::vector<checked_leaf<double>> leaves;
  for (auto& p : trainable(model)) leaves.push_back({p.parameter->value(), p.parameter->gradient()});
  REQUIRE(!leaves.empty());
  return gradient_error<double>(ctx, leaves, [&](tape<double>& t) { return model.loss(t, batch); }, {.most_elements = most});
}

/// The gradients of everything trainable, one after another; the model is left without any.
template <module M>
auto take_gradients(M& model) {
  using T = typename M::value_type;
  std::vector<T> all;
  for (auto& p : trainable(model)) {
    const auto g = p.parameter->gradient_values();
    all.insert(all.end(), g.begin(), g.end());
    p.parameter->clear_gradient();
  }
  auto t = tensor<T, 1>::zeros({std::ssize(all)});
  std::ranges::copy(all, t.data());
  return t;
}

/// Moves every adapter of a model away from its start, where it does nothing.
template <module M>
void disturb_adapters(M& m, double bound = 0.3) {
  for (auto& p : select(m, is_trainable)) fill_uniform(p.parameter->value(), random_stream(99).substream(p.path), bound);
}

/// The gradients of the parameters, which have none afterwards.
template <class T>
std::vector<std::vector<T>> take_gradients(const std::vector<parameter_ref<T>>& parameters) {
  std::vector<std::vector<T>> gradients;
  for (const auto& p : parameters) {
    const auto values = p.parameter->gradient_values();
    gradients.emplace_back(values.begin(), values.end());
    p.parameter->clear_gradient();
  }
  return gradients;
}

}  // namespace graft::test
