// SPDX-License-Identifier: Apache-2.0
// Token sequences as models take them: one after another, without padding. Read next: models/llama.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "graft/core/tensor.hpp"
#include "graft/kernel/softmax.hpp"

namespace graft {

/// Sequences of any lengths, their tokens concatenated. Padding is never stored and never computed: attention and pooling
/// know the sequences by their offsets.
struct token_batch {
  std::vector<std::int32_t> ids;
  std::vector<index_t> offsets{0};      // sequence s is [offsets[s], offsets[s + 1])
  std::vector<std::int32_t> positions;  // of every token within its sequence
  std::vector<std::int32_t> types;      // token types, where the model has them
  std::vector<std::int32_t> labels;     // targets of a loss, one a token; kernel::ignored_label takes no part

  index_t sequences() const noexcept { return static_cast<index_t>(offsets.size()) - 1; }
  index_t tokens() const noexcept { return static_cast<index_t>(ids.size()); }
  index_t longest() const noexcept {
    index_t most = 0;
    for (std::size_t s = 0; s + 1 < offsets.size(); ++s) most = std::max(most, offsets[s + 1] - offsets[s]);
    return most;
  }

  void clear() {
    ids.clear();
    offsets.assign(1, 0);
    positions.clear();
    types.clear();
    labels.clear();
  }

  /// Appends a sequence. token_types may be empty: then they are zeros.
  void add(std::span<const std::int32_t> sequence, std::span<const std::int32_t> token_types = {}) {
    if (!token_types.empty() && token_types.size() != sequence.size())
      throw_error<shape_error>("token_batch: ", sequence.size(), " tokens have ", token_types.size(), " types");
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    for (std::size_t i = 0; i < sequence.size(); ++i) {
      positions.push_back(static_cast<std::int32_t>(i));
      types.push_back(token_types.empty() ? 0 : token_types[i]);
    }
    offsets.push_back(static_cast<index_t>(ids.size()));
  }

  /// Appends a sequence whose labels are its own next tokens; the last token has none.
  void add_with_next_labels(std::span<const std::int32_t> sequence) {
    add(sequence);
    if (sequence.empty()) return;
    labels.insert(labels.end(), sequence.begin() + 1, sequence.end());
    labels.push_back(kernel::ignored_label);
  }

  /// Becomes sequences [first, last) of another batch, with their labels, be they one a token or one a sequence.
  void assign_sequences(const token_batch& from, index_t first, index_t last) {
    const index_t begin = from.offsets[static_cast<std::size_t>(first)], end = from.offsets[static_cast<std::size_t>(last)];
    const auto copy = [](const std::vector<std::int32_t>& all, std::vector<std::int32_t>& to, index_t a, index_t b) {
      to.assign(all.begin() + a, all.begin() + b);
    };
    copy(from.ids, ids, begin, end);
    copy(from.positions, positions, begin, end);
    copy(from.types, types, begin, end);
    if (from.labels.empty()) labels.clear();
    else if (std::ssize(from.labels) == from.tokens()) copy(from.labels, labels, begin, end);
    else if (std::ssize(from.labels) == from.sequences()) copy(from.labels, labels, first, last);
    else throw_error<shape_error>("token_batch: ", from.tokens(), " tokens in ", from.sequences(), " sequences have ", from.labels.size(), " labels");
    offsets.resize(static_cast<std::size_t>(last - first) + 1);
    for (index_t s = first; s <= last; ++s) offsets[static_cast<std::size_t>(s - first)] = from.offsets[static_cast<std::size_t>(s)] - begin;
  }
};

/// A batch from padded rows: tokens whose mask is zero are dropped, the others keep the position of their column.
/// Shapes: ids and mask (B, S); types (B, S) or an empty view.
inline token_batch drop_padding(tensor_view<const std::int32_t, 2> ids, tensor_view<const std::int32_t, 2> mask,
                                tensor_view<const std::int32_t, 2> types = {}) {
  if (mask.shape != ids.shape || (types.data != nullptr && types.shape != ids.shape))
    throw_error<shape_error>("drop_padding: ids are ", to_string(ids.shape), ", the mask is ", to_string(mask.shape));
  token_batch batch;
  for (index_t b = 0; b < ids.shape[0]; ++b) {
    for (index_t s = 0; s < ids.shape[1]; ++s) {
      if (mask(b, s) == 0) continue;
      batch.ids.push_back(ids(b, s));
      batch.positions.push_back(static_cast<std::int32_t>(s));
      batch.types.push_back(types.data == nullptr ? 0 : types(b, s));
    }
    batch.offsets.push_back(static_cast<index_t>(batch.ids.size()));
  }
  return batch;
}

}  // namespace graft
