// SPDX-License-Identifier: Apache-2.0
// JSON from outside, read strictly: sizes capped, duplicate keys refused, typed access whose errors say where.
// Read next: io/safetensors.hpp.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/io/detail/json_document.hpp"
#include "graft/io/mapped_file.hpp"

namespace graft {

/// What a reader of JSON accepts. A value takes 48 bytes in memory: up to some twenty-five times its text.
struct json_limits {
  std::size_t max_bytes = std::size_t{16} << 20;   // never more than 4 GiB
  std::size_t max_values = std::size_t{1} << 23;
  int max_depth = 64;  // arrays and objects inside one another
};

namespace detail {

template <class T>
inline constexpr bool is_vector = false;
template <class T>
inline constexpr bool is_vector<std::vector<T>> = true;

}  // namespace detail

class json_range;

/// A JSON value that knows which document it is from and where it stands there, so that every complaint says so:
/// `config.json: rope_scaling.factor: expected a number, got "two"`. Shares the document; copying is cheap.
/// Types: bool, integers (range-checked; 8.0 is no integer), float and double, std::string, std::vector of these.
class json_node {
 public:
  /// The root of a document.
  explicit json_node(std::shared_ptr<const detail::json_document> document) : document_(std::move(document)) {}

  bool is_null() const noexcept { return kind() == detail::json_kind::null; }
  bool is_string() const noexcept { return kind() == detail::json_kind::string; }
  bool is_array() const noexcept { return kind() == detail::json_kind::array; }
  bool is_object() const noexcept { return kind() == detail::json_kind::object; }
  /// Null, false, "", [] or {}.
  bool says_nothing() const noexcept {
    const bool number = kind() >= detail::json_kind::natural && kind() <= detail::json_kind::real;
    return !number && value().bits == 0 && value().text.size == 0 && value().size == 0;
  }
  /// The number of elements of an array, or members of an object; 0 for others.
  std::size_t size() const noexcept { return value().size; }
  /// The key of a member of an object. Lives as long as the document.
  std::string_view name() const { return document_->at(value().name); }
  /// "config.json", "config.json: layers[3].size"
  std::string where() const {
    return index_ == 0 ? document_->name : concat(document_->name, ": ", detail::printable(path()));
  }

  /// Throws format_error unless the value is a T.
  template <class T>
  T as() const;
  /// A string without a copy; lives as long as the document. Throws format_error for any other value.
  std::string_view text() const {
    if (!is_string()) reject("a string");
    return document_->at(value().text);
  }
  /// An integer from `least` to `most`. Throws format_error for any other value.
  template <std::integral T>
  T integer(T least, T most) const {
    const std::uint64_t bits = value().bits;
    const auto within = [&](auto v) { return std::cmp_greater_equal(v, least) && std::cmp_less_equal(v, most); };
    const bool fits = kind() == detail::json_kind::natural    ? within(bits)
                      : kind() == detail::json_kind::negative ? within(static_cast<std::int64_t>(bits))
                                                              : false;
    if (!fits) reject(concat("an integer from ", least, " to ", most));
    return static_cast<T>(bits);
  }

  /// Whether an object has this member, were it null. Throws format_error when this is no object.
  bool contains(std::string_view key) const { return find(key) != 0; }
  /// A member of an object. Throws format_error when this is no object or has no such member.
  json_node required(std::string_view key) const {
    const std::uint32_t member = find(key);
    if (member == 0) throw_error<format_error>(where(), ": has no ", detail::in_quotes(key));
    return {document_, member};
  }
  template <class T>
  T required(std::string_view key) const {
    return required(key).as<T>();
  }

  /// A member of an object; nothing when it is absent or null. Throws format_error when this is no object.
  std::optional<json_node> optional(std::string_view key) const {
    const std::uint32_t member = find(key);
    if (member == 0 || document_->values[member].kind == detail::json_kind::null) return std::nullopt;
    return json_node(document_, member);
  }
  /// The same; throws format_error also when the member is there and is no T.
  template <class T>
  std::optional<T> optional(std::string_view key) const {
    const std::optional<json_node> member = optional(key);
    return member ? std::optional<T>(member->as<T>()) : std::nullopt;
  }

  /// The members of an object, or the elements of an array, in the order of the file: a range of json_node that reads as it
  /// goes. Throws format_error when this is no object, or no array.
  json_range members() const;
  json_range elements() const;

  /// Refuses members with other names, unless they say nothing: an option nobody reads might have mattered.
  void allow_only(std::initializer_list<std::string_view> names) const;

  /// Throws format_error: "<where>: expected <expected>, got <value>", or "<where>: <what>". For checks of the caller's own.
  [[noreturn]] __attribute__((noinline, cold)) void reject(std::string_view expected) const {
    fail(concat("expected ", expected, ", got ", description()));
  }
  [[noreturn]] __attribute__((noinline, cold)) void fail(std::string_view what) const {
    throw_error<format_error>(where(), ": ", what);
  }
  /// Runs f. When it refuses what came from here, which it cannot name, throws format_error with the place.
  template <class F>
  auto located(F f) const {
    try {
      return f();
    } catch (const format_error& e) {
      fail(e.what());
    } catch (const option_error& e) {
      fail(e.what());
    }
  }

 private:
  friend class json_range;
  json_node(std::shared_ptr<const detail::json_document> document, std::uint32_t index)
      : document_(std::move(document)), index_(index) {}

