// SPDX-License-Identifier: Apache-2.0
// A JSON text as a stream of events: the one place that knows the parser. Read next: io/detail/json_document.hpp.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "graft/io/detail/printable.hpp"

// nlohmann's parser without its document class, which would cost every includer more than a second. An installation in one
// file has no such header, but the same names in json.hpp.
#if __has_include(<nlohmann/detail/input/parser.hpp>)
#include <nlohmann/detail/input/parser.hpp>
#else
#include <nlohmann/json.hpp>
#endif

namespace graft::detail {

// Receives the parts of a text in order. A text it is given may be moved from.
class json_events {
 public:
  virtual ~json_events() = default;
  virtual void null() = 0;
  virtual void boolean(bool v) = 0;
  virtual void natural(std::uint64_t v) = 0;
  virtual void negative(std::int64_t v) = 0;  // and -0
  virtual void real(double v, std::string_view text) = 0;
  virtual void string(std::string& v) = 0;
  virtual void key(std::string& v) = 0;
  virtual void begin_object() = 0;
  virtual void end_object() = 0;
  virtual void begin_array() = 0;
  virtual void end_array() = 0;
};

// What the parser calls. Keeps the depth, and turns what is not JSON into a format_error that starts with `name`.
class json_handler {
 public:
  json_handler(std::string_view text, std::string_view name, int max_depth, json_events& to)
      : text_(text), name_(name), max_depth_(max_depth), to_(to) {}

  bool null() { return to_.null(), true; }
  bool boolean(bool v) { return to_.boolean(v), true; }
  bool number_unsigned(std::uint64_t v) { return to_.natural(v), true; }
  bool number_integer(std::int64_t v) { return to_.negative(v), true; }
  bool number_float(double v, const std::string& text) { return to_.real(v, text), true; }
  bool string(std::string& v) { return to_.string(v), true; }
  bool key(std::string& v) { return to_.key(v), true; }
  bool start_object(std::size_t) { return enter(), to_.begin_object(), true; }
  bool start_array(std::size_t) { return enter(), to_.begin_array(), true; }
  bool end_object() { return --depth_, to_.end_object(), true; }
  bool end_array() { return --depth_, to_.end_array(), true; }
  bool binary(std::vector<std::uint8_t>&) { return false; }  // no such thing in text

  template <class Exception>
  bool parse_error(std::size_t position, const std::string&, const Exception& e) {
    // "[code] parse error at line 1, column 2: reason; last read: ...", or "[code] reason": the reason is what helps.
    std::string_view why = e.what();
    for (const std::string_view before : {"] ", ": "})
      if (const auto end = why.find(before); end != why.npos) why.remove_prefix(end + before.size());
    refuse(position, why.substr(0, why.find(';')));
  }

  [[noreturn]] void refuse(std::size_t position, std::string_view why) const {
    const std::string_view before = text_.substr(0, position == 0 ? 0 : position - 1);
    const auto line_start = before.rfind('\n') + 1;  // npos + 1 is 0
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    throw_error<format_error>(name_, ": not valid JSON at line ", line, ", column ", before.size() - line_start + 1,
                              ": ", printable(why));
  }

 private:
  void enter() {
    if (++depth_ > max_depth_) throw_error<format_error>(name_, ": values are nested more than ", max_depth_, " deep");
  }

  std::string_view text_, name_;
  int max_depth_, depth_ = 0;
  json_events& to_;
};

// The types nlohmann's parser reads values into, in place of its document class.
struct json_types {
  using number_integer_t = std::int64_t;
  using number_unsigned_t = std::uint64_t;
  using number_float_t = double;
  using string_t = std::string;
  using binary_t = std::vector<std::uint8_t>;
  using exception = nlohmann::detail::exception;
};

}  // namespace graft::detail

template <>
struct nlohmann::detail::is_basic_json<graft::detail::json_types> : std::true_type {};  // all that its parser asks for is there

namespace graft::detail {

inline auto json_parser(std::string_view text) {
  auto input = nlohmann::detail::input_adapter(text.data(), text.data() + text.size());
  return nlohmann::detail::parser<json_types, decltype(input)>(std::move(input));
}

inline bool is_json(std::string_view text) { return json_parser(text).accept(true); }

// Reports the whole of `bytes`, which must be one JSON value. Neither a byte order mark nor a zero byte may stand anywhere
// outside: the parser would skip the one, and stop in good faith at the other.
inline void report_json(std::span<const std::byte> bytes, std::string_view name, int max_depth, json_events& to) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  json_handler handler(text, name, max_depth, to);
  if (text.starts_with("\xEF\xBB\xBF")) handler.refuse(1, "a byte order mark");
  if (const auto zero = text.find('\0'); zero != text.npos) handler.refuse(zero + 1, "a zero byte");
  json_parser(text).sax_parse(&handler);
}

}  // namespace graft::detail
