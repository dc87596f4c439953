// SPDX-License-Identifier: Apache-2.0
// JSON files that belong to a tokenizer, as a flat list of values, and a cursor that says where what is wrong.
// Read next: io/tokenizer_json.hpp.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "graft/text/vocabulary.hpp"

namespace graft::detail {

// The largest published tokenizer.json has 33 MB and two million values.
inline constexpr std::uintmax_t max_tokenizer_bytes = std::uintmax_t{128} << 20;
inline constexpr std::size_t max_tokenizer_values = std::size_t{1} << 23;
inline constexpr std::size_t max_tokenizer_depth = 32;

/// A parsed file: all values in one list, all text in one string.
struct tokenizer_file {
  enum class kind : std::uint8_t { null, boolean, natural, real, string, array, object };
  using slice = std::pair<std::uint32_t, std::uint32_t>;  // begin and size
  struct node {
    std::uint64_t number = 0;                       // true or false, a natural number, the bits of another
    slice name{}, text{};                           // name: of a member of an object
    std::uint32_t parent = 0, next = 0, first = 0;  // 0: none
    std::uint32_t size = 0;                         // items or members
    kind type = kind::null;
  };
  std::string name;
  std::vector<node> nodes;  // the first is the root
  std::string text;

  std::string_view at(slice s) const { return std::string_view(text).substr(s.first, s.second); }
};

/// Builds a tokenizer_file from what the parser reports.
class tokenizer_file_builder {
 public:
  using kind = tokenizer_file::kind;
  explicit tokenizer_file_builder(tokenizer_file& file) : file_(file) {}

