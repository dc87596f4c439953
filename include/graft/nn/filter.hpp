// SPDX-License-Identifier: Apache-2.0
// Trainable, frozen, shared, local are not properties of layers but predicates on parameters. Predicates compose.
// Read next: nn/state.hpp.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/nn/module.hpp"

namespace graft {

/// A predicate on parameters: bool (const parameter_ref<T>&). These make some.
inline constexpr auto everything = [](const auto&) { return true; };
inline constexpr auto nothing = [](const auto&) { return false; };
inline constexpr auto is_trainable = [](const auto& p) { return p.trainable(); };

/// Parameters with this tag: "base", "adapter", "shared", "local".
inline auto tagged(std::string_view tag) {
  return [tag = std::string(tag)](const auto& p) { return p.tag() == tag; };
}
/// Parameters at this path or below it.
inline auto below(std::string_view prefix) {
  return [prefix = std::string(prefix)](const auto& p) {
    return p.path.starts_with(prefix) && (p.path.size() == prefix.size() || p.path[prefix.size()] == '.');
  };
}
/// Parameters whose path contains this text.
inline auto path_contains(std::string_view text) {
  return [text = std::string(text)](const auto& p) { return p.path.find(text) != std::string::npos; };
}
template <class A, class B>
auto both(A a, B b) {
  return [a = std::move(a), b = std::move(b)](const auto& p) { return a(p) && b(p); };
}
template <class A, class B>
auto either(A a, B b) {
  return [a = std::move(a), b = std::move(b)](const auto& p) { return a(p) || b(p); };
}
template <class A>
auto except(A a) {
  return [a = std::move(a)](const auto& p) { return !a(p); };
}

template <class T>
using parameter_filter = function_ref<bool(const parameter_ref<T>&)>;

/// The parameters a filter names.
template <module M>
std::vector<parameter_ref<typename M::value_type>> select(M& m, parameter_filter<typename M::value_type> which) {
  auto all = parameters(m);
  std::erase_if(all, [&](const auto& p) { return !which(p); });
  return all;
}
/// The trainable parameters: what an optimiser is given.
template <module M>
auto trainable(M& m) { return select(m, is_trainable); }

/// Freezes what the filter names; it keeps its values and loses its gradient.
template <module M>
void freeze(M& m, parameter_filter<typename M::value_type> which = everything) {
  for (auto& p : select(m, which)) p.parameter->freeze();
}
/// Makes what the filter names trainable, with values of the compute type.
template <module M>
void unfreeze(M& m, parameter_filter<typename M::value_type> which = everything) {
  for (auto& p : select(m, which)) p.parameter->unfreeze();
}

/// Number of elements of the parameters the filter names.
template <module M>
index_t count_parameters(M& m, parameter_filter<typename M::value_type> which = everything) {
  index_t n = 0;
  for (auto& p : select(m, which)) n += p.parameter->size();
  return n;
}

}  // namespace graft
