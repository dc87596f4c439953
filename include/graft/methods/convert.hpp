// SPDX-License-Identifier: Apache-2.0
// Any adapter that can be folded into a weight as a LoRA: the truncated change it makes, with the error stated.
// Read next: methods/merge.hpp, io/peft_folder.hpp.
#pragma once
#include <algorithm>
#include <concepts>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/methods/merge.hpp"

namespace graft {

namespace detail {

/// The layer's weight and bias with the first `count` adapters folded in.
template <class T>
merged_linear<T> merged_before(const adapted_linear<T>& layer, std::size_t count) {
  merged_linear<T> m{layer.weight.share().template to_tensor<T, 2>(), {}};
  if (layer.bias) m.bias = layer.bias->share().template to_tensor<T, 1>();
  for (std::size_t i = 0; i < count; ++i) layer.adapters[i].adapter.merge_into({m.weight.view(), m.bias ? m.bias->view() : tensor_view<T, 1>{}});
  return m;
}

template <class T, class A>
const lora<T>* as_lora(const A& a) {
  if constexpr (std::same_as<A, lora<T>>) return &a;
  else if constexpr (std::same_as<A, any_adapter<T>>) return a.template get<lora<T>>();
  else return nullptr;
}

}  // namespace detail

/// A LoRA of this rank for what an adapter does to a layer: the truncated SVD of merged - before. `before` is the weight (and
/// bias) that the adapter wraps. The subtraction rounds as T does, by about epsilon |before| / |merged - before| relative to the
/// change; a LoRA is truncated by its factors instead. `layer` stands for the layer in errors. Throws option_error for a rank
/// outside 1 to 65536, state_error when the adapter cannot be folded in, changes the bias, or gives NaN.
template <class T, adapter<T> A>
fitted_lora<T> to_lora(const merged_linear<T>& before, const A& a, index_t rank, std::string_view layer = "the layer") {
  lora_options{.rank = rank}.validate();
  if (const lora<T>* l = detail::as_lora<T>(a)) {
    const weighted_lora<T> alone[] = {{l, 1, "the adapter"}};
    return merge_loras<T>(alone, {.rank = rank}, layer);
  }
  merged_linear<T> after{before.weight.clone(), {}};
  if (before.bias) after.bias = before.bias->clone();
  try {
    a.merge_into({after.weight.view(), after.bias ? after.bias->view() : tensor_view<T, 1>{}});
  } catch (const state_error& e) {
    throw_error<state_error>("to_lora: ", layer, ": ", e.what());
  }
  if (before.bias && !std::ranges::equal(before.bias->span(), after.bias->span()))
    throw_error<state_error>("to_lora: ", layer, ": ", a.describe(), " changes the bias, which a LoRA cannot");
  detail::zip_elements(after.weight.view(), before.weight.view(), [](T& to, const T& from) { to -= from; });
  if (first_not_finite(dtype_of<T>, std::as_bytes(after.weight.span())) >= 0)
    throw_error<state_error>("to_lora: ", layer, ": ", a.describe(), " makes NaN or infinity of the weight");
  return detail::lora_of<T>(svd<T>(after.weight, rank), rank);
}

/// Replaces the adapters of one name by LoRA of this rank, where they stand and under their name, and says what each lost. The
/// new ones can be trained. Memory: three dense copies of a layer a thread. Layers are shared among the executor's threads,
/// and the result does not depend on their number. Throws option_error when no layer has the name, state_error when
/// an embedding has, and as to_lora() does;
/// then the model is as it was.
template <module M>
low_rank_report convert_to_lora(M& model, std::string_view name, index_t rank, const executor_ref& threads = {}) {
  using T = typename M::value_type;
  struct site {
    std::string path;
    adapted_linear<T>* layer;
    std::size_t place;
    std::optional<fitted_lora<T>> made;
  };
  detail::require_plain_embeddings(model, "convert_to_lora", name);
  std::vector<site> sites;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    for (std::size_t i = 0; i < layer.adapters.size(); ++i)
      if (layer.adapters[i].name == name) sites.push_back({std::string(path), &layer, i, {}});
  });
  if (sites.empty()) throw_error<option_error>("convert_to_lora: no layer has an adapter named \"", name, "\"");
  threads.parallel_for(std::ssize(sites), 1, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      auto& s = sites[static_cast<std::size_t>(i)];
      s.made.emplace(to_lora<T>(detail::merged_before(*s.layer, s.place), s.layer->adapters[s.place].adapter, rank, s.path));
    }
  });
  low_rank_report report;
  for (auto& s : sites) {
    report.layers.push_back({s.path, rank, s.made->relative_error});
    s.layer->adapters[s.place].adapter = std::move(s.made->adapter);
  }
  return report;
}

}  // namespace graft
