// SPDX-License-Identifier: Apache-2.0
// JSON from outside, read strictly: sizes capped, duplicate keys refused, typed access whose errors say where.
// Read next: io/safetensors.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/error.hpp"
#include "graft/io/mapped_file.hpp"

namespace graft {

using json = nlohmann::json;

/// What a reader of JSON accepts. A value takes up to some twenty times the bytes of its text.
struct json_limits {
  std::size_t max_bytes = std::size_t{16} << 20;
  int max_depth = 64;  // arrays and objects inside one another
};

namespace detail {

// Text from outside as a message shows it: no control characters, no more than `most` bytes, no character cut in two.
inline std::string printable(std::string_view text, std::size_t most = 120) {
  const bool whole = text.size() <= most;
  while (!whole && most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0) == 0x80) --most;  // inside a character
  std::string shown(text.substr(0, most));
  if (!whole) shown += "...";
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return shown;
}
inline std::string in_quotes(std::string_view text) { return concat('"', printable(text), '"'); }

inline std::string described(const json& value) {
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  if (value.is_array()) return concat("an array of ", value.size());
  if (value.is_object()) return "an object";
  return value.dump();
}

// Receives the parts of a JSON text in order. Keeps the depth, and turns what is not JSON into a format_error.
class json_events : public nlohmann::json_sax<json> {
 public:
  json_events(std::string_view name, int max_depth) : name_(name), max_depth_(max_depth) {}

  // The whole of `text`, which must be one JSON value. Neither a byte order mark nor a zero byte may stand anywhere
  // outside: the parser would skip the one, and stop in good faith at the other.
  void read(std::span<const std::byte> text) {
    text_ = {reinterpret_cast<const char*>(text.data()), text.size()};
    if (text_.starts_with("\xEF\xBB\xBF")) refuse_text(1, "a byte order mark");
    if (const auto zero = text_.find('\0'); zero != text_.npos) refuse_text(zero + 1, "a zero byte");
    json::sax_parse(text_.begin(), text_.end(), static_cast<nlohmann::json_sax<json>*>(this));
  }

 protected:
  const std::string& name() const noexcept { return name_; }
  void enter() {
    if (++depth_ > max_depth_) throw_error<format_error>(name_, ": values are nested more than ", max_depth_, " deep");
  }
  void leave() noexcept { --depth_; }

 private:
  [[noreturn]] void refuse_text(std::size_t position, std::string_view why) const {
    const std::string_view before = text_.substr(0, position == 0 ? 0 : position - 1);
    const auto line_start = before.rfind('\n') + 1;  // npos + 1 is 0
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    throw_error<format_error>(name_, ": not valid JSON at line ", line, ", column ", before.size() - line_start + 1,
                              ": ", printable(why));
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception& e) final {
    // "[code] parse error at line 1, column 2: reason; last read: ...", or "[code] reason": the reason is what helps.
    std::string_view why = e.what();
    for (const std::string_view before : {"] ", ": "})
      if (const auto end = why.find(before); end != why.npos) why.remove_prefix(end + before.size());
    refuse_text(position, why.substr(0, why.find(';')));
  }
  bool binary(json::binary_t&) final { return false; }  // no such thing in text

  std::string name_;
  std::string_view text_;
  int max_depth_, depth_ = 0;
};

// Builds the value, refusing a key that is there already.
class json_builder final : public json_events {
 public:
  using json_events::json_events;
  json root;

 private:
  bool null() override { return put(nullptr); }
  bool boolean(bool v) override { return put(v); }
  bool number_integer(json::number_integer_t v) override { return put(v); }
  bool number_unsigned(json::number_unsigned_t v) override { return put(v); }
  bool number_float(json::number_float_t v, const std::string&) override { return put(v); }
  bool string(std::string& v) override { return put(std::move(v)); }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_array() override { return close(); }

  bool key(std::string& k) override {
    const auto [place, fresh] = open_.back()->get_ref<json::object_t&>().emplace(k, nullptr);
    if (!fresh) throw_error<format_error>(name(), ": key ", in_quotes(k), " appears twice in one object");
    member_ = &place->second;
    return true;
  }

  json& place(json v) {
    if (open_.empty()) return root = std::move(v);
    if (!open_.back()->is_array()) return *member_ = std::move(v);
    open_.back()->push_back(std::move(v));
    return open_.back()->back();
  }
  bool put(json v) { return place(std::move(v)), true; }
  bool open(json v) {
    enter();
    open_.push_back(&place(std::move(v)));
    return true;
  }
  bool close() {
    leave();
    open_.pop_back();
    return true;
  }

  std::vector<json*> open_;  // outermost first; an array grows only while it is the innermost, so these stay valid
  json* member_ = nullptr;   // where the value of the last key goes
};

template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;

}  // namespace detail

/// A JSON value that knows which document it is from and where it stands there, so that every complaint says so:
/// `config.json: rope_scaling.factor: expected a number, got "two"`. Shares the document; copying is cheap.
/// Types: bool, integers (range-checked; 8.0 is no integer), float and double, std::string, std::vector of these.
class json_node {
 public:
  /// The root of a document.
  json_node(json value, std::string document)
      : value_(std::make_shared<const json>(std::move(value))), document_(std::move(document)) {}

