// SPDX-License-Identifier: Apache-2.0
// Prompt tuning: trained embeddings of virtual tokens before every sequence, the model itself frozen.
// Read next: peft/prefix.hpp, io/prompt_folder.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/autograd/tape.hpp"
#include "graft/nn/batch.hpp"
#include "graft/nn/init.hpp"
#include "graft/nn/virtual_tokens.hpp"

namespace graft {

struct prompt_options {
  index_t tokens = 20;                  // virtual ones, >= 1
  std::vector<std::int32_t> init_ids{};  // start from what the model makes of these tokens, repeated or cut; none: from random numbers
  double deviation = 0.02;              // of those; Python's peft draws them with 1
  std::uint64_t seed = 0;

  /// Throws option_error naming the value; `vocabulary` is the model's.
  void validate(std::string_view what, index_t vocabulary) const {
    if (tokens < 1 || tokens > (1 << 16)) throw_error<option_error>(what, ": tokens is ", tokens, ", expected 1 to 65536");
    if (!(deviation >= 0) || !std::isfinite(deviation))
      throw_error<option_error>(what, ": deviation is ", deviation, ", expected 0 or more");
    for (std::size_t i = 0; i < init_ids.size(); ++i)
      if (init_ids[i] < 0 || init_ids[i] >= vocabulary)
        throw_error<option_error>(what, ": init_ids has ", init_ids[i], " at position ", i, ", the model's vocabulary has ", vocabulary, " tokens");
  }
  /// init_ids over and over until there is one for every virtual token.
  std::vector<std::int32_t> repeated_ids() const {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = init_ids[i % init_ids.size()];
    return ids;
  }
};

/// Embeddings of virtual tokens. Paths: "prompt_embeddings" (P, width), of tag "adapter".
template <class T>
struct soft_prompt {
  using value_type = T;
  parameter<T, 2> embeddings;

  /// These rows, trainable.
  explicit soft_prompt(tensor<T, 2> rows) : embeddings(std::move(rows)) { embeddings.tag = "adapter"; }
  static void visit(auto& self, auto& v) { v("prompt_embeddings", self.embeddings); }

  index_t tokens() const { return embeddings.shape()[0]; }
  index_t width() const { return embeddings.shape()[1]; }
};

/// A decoder, llama or gpt2, behind a soft prompt, used as the decoder is: batches hold the real tokens alone, and so do the hidden states
/// and scores that come back; the loss is over their labels. The prompt's rows pass through every layer, at positions 0 to P - 1; real
/// tokens follow at P. Generation puts the prompt into the cache with the first tokens. Parameter paths are the model's, and
/// "prompt_embeddings".
/// Cost: P rows more a sequence, forward and backward; P * width values train. Since gradients reach the prompt through the whole model,
/// activations are kept as with adapters in every layer, the inputs of frozen linear layers excepted. It cannot be merged into weights.
/// PEFT's loss is the same but that there the last virtual token learns to predict the first real one, unless its label is ignored.
/// Source: Lester, Al-Rfou and Constant 2021.
template <module M>
struct prompted : M {
  using T = typename M::value_type;
  using cache_type = decltype(std::declval<const M&>().make_cache(0));
  soft_prompt<T> prompt;

  /// Freezes the model. Throws option_error for impossible options and ids beyond the vocabulary.
  explicit prompted(M base, const prompt_options& o = {}) : M(std::move(base)), prompt(first_rows(*this, o)) { freeze(static_cast<M&>(*this)); }
  /// With a prompt that is there already, from a folder say. Throws shape_error unless it is as wide as the model.
  prompted(M base, soft_prompt<T> rows) : M(std::move(base)), prompt(std::move(rows)) {
    if (prompt.width() != M::config.hidden_size)
      throw_error<shape_error>("prompt: virtual tokens of width ", prompt.width(), " for a model of width ", M::config.hidden_size);
    freeze(static_cast<M&>(*this));
  }
  static void visit(auto& self, auto& v) {
    M::visit(self, v);
    v("", self.prompt);
  }

  /// As of the model: (tokens, hidden_size).
  var<T, 2> hidden(tape<T>& t, const token_batch& batch, cache_type* cache = nullptr) { return M::hidden(t, batch, cache, before()); }
  var<T, 2> logits(tape<T>& t, const var<T, 2>& x) { return M::logits(t, x); }
  var<T, 2> logits(tape<T>& t, const token_batch& batch) { return M::logits(t, batch, before()); }
  var<T, 0> loss(tape<T>& t, const token_batch& batch) { return M::loss(t, batch, before()); }
  /// With room for `capacity` tokens behind the prompt.
  auto make_cache(index_t capacity) const { return M::make_cache(capacity + prompt.tokens()); }

 private:
  virtual_tokens<T> before() { return {.embeddings = &prompt.embeddings}; }

  static tensor<T, 2> first_rows(M& model, const prompt_options& o) {
    o.validate("prompt", model.config.vocab_size);
    tensor<T, 2> rows({o.tokens, model.config.hidden_size});
    if (o.init_ids.empty()) {
      fill_normal(rows.span(), random_stream(o.seed).substream("prompt_embeddings"), o.deviation);
      return rows;
    }
    context ctx;
    tape<T> t(ctx, recording::off);
    const auto ids = o.repeated_ids();
    const auto embedded = model.token_embeddings()(t, ids);
    std::copy_n(embedded.value.data, rows.size(), rows.data());
    return rows;
  }
};

}  // namespace graft
