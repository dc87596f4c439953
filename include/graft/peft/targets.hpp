// SPDX-License-Identifier: Apache-2.0
// Which layers of a model get an adapter, by the rules of PEFT's target_modules. Read next: peft/attach.hpp.
#pragma once
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

  bool matches(std::string_view path) const {
    if (kind_ == kind::all_linear) return path != "lm_head" && path != "classifier" && path != "score";
    if (kind_ == kind::pattern) return matches_(path);
    for (const std::string& name : names_)
      if (names_path(name, path)) return true;
    return false;
  }

  kind how() const noexcept { return kind_; }
  /// The list, or the pattern as its one element; empty for all_linear.
  const std::vector<std::string>& text() const noexcept { return names_; }

  /// Whether `name` names this path: equal to it, or its last whole segments.
  static bool names_path(std::string_view name, std::string_view path) {
    return path == name || (path.size() > name.size() && path.ends_with(name) && path[path.size() - name.size() - 1] == '.');
  }

 private:
  target_modules() = default;
  kind kind_ = kind::names;
  std::vector<std::string> names_;
  std::function<bool(std::string_view)> matches_;
};

/// Shorthand: targets({"q_proj", "v_proj"}).
inline target_modules targets(std::vector<std::string> names) { return target_modules::names(std::move(names)); }
inline target_modules all_linear() { return target_modules::all_linear(); }

}  // namespace graft
