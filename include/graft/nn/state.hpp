// SPDX-License-Identifier: Apache-2.0
// Model state out of and into named arrays, strictly: everything that does not fit is reported, and then nothing changes.
// Read next: io/checkpoint.hpp, io/peft_folder.hpp.
#pragma once
#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "graft/nn/filter.hpp"
#include "graft/nn/state_dict.hpp"

namespace graft {

struct load_options {
  bool strict = true;  // throw when anything is missing, unexpected or mismatched; else load what fits
};

struct load_report {
  std::vector<std::string> missing;     // parameters of the model for which nothing came
  std::vector<std::string> unexpected;  // arrays that the model has no parameter for
  std::vector<std::string> mismatched;  // "name: the model has (2, 3), the state has (3, 2)"

  bool clean() const { return missing.empty() && unexpected.empty() && mismatched.empty(); }
  /// All of it as text, a line each; long lists are cut after `most` entries of a kind.
  std::string describe(std::size_t most = 20) const {
    std::string s;
    const auto list = [&](std::string_view title, const std::vector<std::string>& names) {
      if (names.empty()) return;
      s += concat(s.empty() ? "" : "\n", names.size(), " ", title, ":");
      for (std::size_t i = 0; i < std::min(names.size(), most); ++i) s += "\n  " + names[i];
      if (names.size() > most) s += concat("\n  and ", names.size() - most, " more");
    };
    list("missing", missing);
    list("unexpected", unexpected);
    list("mismatched", mismatched);
    return s;
  }
};

/// The named parameters as arrays, copied. Trainable ones are of type T, frozen ones of their storage type.
template <module M>
state_dict save_state(M& m, parameter_filter<typename M::value_type> which = everything) {
  state_dict state;
  for (const auto& p : select(m, which)) {
    const auto bytes = p.parameter->bytes();
    state.items.emplace_back(p.path, array{p.type(), {p.shape().begin(), p.shape().end()}, {bytes.begin(), bytes.end()}});
  }
  return state;
}

namespace detail {

/// Pairs parameters with arrays by name. Shape(value) gives an array's extents.
template <class T, class V, class Shape>
load_report match(const std::vector<parameter_ref<T>>& parameters, const records<V>& arrays, Shape shape,
                  std::vector<std::pair<parameter_base<T>*, const V*>>& pairs) {
  load_report report;
  std::map<std::string_view, const V*> unused;
  for (const auto& [name, value] : arrays) unused.emplace(name, &value);
  for (const auto& p : parameters) {
    const auto found = unused.extract(p.path);
    if (found.empty()) {
      report.missing.push_back(p.path);
      continue;
    }
    const V& value = *found.mapped();
    if (!std::ranges::equal(shape(value), p.shape()))
      report.mismatched.push_back(concat(p.path, ": the model has ", to_string(p.shape()), ", the state has ", to_string(shape(value))));
    else
      pairs.emplace_back(p.parameter, &value);
  }
  for (const auto& [name, value] : unused) report.unexpected.emplace_back(name);
  return report;
}

inline void require_clean(const load_report& report, const load_options& o, std::string_view what) {
  if (o.strict && !report.clean()) throw_error<format_error>(what, " does not fit the model:\n", report.describe());
}

}  // namespace detail

/// Brings shared, immutable arrays into the parameters the filter names: frozen ones take them over without a copy,
/// trainable ones convert and copy. Throws format_error with the whole report when strict and anything does not fit; then
/// no parameter has changed.
template <module M>
load_report load_frozen(M& m, const records<frozen_array>& arrays, load_options o = {}, parameter_filter<typename M::value_type> which = everything) {
  using T = typename M::value_type;
  std::vector<std::pair<parameter_base<T>*, const frozen_array*>> pairs;
  const auto report = detail::match<T>(select(m, which), arrays, [](const frozen_array& a) { return a.shape(); }, pairs);
  detail::require_clean(report, o, "the checkpoint");
  for (auto& [parameter, a] : pairs) parameter->assign(*a);
  return report;
}

/// The same from arrays that may go away: the values are copied.
template <module M>
load_report load_state(M& m, const records<array_ref>& arrays, load_options o = {}, parameter_filter<typename M::value_type> which = everything) {
  using T = typename M::value_type;
  std::vector<std::pair<parameter_base<T>*, const array_ref*>> pairs;
  const auto report = detail::match<T>(select(m, which), arrays, [](const array_ref& a) { return std::span<const index_t>(a.shape); }, pairs);
  detail::require_clean(report, o, "the state");
  for (auto& [parameter, a] : pairs) {
    const frozen_array borrowed(a->type, a->shape, a->bytes.data(), nullptr);
    if (parameter->trainable()) {
      parameter->assign(borrowed);
    } else {  // a frozen parameter would share: give it memory of its own
      auto owner = std::make_shared<tensor<std::byte, 1>>(extents<1>{static_cast<index_t>(a->bytes.size())});
      std::ranges::copy(a->bytes, owner->data());
      parameter->assign(frozen_array(a->type, a->shape, owner->data(), owner));
    }
  }
  return report;
}

/// Views of a state's own arrays, as load_state() takes them.
inline records<array_ref> view(const state_dict& state) {
  records<array_ref> refs;
  for (const auto& [name, a] : state.items) refs.emplace_back(name, array_ref(a));
  return refs;
}

}  // namespace graft
