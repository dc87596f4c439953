// SPDX-License-Identifier: Apache-2.0
// LoRA of embeddings: new meanings for tokens at R numbers an entry. Read next: io/peft_folder.hpp; nn/embedding.hpp has the slot.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "graft/nn/filter.hpp"
#include "graft/peft/attach.hpp"

namespace graft {

/// Freezes the whole model but its adapters, then puts a LoRA into the slot of every embedding the targets name: A zero, B normal with
/// deviation 1, so that it starts as the identity. Returns how many. Trains R (entries + size) numbers each; a step costs the
/// tokens of the batch and a pass over A's gradient. A head that shares the embedding's table goes on with the table as it was, as in
/// Python's peft; such a model is not merged. lora_options::dropout and init do not apply. Throws option_error when no embedding
/// matches, for all_linear, when the name is taken, or for biases to train; nothing is attached then.
template <module M>
index_t attach_to_embeddings(M& model, const target_modules& where, const lora_options& lora_o = {}, const attach_options& o = {}) {
  using T = typename M::value_type;
  lora_o.validate();
  if (o.bias != bias_training::none) throw_error<option_error>("attach_to_embeddings: embeddings have no biases to train");
  if (where.how() == target_modules::kind::all_linear) throw_error<option_error>("attach_to_embeddings: all_linear names no embedding");
  std::vector<std::pair<std::string, embedding_module<T>*>> chosen;
  std::string known;
  visit_embeddings(model, [&](std::string_view path, embedding_module<T>& e) {
    known += concat(known.empty() ? "" : ", ", path);
    if (where.matches(path)) chosen.emplace_back(path, &e);
  });
  if (chosen.empty()) throw_error<option_error>("attach_to_embeddings: the target modules name no embedding; the model has ", known);
  for (const auto& [path, e] : chosen)
    if (std::ranges::find(e->adapters, o.name, &low_rank_rows<T>::name) != e->adapters.end())
      throw_error<option_error>("attach_to_embeddings: ", path, " already has an adapter named \"", o.name, "\"");
  detail::freeze_but_adapters(model);
  for (const auto& [path, e] : chosen) {
    const auto [entries, size] = e->weight.extent();
    tensor<T, 2> b({size, lora_o.rank});
    fill_normal(b.span(), random_stream(o.seed).substream(path).substream("lora_embedding_B"), 1);
    e->adapters.emplace_back(o.name, tensor<T, 2>::zeros({entries, lora_o.rank}), std::move(b), lora_o.alpha, lora_o.rank_stabilised);
  }
  return std::ssize(chosen);
}

}  // namespace graft
