// SPDX-License-Identifier: Apache-2.0
// safetensors: named arrays as bytes. Viewed in place, copied out, or written; everything is checked before it is used.
// Arrays in block formats are written as tensors of bytes that the metadata explains, and read back as what they were.
// Read next: io/checkpoint.hpp.
#pragma once
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "graft/io/atomic_file.hpp"
#include "graft/io/detail/block_tensors.hpp"
#include "graft/io/detail/json_text.hpp"
#include "graft/io/detail/safetensors_header.hpp"
#include "graft/io/mapped_file.hpp"
#include "graft/nn/state_dict.hpp"

namespace graft {

// The functions are templates so that whoever only includes this file does not pay for their bodies.

static_assert(std::endian::native == std::endian::little, "graft: safetensors data is read in place as little-endian");

/// What a file holds, looked at where it is: valid as long as the bytes are. Data may be unaligned.
struct safetensors_view {
  records<array_ref> items;       ///< in the order of their data in the file
  records<std::string> metadata;  ///< in the order of the header, without what explains block formats
  records<std::string> foreign;   ///< tensors that were set aside, and their element types
};

/// What becomes of a tensor whose element type is one of the format but not of `dtype` (BOOL, U32, F8_E4M3 ...).
enum class foreign_types {
  refuse,     ///< throw dtype_error
  set_aside,  ///< check and name it, and give the rest: published models carry masks that nobody reads
};

/// Checks a whole file and names its arrays without copying them. `name` stands for the file in errors. Cost: that of
/// the header; data is not touched. Throws format_error for whatever breaks the format: sizes, offsets that overlap or
/// leave holes, data cut short or too long, JSON that is not strict, a name that appears twice; and for metadata that
/// explains blocks which are not there, or whose rows have other sizes.
template <class = void>
safetensors_view view_safetensors(std::span<const std::byte> file, std::string_view name,
                                  foreign_types foreign = foreign_types::refuse);

/// The same, copied out of the bytes. Throws dtype_error for a tensor of a type that `dtype` lacks.
template <class = void>
state_dict from_safetensors(std::span<const std::byte> file, std::string_view name);

/// The same, from a file. Throws io_error too.
template <class = void>
state_dict load_safetensors(const std::filesystem::path& path);

/// The bytes of a file that holds these arrays: sorted by element type, then name, so that each is aligned and the same
/// state gives the same bytes. Metadata keeps its order; programs that load weights often want {"format", "pt"} in it.
/// Throws shape_error when an array has not the bytes of its shape, format_error for a name that appears twice, is not
/// UTF-8 or is "__metadata__", for metadata that begins with "graft.blocks/", and for a header beyond the format's limits.
template <class = void>
std::vector<std::byte> to_safetensors(const records<array_ref>& items, const records<std::string>& metadata = {});
template <class = void>
std::vector<std::byte> to_safetensors(const state_dict& state);

/// The same into a file, which appears whole or not at all, without a copy of the data. Throws io_error too.
template <class = void>
void save_safetensors(const std::filesystem::path& path, const records<array_ref>& items,
                      const records<std::string>& metadata = {});
template <class = void>
void save_safetensors(const std::filesystem::path& path, const state_dict& state);

namespace detail {

template <class = void>
void check_distinct(std::vector<std::string_view> names, std::string_view file, std::string_view kind) {
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw_error<format_error>(file, ": ", kind, " ", in_quotes(*twice), " appears twice");
}
template <class V>
void check_distinct(const records<V>& items, std::string_view file, std::string_view kind) {
  std::vector<std::string_view> names;
  for (const auto& [name, value] : items) names.push_back(name);
  check_distinct(std::move(names), file, kind);
}

// Brings the tensors into the order of their data, which they must fill without holes or overlaps.
template <class = void>
void check_layout(std::vector<safetensors_entry>& entries, std::uint64_t data_bytes, std::string_view file) {
  std::sort(entries.begin(), entries.end(), [](const safetensors_entry& a, const safetensors_entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::uint64_t filled = 0;
  for (const safetensors_entry& e : entries) {
    if (e.begin != filled)
      throw_error<format_error>(file, ": tensor ", in_quotes(e.name), " begins at byte ", e.begin,
                                " of the data, but what comes before it ends at ", filled);
    filled = e.end;
  }
  if (filled != data_bytes)
    throw_error<format_error>(file, ": the tensors take ", filled, " bytes of data, but the file has ", data_bytes);
}

// The file without its header; the header's text.
struct safetensors_parts {
  std::span<const std::byte> header, data;
};
template <class = void>
safetensors_parts split_safetensors(std::span<const std::byte> file, std::string_view name) {
  std::uint64_t length = 0;
  if (file.size() < sizeof length)
    throw_error<format_error>(name, ": ", file.size(), " bytes are too few for a safetensors file");
  __builtin_memcpy(&length, file.data(), sizeof length);
  const auto rest = file.subspan(sizeof length);
  if (length > safetensors_header_limit)
    throw_error<format_error>(name, ": a header of ", length, " bytes is beyond the limit of ",
                              safetensors_header_limit);
  if (length > rest.size())
    throw_error<format_error>(name, ": the header should have ", length, " bytes, but the file ends after ",
                              rest.size());
  return {rest.first(length), rest.subspan(length)};
}

// What a writer puts where: the file's first bytes, then the arrays in this order.
struct safetensors_plan {
  std::string head;
  records<array_ref> items;  // blocks as bytes
  std::size_t data_bytes = 0;
};

template <class = void>
std::size_t safetensors_rank(dtype type) {  // in the order of writing
  if (is_block_format(type)) type = dtype::u8;
  std::size_t rank = 0;
  while (safetensors_types[rank].type != type) ++rank;
  return rank;
}

template <class = void>
void check_writable(const std::string& name, const array_ref& a) {
  if (name == "__metadata__") throw_error<format_error>("safetensors: no tensor may be called __metadata__");
  if (a.shape.size() > safetensors_rank_limit)
    throw_error<format_error>("safetensors: tensor ", in_quotes(name), " has ", a.shape.size(),
                              " dimensions, more than ", safetensors_rank_limit);
  if (is_block_format(a.type) && a.shape.empty())
    throw_error<format_error>("safetensors: tensor ", in_quotes(name), " of type ", name_of(a.type), " has no rows");
  const std::size_t bytes = checked_bytes(a.type, a.shape);
  if (bytes != a.bytes.size())
    throw_error<shape_error>("safetensors: tensor ", in_quotes(name), " of shape ", to_string(a.shape), " and type ",
                             name_of(a.type), " takes ", bytes, " bytes, but has ", a.bytes.size());
}

// One member of the header. Writes no spaces, as other writers do not: the bytes are then the same as theirs.
template <class = void>
std::string entry_text(const std::string& name, const array_ref& a, std::size_t begin) {
  std::string text =
      concat(json_text(name, "safetensors"), ":{\"dtype\":\"", safetensors_types[safetensors_rank(a.type)].name, "\",\"shape\":[");
  for (std::size_t i = 0; i < a.shape.size(); ++i) text += concat(i == 0 ? "" : ",", a.shape[i]);
  return text += concat("],\"data_offsets\":[", begin, ',', begin + a.bytes.size(), "]}");
}

template <class = void>
safetensors_plan plan_safetensors(const records<array_ref>& items, records<std::string> metadata) {
  check_distinct(items, "safetensors", "tensor");
  check_distinct(metadata, "safetensors", "metadata");
  for (const auto& [key, value] : metadata)
    if (key.starts_with(blocks_key)) throw_error<format_error>("safetensors: metadata ", in_quotes(key), " is reserved");
  safetensors_plan plan;
  for (const auto& [name, a] : items) check_writable(name, a);
  plan.items = items;
  std::sort(plan.items.begin(), plan.items.end(), [](const auto& a, const auto& b) {
    const auto place = [](const auto& item) {  // blocks before other bytes, the widest first: they too are aligned
      return std::tuple(safetensors_rank(item.second.type), -alignment_of(item.second.type), std::string_view(item.first));
    };
    return place(a) < place(b);
  });
  for (auto& [name, a] : plan.items)
    if (is_block_format(a.type)) {
      metadata.push_back(blocks_entry(name, a));
      a = as_bytes(std::move(a));
    }
  std::string text = "{";
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) text += concat(json_text(key, "safetensors"), ':', json_text(value, "safetensors"), ',');
    text.back() = '}';
    text += ',';
  }
  for (const auto& [name, a] : plan.items) {
    text += concat(entry_text(name, a, plan.data_bytes), ',');
    plan.data_bytes += a.bytes.size();
  }
  if (text.size() > 1) text.pop_back();  // the last comma
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > safetensors_header_limit)
    throw_error<format_error>("safetensors: a header of ", text.size(), " bytes is beyond the limit of ",
                              safetensors_header_limit);
  const auto length = std::bit_cast<std::array<char, 8>>(std::uint64_t{text.size()});
  plan.head = std::string(length.data(), length.size()) + text;
  return plan;
}

template <class = void>
void write_safetensors(const safetensors_plan& plan, byte_sink sink) {
  sink(std::as_bytes(std::span(plan.head)));
  for (const auto& [name, a] : plan.items) sink(a.bytes);
}

}  // namespace detail

