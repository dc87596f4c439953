// SPDX-License-Identifier: Apache-2.0
// What a decoder can be given to stand before the tokens of every sequence: trained rows instead of trained weights.
// Read next: peft/prompt.hpp, peft/prefix.hpp.
#pragma once
#include <span>

#include "graft/nn/parameter.hpp"

namespace graft {

/// Rows that every sequence of a batch begins with, though no token of the batch stands for them. The parameters must outlive the tape.
template <class T>
struct virtual_tokens {
  parameter<T, 2>* embeddings = nullptr;         // (rows, width): pass through every layer, as embeddings of tokens do
  std::span<parameter<T, 2>> keys_and_values{};  // the keys of layer l at 2 l, its values at 2 l + 1, each (rows, width of a cache)

  index_t embedded_rows() const { return embeddings == nullptr ? 0 : embeddings->shape()[0]; }
  index_t key_rows() const { return keys_and_values.empty() ? 0 : keys_and_values[0].shape()[0]; }
};

}  // namespace graft
