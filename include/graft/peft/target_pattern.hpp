// SPDX-License-Identifier: Apache-2.0
// Opt-in: target modules written as a regular expression, as PEFT takes them. The only header with <regex>, which costs a
// second to compile: include it where patterns are read. Read next: peft/attach.hpp.
#pragma once
#include <algorithm>
#include <cstddef>
#include <memory>
#include <regex>
#include <string>
#include <string_view>
#include <utility>

#include "graft/peft/targets.hpp"

namespace graft {

namespace detail {

inline constexpr std::size_t longest_target_pattern = 4096, deepest_target_pattern = 64, most_target_repeats = 1024;

/// Refuses what the matcher would take wrongly, or with more stack than there may be: letters with a backslash that Python
/// reads as something else, groups deep in groups, and repeat counts whose product is large.
inline void check_target_pattern(std::string_view text) {
  const auto refuse = [&](std::string_view why) { throw_error<option_error>("target_modules: the pattern \"", text, "\" ", why); };
  if (text.size() > longest_target_pattern)
    throw_error<option_error>("target_modules: a pattern of ", text.size(), " bytes, expected at most ", longest_target_pattern);
  std::size_t depth = 0, repeats = 1;
  bool in_class = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\') {
      const char e = ++i < text.size() ? text[i] : '\0';
      const bool letter = (e >= 'a' && e <= 'z') || (e >= 'A' && e <= 'Z');
      if (letter && std::string_view("dDsSwWbBtnrfv").find(e) == std::string_view::npos) refuse(concat("has an unknown escape \\", e));
    } else if (in_class) {
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
    } else if (c == '(') {
      if (++depth > deepest_target_pattern) refuse(concat("nests groups more than ", deepest_target_pattern, " deep"));
    } else if (c == ')') {
      depth -= depth > 0;
    } else if (c == '{') {
      std::size_t most = 1, count = 0;
      for (++i; i < text.size() && text[i] != '}'; ++i) {
        count = text[i] >= '0' && text[i] <= '9' ? std::min(count * 10 + static_cast<std::size_t>(text[i] - '0'), most_target_repeats + 1) : 0;
        most = std::max(most, count);
      }
      repeats = std::min(repeats * most, most_target_repeats + 1);
      if (repeats > most_target_repeats) refuse(concat("repeats more than ", most_target_repeats, " times"));
    }
  }
}

}  // namespace detail

/// A layer matches when the whole of its path matches the expression: a part is not enough. Syntax: what ECMAScript and
/// Python's re have in common, without back-references. Throws option_error with the pattern when it is no such expression.
inline target_modules target_pattern(const std::string& text) {
  detail::check_target_pattern(text);
  auto syntax = std::regex::ECMAScript;
#if defined(__GLIBCXX__)
  syntax |= std::regex_constants::__polynomial;  // never an exponential time, nor a stack as deep as the path is long
#endif
  std::shared_ptr<const std::regex> expression;
  try {
    expression = std::make_shared<const std::regex>(text, syntax);
  } catch (const std::regex_error& e) {
    throw_error<option_error>("target_modules: the pattern \"", text, "\" is not a regular expression: ", e.what());
  }
  return target_modules::pattern(text, [expression](std::string_view path) { return std::regex_match(path.begin(), path.end(), *expression); });
}

/// target_modules written as one string, by PEFT's rule: "all-linear", in upper or lower case, or a pattern.
inline target_modules parse_target_modules(const std::string& text) {
  std::string lower = text;
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower == "all-linear" ? target_modules::all_linear() : target_pattern(text);
}

}  // namespace graft
