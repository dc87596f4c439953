// SPDX-License-Identifier: Apache-2.0
// Which layers of a model get an adapter, by the rules of PEFT's target_modules. Read next: peft/attach.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/error.hpp"

namespace graft {

/// Names of layers: a list of suffixes, a predicate for patterns, or all linear layers. Also remembers how it was written,
/// for the folder an adapter is saved in.
class target_modules {
 public:
  enum class kind { names, pattern, all_linear };

  /// A layer matches when its path is one of these, or ends in "." and one of these.
  static target_modules names(std::vector<std::string> list) {
    if (list.empty()) throw_error<option_error>("target_modules: the list of names is empty");
    target_modules t;
    t.kind_ = kind::names;
    t.names_ = std::move(list);
    return t;
  }
  /// A layer matches when the predicate accepts its whole path. `text` is the pattern as written; `matches` decides.
  /// target_pattern() of peft/target_pattern.hpp makes these from regular expressions.
  static target_modules pattern(std::string text, std::function<bool(std::string_view)> matches) {
    target_modules t;
    t.kind_ = kind::pattern;
    t.names_ = {std::move(text)};
    t.matches_ = std::move(matches);
    return t;
  }
  /// Every linear layer except the output layer.
  static target_modules all_linear() {
    target_modules t;
    t.kind_ = kind::all_linear;
    return t;
  }

  /// The same without layers that these names mean: PEFT's exclude_modules.
  target_modules excluding(std::vector<std::string> list) const {
    target_modules t = *this;
    t.excluded_ = std::move(list);
    return t;
  }
  /// The same within these layers of the model alone: PEFT's layers_to_transform. A layer's number is the first whole
  /// segment of digits in its path ("model.layers.3.mlp.up_proj"); what is in no layer is left out. Throws option_error for an
  /// empty list or a negative number.
  target_modules in_layers(std::vector<std::int64_t> numbers) const {
    if (numbers.empty()) throw_error<option_error>("target_modules: the list of layers is empty");
    for (const auto n : numbers)
      if (n < 0) throw_error<option_error>("target_modules: layer ", n, ", expected 0 or more");
    target_modules t = *this;
    t.layers_ = std::move(numbers);
    return t;
  }

  bool matches(std::string_view path) const {
    if (named(excluded_, path)) return false;
    if (!layers_.empty() && std::find(layers_.begin(), layers_.end(), layer_number(path)) == layers_.end()) return false;
    if (kind_ == kind::all_linear) return path != "lm_head" && path != "classifier" && path != "score";
    if (kind_ == kind::pattern) return matches_(path);
    return named(names_, path);
  }

  kind how() const noexcept { return kind_; }
  /// The list, or the pattern as its one element; empty for all_linear.
  const std::vector<std::string>& text() const noexcept { return names_; }

  /// Whether `name` names this path: equal to it, or its last whole segments.
  static bool names_path(std::string_view name, std::string_view path) {
    return path == name || (path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
  }
  /// The number of the layer a path lies in; -1 where it has none.
  static std::int64_t layer_number(std::string_view path) {
    for (std::size_t first = 0, end; first <= path.size(); first = end + 1) {
      end = std::min(path.find('.', first), path.size());
      const std::string_view segment = path.substr(first, end - first);
      if (segment.empty() || segment.size() > 9 || segment.find_first_not_of("0123456789") != segment.npos) continue;
      std::int64_t n = 0;
      for (const char c : segment) n = 10 * n + (c - '0');
      return n;
    }
    return -1;
  }

 private:
  target_modules() = default;
  static bool named(const std::vector<std::string>& list, std::string_view path) {
    for (const std::string& name : list)
      if (names_path(name, path)) return true;
    return false;
  }

  kind kind_ = kind::names;
  std::vector<std::string> names_, excluded_;
  std::vector<std::int64_t> layers_;
  std::function<bool(std::string_view)> matches_;
};

/// Values of an option that differ by module: the first entry whose name means a layer (as names of target_modules do; "^" in
/// front: the whole path) counts. PEFT's rank_pattern and alpha_pattern.
template <class V>
using module_values = std::vector<std::pair<std::string, V>>;

template <class V>
const V* find_module_value(const module_values<V>& values, std::string_view path) {
  for (const auto& [name, value] : values)
    if (name.starts_with('^') ? path == std::string_view(name).substr(1) : target_modules::names_path(name, path)) return &value;
  return nullptr;
}

/// Shorthand: targets({"q_proj", "v_proj"}).
inline target_modules targets(std::vector<std::string> names) { return target_modules::names(std::move(names)); }
inline target_modules all_linear() { return target_modules::all_linear(); }

}  // namespace graft
