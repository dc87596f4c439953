// SPDX-License-Identifier: Apache-2.0
// What one forward pass of any decoder has to know: where tokens stand, and the cache when there is one.
// Read next: models/llama.hpp, models/gpt2.hpp.
#pragma once
#include <algorithm>
#include <span>
#include <string_view>

#include "graft/models/kv_cache.hpp"
#include "graft/nn/batch.hpp"
#include "graft/nn/virtual_tokens.hpp"
#include "graft/ops/attention.hpp"
#include "graft/ops/sequence_rows.hpp"

namespace graft {

/// What the layers of one forward pass share. Lives in the tape.
template <class T>
struct decoder_pass {
  std::span<const std::int32_t> positions;
  std::span<const index_t> token_offsets, query_offsets, key_offsets;  // of the batch; with virtual rows; with keys that stand before
  kv_cache<T>* cache = nullptr;
  virtual_tokens<T> before;  // what this pass puts before the tokens: nothing where a cache holds it already

  /// Of a batch, which with a cache continues its one sequence. Throws shape_error for an empty batch, several sequences beside a
  /// cache, and sequences longer than `longest`, virtual tokens counted; `model` is its name in errors.
  decoder_pass(tape<T>& t, const token_batch& batch, kv_cache<T>* with, index_t longest, std::string_view model, virtual_tokens<T> ahead = {})
      : cache(with) {
    const index_t cached = cache == nullptr ? 0 : cache->length();
    if (cached == 0) before = ahead;
    const index_t keys = before.key_rows(), rows = before.embedded_rows(), earlier = cached + keys;
    if (batch.tokens() == 0) throw_error<shape_error>(model, ": the batch has no tokens");
    if (cache != nullptr && batch.sequences() != 1)
      throw_error<shape_error>(model, ": a cache continues one sequence, the batch has ", batch.sequences());
    if (earlier + rows + batch.longest() > longest)
      throw_error<shape_error>(model, ": a sequence of ", earlier + rows + batch.longest(), " tokens, the model allows ", longest);
    token_offsets = t.keep(std::span<const index_t>(batch.offsets));
    query_offsets = rows == 0 ? token_offsets : longer(t, token_offsets, rows);
    key_offsets = keys == 0 ? query_offsets : longer(t, query_offsets, keys);
    if (cache != nullptr) {
      const index_t ends[] = {0, earlier + rows + batch.tokens()};
      key_offsets = t.keep(std::span<const index_t>(ends));
    }
    positions = moved_positions(t, batch, earlier, rows);
    t.batch.sequence_offsets = query_offsets;
  }

  index_t last_position() const { return *std::ranges::max_element(positions); }

  /// The embeddings of the tokens, (tokens, width), with the virtual ones before those of every sequence.
  var<T, 2> with_virtual(tape<T>& t, var<T, 2> x) const {
    return before.embeddings == nullptr ? x : prepend_rows(t, t.leaf(*before.embeddings), x, token_offsets);
  }
  /// The rows of the tokens alone, (tokens, width).
  var<T, 2> without_virtual(tape<T>& t, var<T, 2> x) const {
    return before.embeddings == nullptr ? x : drop_first_rows(t, x, before.embedded_rows(), token_offsets);
  }
  /// Tells the cache, where there is one, that every layer has given it this pass's rows.
  void advance_cache() const {
    if (cache != nullptr) cache->advance(key_offsets.back() - cache->length());
  }

  /// Causal attention of layer `number`, over the cache's keys and values where there is one. Throws state_error when something of a
  /// cached pass is trainable.
  var<T, 2> attend(tape<T>& t, kernel::attention_layout at, index_t number, const var<T, 2>& q, var<T, 2> k, var<T, 2> v) const {
    if (!before.keys_and_values.empty()) {
      const auto at_layer = 2 * static_cast<std::size_t>(number);
      if (before.keys_and_values.size() < at_layer + 2)
        throw_error<shape_error>("a prefix of keys and values for ", before.keys_and_values.size() / 2, " layers meets layer ", number);
      const auto pair = before.keys_and_values.subspan(at_layer, 2);
      k = prepend_rows(t, t.leaf(pair[0]), k, query_offsets);
      v = prepend_rows(t, t.leaf(pair[1]), v, query_offsets);
    }
    if (cache != nullptr) {
      if (k.needs_grad() || v.needs_grad()) throw_error<state_error>("a cache takes no part in training; use a tape that does not record");
      cache->append(number, k.value, v.value);
      k = t.constant(cache->keys(number, key_offsets.back()));
      v = t.constant(cache->values(number, key_offsets.back()));
    }
    at.causal = true;
    at.query_offsets = query_offsets;
    at.key_offsets = key_offsets;
    return attention(t, at, q, k, v);
  }

 private:
  static std::span<const index_t> longer(tape<T>& t, std::span<const index_t> offsets, index_t rows) {
    const auto moved = t.template keep_room<index_t>(offsets.size());
    for (std::size_t s = 0; s < moved.size(); ++s) moved[s] = offsets[s] + static_cast<index_t>(s) * rows;
    return moved;
  }
  /// Virtual rows stand at positions `earlier`, earlier + 1 ... of their sequence, its tokens behind them.
  static std::span<const std::int32_t> moved_positions(tape<T>& t, const token_batch& batch, index_t earlier, index_t rows) {
    const auto from = static_cast<std::int32_t>(earlier), count = static_cast<std::int32_t>(rows);
    const auto moved = t.template keep_room<std::int32_t>(batch.positions.size() + (batch.offsets.size() - 1) * static_cast<std::size_t>(rows));
    auto to = moved.begin();
    std::size_t sequence = 0;
    const auto begin_sequences = [&](index_t row) {  // those that begin at this row or before it
      for (; sequence + 1 < batch.offsets.size() && batch.offsets[sequence] <= row; ++sequence)
        for (std::int32_t v = 0; v < count; ++v) *to++ = from + v;
    };
    for (std::size_t i = 0; i < batch.positions.size(); ++i) {
      begin_sequences(static_cast<index_t>(i));
      *to++ = batch.positions[i] + from + count;
    }
    begin_sequences(batch.tokens());
    return {moved.begin(), to};
  }
};

}  // namespace graft