  const detail::json_document::value& value() const { return document_->values[index_]; }
  detail::json_kind kind() const { return value().kind; }

  double number() const {
    switch (kind()) {
      case detail::json_kind::natural: return static_cast<double>(value().bits);
      case detail::json_kind::negative: return static_cast<double>(static_cast<std::int64_t>(value().bits));
      case detail::json_kind::real: return std::bit_cast<double>(value().bits);
      default: reject("a number");
    }
  }

  std::uint32_t find(std::string_view key) const {
    if (!is_object()) reject("an object");
    for (std::uint32_t i = value().first; i != 0; i = document_->values[i].next)
      if (document_->at(document_->values[i].name) == key) return i;
    return 0;
  }

  std::string path() const {
    std::string path;
    const auto& all = document_->values;
    for (std::uint32_t i = index_; i != 0; i = all[i].parent) {
      const auto& parent = all[all[i].parent];
      std::string step;
      if (parent.kind == detail::json_kind::object) {
        step = document_->at(all[i].name);
      } else {
        std::size_t place = 0;
        for (std::uint32_t e = parent.first; e != i; e = all[e].next) ++place;
        step = concat('[', place, ']');
      }
      path.insert(0, path.empty() || path.front() == '[' ? step : step + '.');
    }
    return path;
  }

  std::string description() const {
    switch (kind()) {
      case detail::json_kind::null: return "null";
      case detail::json_kind::boolean: return value().bits != 0 ? "true" : "false";
      case detail::json_kind::natural: return concat(value().bits);
      case detail::json_kind::string: return detail::in_quotes(text());
      case detail::json_kind::array: return concat("an array of ", size());
      case detail::json_kind::object: return "an object";
      default: return concat(number());
    }
  }

  std::shared_ptr<const detail::json_document> document_;
  std::uint32_t index_ = 0;
};

/// The members or elements of a value, for a range-based for.
class json_range {
 public:
  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = json_node;
    using difference_type = std::ptrdiff_t;
    using pointer = const json_node*;
    using reference = const json_node&;

    explicit iterator(json_node at) : at_(std::move(at)) {}
    const json_node& operator*() const noexcept { return at_; }
    const json_node* operator->() const noexcept { return &at_; }
    iterator& operator++() noexcept {
      at_.index_ = at_.value().next;
      return *this;
    }
    bool operator==(const iterator& other) const noexcept { return at_.index_ == other.at_.index_; }

   private:
    json_node at_;  // at the end: the root, which is inside nothing
  };

  explicit json_range(const json_node& parent) : parent_(parent) {}
  iterator begin() const { return iterator({parent_.document_, parent_.value().first}); }
  iterator end() const { return iterator({parent_.document_, 0}); }
  std::size_t size() const noexcept { return parent_.size(); }
  /// Element i, counted along the range. Throws format_error when there are fewer.
  json_node operator[](std::size_t i) const {
    if (i >= size()) parent_.fail(concat("has ", size(), " elements, and none at ", i));
    auto at = begin();
    for (; i > 0; --i) ++at;
    return *at;
  }

 private:
  json_node parent_;
};

inline json_range json_node::members() const {
  if (!is_object()) reject("an object");
  return json_range(*this);
}
inline json_range json_node::elements() const {
  if (!is_array()) reject("an array");
  return json_range(*this);
}
inline void json_node::allow_only(std::initializer_list<std::string_view> names) const {
  for (const json_node& m : members())
    if (!m.says_nothing() && std::find(names.begin(), names.end(), m.name()) == names.end())
      m.fail("this setting is not known");
}

template <class T>
T json_node::as() const {
  if constexpr (std::same_as<T, bool>) {
    if (kind() != detail::json_kind::boolean) reject("true or false");
    return value().bits != 0;
  } else if constexpr (std::integral<T>) {
    return integer(std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
  } else if constexpr (std::floating_point<T>) {
    const double v = number();
    if (std::abs(v) > static_cast<double>(std::numeric_limits<T>::max())) reject("a number of smaller magnitude");
    return static_cast<T>(v);
  } else if constexpr (detail::is_vector<T>) {
    T list;
    for (const json_node& e : elements()) list.push_back(e.as<typename T::value_type>());
    return list;
  } else {
    static_assert(std::same_as<T, std::string>, "graft: json_node reads bool, numbers, std::string and vectors of them");
    return std::string(text());
  }
}

/// Reads a JSON text. `name` stands for it in errors. Throws format_error for what is not strictly JSON in UTF-8, has a
/// key twice in one object, or goes beyond the limits.
inline json_node parse_json(std::span<const std::byte> text, std::string_view name, json_limits limits = {}) {
  const std::size_t most = std::min<std::size_t>(limits.max_bytes, std::numeric_limits<std::uint32_t>::max());
  if (text.size() > most)
    throw_error<format_error>(name, ": ", text.size(), " bytes of JSON are more than the ", most, " allowed");
  const auto document = std::make_shared<detail::json_document>();
  document->name = name;
  detail::json_builder builder(*document, std::min<std::size_t>(limits.max_values, std::numeric_limits<std::uint32_t>::max()));
  detail::report_json(text, document->name, limits.max_depth, builder);
  return json_node(document);
}

/// The same for a file. Throws io_error too.
inline json_node read_json(const std::filesystem::path& path, json_limits limits = {}) {
  return parse_json(map_file(path)->bytes(), path.string(), limits);
}

}  // namespace graft