template <class>
safetensors_view view_safetensors(std::span<const std::byte> file, std::string_view name,
                                         foreign_types foreign) {
  const auto [text, data] = detail::split_safetensors(file, name);
  detail::safetensors_header header(name);
  detail::report_json(text, name, detail::safetensors_depth_limit, header);
  std::vector<std::string_view> names;
  for (const auto& e : header.entries) names.push_back(e.name);
  detail::check_distinct(std::move(names), name, "tensor");
  detail::check_distinct(header.metadata, name, "__metadata__");
  detail::check_layout(header.entries, data.size(), name);
  safetensors_view view;
  view.metadata = std::move(header.metadata);
  for (auto& e : header.entries) {
    if (e.type->type) {
      view.items.emplace_back(std::move(e.name),
                              array_ref(*e.type->type, std::move(e.shape), data.subspan(e.begin, e.end - e.begin)));
    } else if (foreign == foreign_types::set_aside) {
      view.foreign.emplace_back(std::move(e.name), e.type->name);
    } else {
      throw_error<dtype_error>(name, ": tensor ", detail::in_quotes(e.name), " has unsupported dtype ", e.type->name);
    }
  }
  detail::open_blocks(view.items, view.metadata, name);
  return view;
}

template <class>
state_dict from_safetensors(std::span<const std::byte> file, std::string_view name) {
  safetensors_view view = view_safetensors(file, name);
  state_dict state;
  for (auto& [key, a] : view.items)
    state.items.emplace_back(std::move(key), array{a.type, std::move(a.shape), {a.bytes.begin(), a.bytes.end()}});
  state.metadata = std::move(view.metadata);
  return state;
}

