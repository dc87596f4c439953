// SPDX-License-Identifier: Apache-2.0
// Prefix tuning: trained keys and values that attention sees before those of every sequence, the model itself frozen.
// Read next: io/prompt_folder.hpp.
#pragma once
#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "graft/peft/prompt.hpp"

namespace graft {

/// Keys and values of virtual tokens. Paths: "prefix.0" (P, kv heads * head size), the keys of layer 0, "prefix.1", its values, and so
/// on, of tag "adapter". Keys are as attention reads them: no rotary position is applied any more.
template <class T>
struct key_value_prefix {
  using value_type = T;
  std::vector<parameter<T, 2>> rows;

  /// These, in this order, trainable. Throws shape_error unless they are pairs and of one shape.
  explicit key_value_prefix(std::vector<tensor<T, 2>> keys_and_values) {
    if (keys_and_values.empty() || keys_and_values.size() % 2 != 0)
      throw_error<shape_error>("prefix: ", keys_and_values.size(), " arrays are no pairs of keys and values");
    for (auto& a : keys_and_values) {
      if (!rows.empty() && a.shape() != rows[0].extent())
        throw_error<shape_error>("prefix: keys or values of shape ", to_string(a.shape()), " beside ", to_string(rows[0].extent()));
      rows.emplace_back(std::move(a)).tag = "adapter";
    }
  }
  static void visit(auto& self, auto& v) { v("prefix", self.rows); }

  index_t layers() const { return std::ssize(rows) / 2; }
  index_t tokens() const { return rows[0].shape()[0]; }
  index_t width() const { return rows[0].shape()[1]; }
};

/// A decoder, llama or gpt2, whose layers attend to a prefix of keys and values, used as the decoder is. Real tokens stand at positions P
/// and on, as behind a cache of P tokens. Generation puts the prefix into the cache with the first tokens. Parameter paths are the
/// model's, and "prefix.*".
/// Cost: P keys more for every query, and a copy of each layer's keys and values; 2 layers P width values train. Below the first layer's
/// attention nothing is kept for backward; above it activations are, as with adapters in every layer. It cannot be merged into weights.
/// Source: Li and Liang 2021, without their network that makes the rows while training.
template <module M>
struct prefixed : M {
  using T = typename M::value_type;
  using cache_type = decltype(std::declval<const M&>().make_cache(0));
  key_value_prefix<T> prefix;

  /// Freezes the model. With init_ids the prefix starts as the cache the model makes of them: it then computes as if they stood before
  /// every sequence. Throws option_error for impossible options and ids beyond the vocabulary, shape_error beyond the model's window.
  explicit prefixed(M base, const prompt_options& o = {}) : M(std::move(base)), prefix(first_rows(*this, o)) { freeze(static_cast<M&>(*this)); }
  /// With a prefix that is there already, from a folder say. Throws shape_error unless it has the model's layers and the width of its keys.
  prefixed(M base, key_value_prefix<T> rows) : M(std::move(base)), prefix(std::move(rows)) {
    if (prefix.layers() != M::config.num_hidden_layers || prefix.width() != key_width(*this))
      throw_error<shape_error>("prefix: ", prefix.layers(), " layers of keys of width ", prefix.width(), " for a model of ",
                               M::config.num_hidden_layers, " layers and keys of width ", key_width(*this));
    freeze(static_cast<M&>(*this));
  }
  static void visit(auto& self, auto& v) {
    M::visit(self, v);
    v("", self.prefix);
  }

  /// As of the model: (tokens, hidden_size).
  var<T, 2> hidden(tape<T>& t, const token_batch& batch, cache_type* cache = nullptr) { return M::hidden(t, batch, cache, before()); }
  var<T, 2> logits(tape<T>& t, const var<T, 2>& x) { return M::logits(t, x); }
  var<T, 2> logits(tape<T>& t, const token_batch& batch) { return M::logits(t, batch, before()); }
  var<T, 0> loss(tape<T>& t, const token_batch& batch) { return M::loss(t, batch, before()); }
  /// With room for `capacity` tokens behind the prefix.
  auto make_cache(index_t capacity) const { return M::make_cache(capacity + prefix.tokens()); }

 private:
  virtual_tokens<T> before() { return {.keys_and_values = prefix.rows}; }
  static index_t key_width(const M& model) { return model.make_cache(1).keys(0, 1).shape[1]; }

  static std::vector<tensor<T, 2>> first_rows(M& model, const prompt_options& o) {
    o.validate("prefix", model.config.vocab_size);
    std::vector<tensor<T, 2>> rows;
    if (o.init_ids.empty()) {
      const random_stream random(o.seed);
      for (index_t i = 0; i < 2 * model.config.num_hidden_layers; ++i)
        fill_normal(rows.emplace_back(extents<2>{o.tokens, key_width(model)}).span(), random.substream(concat("prefix.", i)), o.deviation);
      return rows;
    }
    context ctx;
    tape<T> t(ctx, recording::off);
    auto cache = model.make_cache(o.tokens);
    token_batch batch;
    batch.add(o.repeated_ids());
    model.hidden(t, batch, &cache);
    for (index_t l = 0; l < model.config.num_hidden_layers; ++l) {
      rows.push_back(tensor<T, 2>::copy_of(cache.keys(l, o.tokens)));
      rows.push_back(tensor<T, 2>::copy_of(cache.values(l, o.tokens)));
    }
    return rows;
  }
};

}  // namespace graft
