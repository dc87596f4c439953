// SPDX-License-Identifier: Apache-2.0
// Training a few of the model's own parameters: those of its normalisation layers, or its biases. Read next: io/tuned_folder.hpp.
#pragma once
#include <algorithm>
#include <concepts>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/nn/filter.hpp"
#include "graft/nn/linear.hpp"
#include "graft/nn/norm.hpp"

namespace graft {

namespace detail {

/// Hands the path of every normalisation layer to a callback.
template <class T>
class norm_visitor : public tree_walk<norm_visitor<T>> {
 public:
  explicit norm_visitor(function_ref<void(std::string_view path)> f) : f_(f) {}

  template <class Member>
  static constexpr bool takes = std::same_as<Member, rms_norm_module<T>> || std::same_as<Member, layer_norm_module<T>>;
  template <class Member>
  static constexpr bool ignores = std::derived_from<Member, parameter_base<T>> || std::same_as<Member, any_adapter<T>>;
  template <class Norm>
  void leaf(Norm&) { f_(this->path()); }

 private:
  function_ref<void(std::string_view)> f_;
};

/// Makes the base's parameters that the filter names trainable and counts their values.
template <module M>
index_t tune(M& model, std::string_view who, std::string_view what, parameter_filter<typename M::value_type> which) {
  const auto base = [&](const auto& p) { return p.tag() == "base" && which(p); };
  const index_t values = count_parameters(model, base);
  if (values == 0) throw_error<option_error>(who, ": the model has no ", what);
  unfreeze(model, base);
  return values;
}

/// Parameters of these modules.
inline auto in_modules(std::vector<std::string> paths) {
  return [paths = std::move(paths)](const auto& p) {
    const std::size_t end = p.path.rfind('.');
    return std::ranges::find(paths, end == p.path.npos ? std::string() : p.path.substr(0, end)) != paths.end();
  };
}

}  // namespace detail

/// The paths of a model's normalisation layers.
template <module M>
std::vector<std::string> norm_paths(M& model) {
  std::vector<std::string> paths;
  const auto note = [&](std::string_view path) { paths.emplace_back(path); };
  detail::norm_visitor<typename M::value_type> v(note);
  v("", model);
  return paths;
}

/// Makes the weights and biases of every normalisation layer trainable, as PEFT's LN_TUNING does, and returns how many values these are.
/// Nothing else changes: freeze(model) first where more than adapters trains. Cost: a layer has 2 * width values (4 with biases); each norm
/// keeps its input for backward, and activations are kept as with adapters in every layer. Throws option_error for a model without norms.
/// Source: Zhao et al. 2023.
template <module M>
index_t tune_norms(M& model) {
  return detail::tune(model, "tune_norms", "normalisation layers", detail::in_modules(norm_paths(model)));
}

/// Makes every bias of the base trainable, those of norms too, and returns how many values these are. Nothing else changes: freeze(model)
/// first where more than adapters trains. Cost: one value an output; a bias needs no input of its layer for backward, so that linear
/// layers keep nothing. Models that have none, most Llamas, cannot be tuned so: option_error. PEFT has no folder for it: save_state(model,
/// is_trainable) gives the trained biases, for save_safetensors() or a message. Source: Ben Zaken, Goldberg and Ravfogel 2022 (BitFit).
template <module M>
index_t tune_biases(M& model) {
  return detail::tune(model, "tune_biases", "biases", [](const auto& p) { return p.path == "bias" || p.path.ends_with(".bias"); });
}

}  // namespace graft