  const json& value() const noexcept { return *value_; }
  /// "config.json", "config.json: layers[3].size"
  std::string where() const { return path_.empty() ? document_ : concat(document_, ": ", detail::printable(path_)); }

  /// Throws format_error unless the value is a T.
  template <class T>
  T as() const {
    if constexpr (std::same_as<T, bool>) {
      if (!value_->is_boolean()) reject("true or false");
      return value_->get<bool>();
    } else if constexpr (std::integral<T>) {
      return as_integer<T>();
    } else if constexpr (std::floating_point<T>) {
      if (!value_->is_number()) reject("a number");
      const double v = value_->get<double>();
      if (std::abs(v) > static_cast<double>(std::numeric_limits<T>::max())) reject("a number of smaller magnitude");
      return static_cast<T>(v);
    } else if constexpr (detail::is_vector<T>) {
      T list;
      for (const json_node& e : elements()) list.push_back(e.as<typename T::value_type>());
      return list;
    } else {
      static_assert(std::same_as<T, std::string>,
                    "graft: json_node reads bool, numbers, std::string and vectors of them");
      if (!value_->is_string()) reject("a string");
      return value_->get_ref<const std::string&>();
    }
  }

  /// A member of an object. Throws format_error when this is no object or has no such member.
  json_node required(std::string_view key) const {
    const json* member = find(key);
    if (member == nullptr) throw_error<format_error>(where(), ": has no ", detail::in_quotes(key));
    return child(*member, path_of(key));
  }
  template <class T>
  T required(std::string_view key) const {
    return required(key).as<T>();
  }

  /// A member of an object; nothing when it is absent or null. Throws format_error when this is no object.
  std::optional<json_node> optional(std::string_view key) const {
    const json* member = find(key);
    if (member == nullptr || member->is_null()) return std::nullopt;
    return child(*member, path_of(key));
  }
  /// The same; throws format_error also when the member is there and is no T.
  template <class T>
  std::optional<T> optional(std::string_view key) const {
    const std::optional<json_node> member = optional(key);
    return member ? std::optional<T>(member->as<T>()) : std::nullopt;
  }

  /// The members of an object, in the order of their keys. Throws format_error when this is none.
  std::vector<std::pair<std::string, json_node>> members() const {
    if (!value_->is_object()) reject("an object");
    std::vector<std::pair<std::string, json_node>> all;
    for (const auto& [key, member] : value_->get_ref<const json::object_t&>())
      all.emplace_back(key, child(member, path_of(key)));
    return all;
  }

  /// The elements of an array. Throws format_error when this is none.
  std::vector<json_node> elements() const {
    if (!value_->is_array()) reject("an array");
    std::vector<json_node> all;
    for (const json& element : *value_) all.push_back(child(element, concat(path_, '[', all.size(), ']')));
    return all;
  }

  /// Throws format_error: "<where>: expected <expected>, got <value>". For checks of the caller's own.
  [[noreturn]] void reject(std::string_view expected) const {
    throw_error<format_error>(where(), ": expected ", expected, ", got ", detail::described(*value_));
  }

 private:
  json_node(std::shared_ptr<const json> value, std::string document, std::string path)
      : value_(std::move(value)), document_(std::move(document)), path_(std::move(path)) {}

  json_node child(const json& part, std::string path) const { return {{value_, &part}, document_, std::move(path)}; }
  std::string path_of(std::string_view key) const {
    return path_.empty() ? std::string(key) : concat(path_, '.', key);
  }

  const json* find(std::string_view key) const {
    if (!value_->is_object()) reject("an object");
    const auto member = value_->find(key);
    return member == value_->end() ? nullptr : &*member;
  }

  template <class T>
  T as_integer() const {
    const bool fits = value_->is_number_unsigned()  ? std::in_range<T>(value_->get<std::uint64_t>())
                      : value_->is_number_integer() ? std::in_range<T>(value_->get<std::int64_t>())
                                                    : false;
    if (!fits)
      reject(concat("an integer from ", std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max()));
    return value_->get<T>();
  }

  std::shared_ptr<const json> value_;
  std::string document_, path_;
};

/// Reads a JSON text. `name` stands for it in errors. Throws format_error for what is not strictly JSON in UTF-8, has a
/// key twice in one object, or goes beyond the limits.
inline json_node parse_json(std::span<const std::byte> text, std::string_view name, json_limits limits = {}) {
  if (text.size() > limits.max_bytes)
    throw_error<format_error>(name, ": ", text.size(), " bytes of JSON are more than the ", limits.max_bytes,
                              " allowed");
  detail::json_builder builder(name, limits.max_depth);
  builder.read(text);
  return {std::move(builder.root), std::string(name)};
}

/// The same for a file. Throws io_error too.
inline json_node read_json(const std::filesystem::path& path, json_limits limits = {}) {
  return parse_json(map_file(path)->bytes(), path.string(), limits);
}

namespace detail {

/// Options that came from a file: when one is out of its range the file is wrong, not the caller.
template <class Options>
void validate_read(const json_node& root, const Options& o) {
  try {
    o.validate();
  } catch (const option_error& e) {
    throw_error<format_error>(root.where(), ": ", e.what());
  }
}

}  // namespace detail

}  // namespace graft
