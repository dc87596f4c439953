// SPDX-License-Identifier: Apache-2.0
// Values as JSON writes them. Read next: io/peft_config.hpp.
#pragma once
#include <charconv>
#include <cmath>
#include <concepts>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "graft/io/detail/json_events.hpp"

namespace graft::detail {

// Throws format_error that starts with `name` when the text is not UTF-8.
inline std::string json_text(std::string_view text, std::string_view name) {
  std::string quoted = "\"";
  for (const char c : text) {
    constexpr std::string_view special = "\"\\\b\f\n\r\t", letters = "\"\\bfnrt";
    const auto byte = static_cast<unsigned char>(c);
    if (const auto at = special.find(c); at != special.npos) {
      quoted += {'\\', letters[at]};
    } else if (byte < 0x20) {
      quoted += "\\u00";
      quoted += "01"[byte >> 4];
      quoted += "0123456789abcdef"[byte & 15];
    } else {
      quoted += c;
    }
  }
  quoted += '"';
  if (!is_json(quoted)) throw_error<format_error>(name, ": ", in_quotes(text), " is not UTF-8");
  return quoted;
}
// The shortest text that reads back as v; whole numbers without a point.
inline std::string json_text(double v, std::string_view name) {
  if (!std::isfinite(v)) throw_error<format_error>(name, ": ", v, " is no number of JSON");
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, v).ptr};
}
inline std::string json_text(std::integral auto v, std::string_view) {
  if constexpr (std::same_as<decltype(v), bool>) return v ? "true" : "false";
  else return std::to_string(v);
}

inline std::string json_text(const std::vector<std::string>& list, std::string_view name) {
  std::string text;
  for (const std::string& v : list) text += concat(text.empty() ? "[" : ", ", json_text(v, name));
  return text.empty() ? "[]" : text + "]";
}
template <class T>
std::string json_text(const std::map<std::string, T>& members, std::string_view name) {
  std::string text;
  for (const auto& [key, v] : members) text += concat(text.empty() ? "{" : ", ", json_text(key, name), ": ", json_text(v, name));
  return text.empty() ? "{}" : text + "}";
}

/// The text of a file that is one JSON object, a member a line.
class json_object_text {
 public:
  explicit json_object_text(std::string_view file) : file_(file) {}
  void add(std::string_view key, const auto& value) { add_text(key, json_text(value, file_)); }
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  /// null where the value is empty.
  void add_or_null(std::string_view key, const auto& value) { add_text(key, value.empty() ? "null" : json_text(value, file_)); }
  void add_text(std::string_view key, std::string_view value) { text_ += concat(text_.empty() ? "{\n  \"" : ",\n  \"", key, "\": ", value); }
  std::string str() const { return text_ + "\n}\n"; }

 private:
  std::string_view file_;
  std::string text_;
};

}  // namespace graft::detail
