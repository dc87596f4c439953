// SPDX-License-Identifier: Apache-2.0
// A JSON document as one flat list: a value takes 48 bytes, a text its own, and nothing is allocated on its own.
// Read next: io/json.hpp.
#pragma once
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/io/detail/json_events.hpp"

namespace graft::detail {

enum class json_kind : std::uint8_t { null, boolean, natural, negative, real, string, array, object };

/// All values in one list, in the order of the file, and all text in one string.
struct json_document {
  struct slice {
    std::uint32_t begin = 0, size = 0;
  };
  struct value {
    std::uint64_t bits = 0;                         // of a number, or true or false
    slice name{}, text{};                           // name: the key, of a member of an object
    std::uint32_t parent = 0, next = 0, first = 0;  // next: behind it in the same parent; first: inside it; 0: none
    std::uint32_t size = 0;                         // elements or members
    json_kind kind = json_kind::null;
  };
  std::string name;
  std::vector<value> values;  // the first is the root
  std::string text;

  std::string_view at(slice s) const { return std::string_view(text).substr(s.begin, s.size); }
};

/// Builds a document from events, refusing a key that stands twice in one object.
class json_builder final : public json_events {
 public:
  json_builder(json_document& document, std::size_t max_values) : document_(document), max_values_(max_values) {}

 private:
  void null() override { add(json_kind::null); }
  void boolean(bool v) override { add(json_kind::boolean, v); }
  void natural(std::uint64_t v) override { add(json_kind::natural, v); }
  void negative(std::int64_t v) override { add(json_kind::negative, static_cast<std::uint64_t>(v)); }
  void real(double v, std::string_view) override { add(json_kind::real, std::bit_cast<std::uint64_t>(v)); }
  void string(std::string& v) override { add(json_kind::string, 0, keep(v)); }
  void key(std::string& v) override { key_ = keep(v); }
  void begin_object() override { open(json_kind::object); }
  void begin_array() override { open(json_kind::array); }
  void end_array() override { open_.pop_back(); }
  void end_object() override {
    refuse_twins(document_.values[open_.back().value]);
    open_.pop_back();
  }

  json_document::slice keep(std::string_view v) {
    document_.text += v;
    return {static_cast<std::uint32_t>(document_.text.size() - v.size()), static_cast<std::uint32_t>(v.size())};
  }
  std::uint32_t add(json_kind kind, std::uint64_t bits = 0, json_document::slice text = {}) {
    if (document_.values.size() == max_values_)
      throw_error<format_error>(document_.name, ": more than ", max_values_, " values");
    const auto self = static_cast<std::uint32_t>(document_.values.size());
    const std::uint32_t parent = open_.empty() ? 0 : open_.back().value;
    document_.values.push_back({bits, std::exchange(key_, {}), text, parent, 0, 0, 0, kind});
    if (open_.empty()) return self;
    ++document_.values[parent].size;
    std::uint32_t& last = open_.back().last;
    (last == 0 ? document_.values[parent].first : document_.values[last].next) = self;
    return last = self;
  }
  void open(json_kind kind) { open_.push_back({add(kind), 0}); }

  void refuse_twins(const json_document::value& object) {
    names_.clear();
    for (std::uint32_t i = object.first; i != 0; i = document_.values[i].next)
      names_.push_back(document_.at(document_.values[i].name));
    std::sort(names_.begin(), names_.end());
    const auto twin = std::adjacent_find(names_.begin(), names_.end());
    if (twin != names_.end())
      throw_error<format_error>(document_.name, ": key ", in_quotes(*twin), " appears twice in one object");
  }

  struct level {
    std::uint32_t value, last;  // last: of its elements so far
  };
  json_document& document_;
  std::size_t max_values_;
  json_document::slice key_{};
  std::vector<level> open_;               // outermost first
  std::vector<std::string_view> names_;  // of one object, while it closes
};

}  // namespace graft::detail