template <class>
state_dict load_safetensors(const std::filesystem::path& path) {
  return from_safetensors(map_file(path)->bytes(), path.string());
}

template <class>
std::vector<std::byte> to_safetensors(const records<array_ref>& items, const records<std::string>& metadata) {
  const auto plan = detail::plan_safetensors(items, metadata);
  std::vector<std::byte> bytes;
  bytes.reserve(plan.head.size() + plan.data_bytes);
  detail::write_safetensors(
      plan, [&](std::span<const std::byte> part) { bytes.insert(bytes.end(), part.begin(), part.end()); });
  return bytes;
}
template <class>
std::vector<std::byte> to_safetensors(const state_dict& state) {
  return to_safetensors(records<array_ref>(state.items.begin(), state.items.end()), state.metadata);
}

template <class>
void save_safetensors(const std::filesystem::path& path, const records<array_ref>& items,
                             const records<std::string>& metadata) {
  const auto plan = detail::plan_safetensors(items, metadata);
  write_file_atomically(path, [&](byte_sink sink) { detail::write_safetensors(plan, sink); });
}
template <class>
void save_safetensors(const std::filesystem::path& path, const state_dict& state) {
  save_safetensors(path, records<array_ref>(state.items.begin(), state.items.end()), state.metadata);
}

}  // namespace graft
