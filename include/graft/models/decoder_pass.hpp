// SPDX-License-Identifier: Apache-2.0
// What one forward pass of any decoder has to know: where tokens stand, and the cache when there is one.
// Read next: models/llama.hpp, models/gpt2.hpp.
#pragma once
#include <algorithm>
#include <span>
#include <string_view>

#include "graft/models/kv_cache.hpp"
#include "graft/nn/batch.hpp"
#include "graft/ops/attention.hpp"

namespace graft {

/// What the layers of one forward pass share. Lives in the tape.
template <class T>
struct decoder_pass {
  std::span<const std::int32_t> positions;
  std::span<const index_t> query_offsets, key_offsets;
  kv_cache<T>* cache = nullptr;

  /// Of a batch, which with a cache continues its one sequence. Throws shape_error for an empty batch, several sequences beside a
  /// cache, and sequences longer than `longest`; `model` is its name in errors.
  decoder_pass(tape<T>& t, const token_batch& batch, kv_cache<T>* with, index_t longest, std::string_view model) : cache(with) {
    const index_t before = cache == nullptr ? 0 : cache->length();
    if (batch.tokens() == 0) throw_error<shape_error>(model, ": the batch has no tokens");
    if (cache != nullptr && batch.sequences() != 1)
      throw_error<shape_error>(model, ": a cache continues one sequence, the batch has ", batch.sequences());
    if (before + batch.longest() > longest)
      throw_error<shape_error>(model, ": a sequence of ", before + batch.longest(), " tokens, the model allows ", longest);
    query_offsets = key_offsets = t.keep(std::span<const index_t>(batch.offsets));
    const auto moved = t.template keep_room<std::int32_t>(batch.positions.size());
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i] = batch.positions[i] + static_cast<std::int32_t>(before);
    positions = moved;
    if (cache != nullptr) {
      const index_t ends[] = {0, before + batch.tokens()};
      key_offsets = t.keep(std::span<const index_t>(ends));
    }
    t.batch.sequence_offsets = query_offsets;
  }

  index_t last_position() const { return *std::ranges::max_element(positions); }

  /// Causal attention of layer `number`, over the cache's keys and values where there is one. Throws state_error when something of a
  /// cached pass is trainable.
  var<T, 2> attend(tape<T>& t, kernel::attention_layout at, index_t number, const var<T, 2>& q, var<T, 2> k, var<T, 2> v) const {
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
};

}  // namespace graft