  bool null() { return add(kind::null); }
  bool boolean(bool b) { return add(kind::boolean, b); }
  bool number_unsigned(std::uint64_t n) { return add(kind::natural, n); }
  bool number_integer(std::int64_t n) { return number_float(static_cast<double>(n), {}); }
  bool number_float(double d, const std::string&) { return add(kind::real, std::bit_cast<std::uint64_t>(d)); }
  bool string(const std::string& s) { return add(kind::string, 0, keep(s)); }
  bool binary(const std::vector<std::uint8_t>&) { return false; }
  bool key(const std::string& name) {
    name_ = keep(name);
    return true;
  }
  bool start_object(std::size_t) { return open(kind::object); }
  bool start_array(std::size_t) { return open(kind::array); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  template <class Exception>
  bool parse_error(std::size_t, const std::string&, const Exception& e) {  // quotes the file, whatever it contains
    std::string storage;
    throw_error<format_error>(text::to_utf8(std::string_view(e.what()).substr(0, 200), storage));
  }

 private:
  struct level {
    std::uint32_t node, last_child;
  };

  tokenizer_file::slice keep(const std::string& s) {
    file_.text += s;
    return {static_cast<std::uint32_t>(file_.text.size() - s.size()), static_cast<std::uint32_t>(s.size())};
  }
  bool add(kind type, std::uint64_t number = 0, tokenizer_file::slice text = {}) {
    if (file_.nodes.size() == max_tokenizer_values)
      throw_error<format_error>("more than ", max_tokenizer_values, " values");
    const auto self = static_cast<std::uint32_t>(file_.nodes.size());
    const std::uint32_t parent = open_.empty() ? 0 : open_.back().node;
    file_.nodes.push_back({number, std::exchange(name_, {}), text, parent, 0, 0, 0, type});
    if (open_.empty()) return true;
    ++file_.nodes[parent].size;
    std::uint32_t& last = open_.back().last_child;
    (last == 0 ? file_.nodes[parent].first : file_.nodes[last].next) = self;
    last = self;
    return true;
  }
  bool open(kind type) {
    if (open_.size() == max_tokenizer_depth)
      throw_error<format_error>("nested more than ", max_tokenizer_depth, " deep");
    const auto self = static_cast<std::uint32_t>(file_.nodes.size());
    add(type);
    open_.push_back({self, 0});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  tokenizer_file& file_;
  tokenizer_file::slice name_{};
  std::vector<level> open_;
};

inline tokenizer_file read_tokenizer_file(const std::filesystem::path& path) {
  tokenizer_file file{path.string(), {}, {}};
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> in(std::fopen(file.name.c_str(), "rb"), &std::fclose);
  std::error_code failure;
  const std::uintmax_t size = std::filesystem::file_size(path, failure);
  if (failure || !in) throw_error<io_error>("tokenizer file \"", file.name, "\": cannot be read");
  if (size > max_tokenizer_bytes) {
    throw_error<format_error>("tokenizer file \"", file.name, "\": has ", size, " bytes, expected at most ",
                              max_tokenizer_bytes);
  }
  std::string bytes(static_cast<std::size_t>(size), '\0');
  bytes.resize(std::fread(bytes.data(), 1, bytes.size(), in.get()));
  try {
    tokenizer_file_builder builder(file);
    nlohmann::json::sax_parse(bytes, &builder);
  } catch (const format_error& e) {
    throw_error<format_error>("tokenizer file \"", file.name, "\": ", e.what());
  }
  return file;
}

/// A value in a file, or nothing; every complaint names the file and the place.
class tokenizer_json {
 public:
  using kind = tokenizer_file::kind;
  explicit tokenizer_json(const tokenizer_file& file, std::uint32_t node = 0)
      : file_(&file), node_(&file.nodes[node]) {}

  explicit operator bool() const { return node_ != nullptr; }
  bool is(kind k) const { return node_->type == k; }
  std::string_view name() const { return file_->at(node_->name); }  ///< of a member of an object
  std::size_t size() const { return node_->size; }                  ///< of an array or object

  [[noreturn]] __attribute__((noinline, cold)) void fail(std::string_view what) const {
    throw_error<format_error>("tokenizer file \"", file_->name, "\", ", path(), ": ", what);
  }
  [[noreturn]] __attribute__((noinline, cold)) void fail_expecting(std::string_view expected) const {
    fail(concat("expected ", expected, ", got ", description()));
  }
  /// Runs f and tells where it failed.
  template <class F>
  auto located(F f) const {
    try {
      return f();
    } catch (const format_error& e) {
      fail(e.what());
    }
  }

  /// The first item of an array or member of an object, and the one behind this; or nothing.
  tokenizer_json first() const { return at(node_->first); }
  tokenizer_json next() const { return at(node_->next); }
  tokenizer_json first_item() const {
    if (!is(kind::array)) fail_expecting("an array");
    return first();
  }
  tokenizer_json first_member() const {
    if (!is(kind::object)) fail_expecting("an object");
    return first();
  }

  /// A member that is there, even if null, or nothing. One that is there twice is an error.
  tokenizer_json member(std::string_view name) const {
    tokenizer_json found = at(0);
    for (tokenizer_json m = first_member(); m; m = m.next()) {
      if (m.name() != name) continue;
      if (found) m.fail("this name stands twice in one object");
      found = m;
    }
    return found;
  }
  /// A member that is there and not null, or nothing.
  tokenizer_json find(std::string_view name) const {
    const tokenizer_json m = member(name);
    return m && m.is(kind::null) ? at(0) : m;
  }
  tokenizer_json operator[](std::string_view name) const {
    const tokenizer_json m = find(name);
    if (!m) fail(concat("expected a member \"", name, "\""));
    return m;
  }

  /// Refuses members with other names, unless they say nothing: an option we do not know may change ids.
  void has_only(std::initializer_list<std::string_view> names) const {
    for (tokenizer_json m = first_member(); m; m = m.next()) {
      const bool says_nothing = m.node_->number == 0 && m.node_->text.second == 0 && m.size() == 0;
      if (!says_nothing && std::find(names.begin(), names.end(), m.name()) == names.end())
        m.fail("this option is not known");
    }
  }

  std::string_view text() const {
    if (!is(kind::string)) fail_expecting("a string");
    return file_->at(node_->text);
  }
  std::string string() const { return std::string(text()); }
  bool boolean() const {
    if (!is(kind::boolean)) fail_expecting("true or false");
    return node_->number != 0;
  }
  index_t integer(index_t most) const {
    if (!is(kind::natural) || node_->number > static_cast<std::uint64_t>(most)) {
      fail_expecting(concat("an integer from 0 to ", most));
    }
    return static_cast<index_t>(node_->number);
  }
  token_id id() const { return static_cast<token_id>(integer(text::max_token_id)); }
  bool is_zero() const { return (is(kind::natural) || is(kind::real)) && node_->number == 0; }

  std::string string_or(std::string_view name, std::string_view otherwise) const {
    const tokenizer_json m = find(name);
    return std::string(m ? m.text() : otherwise);
  }
  bool boolean_or(std::string_view name, bool otherwise) const {
    const tokenizer_json m = find(name);
    return m ? m.boolean() : otherwise;
  }

 private:
  tokenizer_json at(std::uint32_t node) const {
    tokenizer_json other = *this;
    other.node_ = node == 0 ? nullptr : &file_->nodes[node];
    return other;
  }

  std::string path() const {
    if (node_ == file_->nodes.data()) return "at the top";
    std::string path;
    for (const auto* n = node_; n != file_->nodes.data(); n = &file_->nodes[n->parent]) {
      const auto& parent = file_->nodes[n->parent];
      std::size_t place = 0;
      for (std::uint32_t i = parent.first; &file_->nodes[i] != n; i = file_->nodes[i].next) ++place;
      path.insert(0, parent.type == kind::object ? concat("/", file_->at(n->name)) : concat("/", place));
    }
    return path;
  }

  std::string description() const {
    switch (node_->type) {
      case kind::null: return "null";
      case kind::boolean: return boolean() ? "true" : "false";
      case kind::natural: return concat(node_->number);
      case kind::real: return concat(std::bit_cast<double>(node_->number));
      case kind::string: return concat("\"", text().substr(0, 64), text().size() > 64 ? "..." : "", "\"");
      case kind::array: return concat("an array of ", size());
      case kind::object: break;
    }
    return "an object";
  }

  const tokenizer_file* file_;
  const tokenizer_file::node* node_;
};

}  // namespace graft::detail
