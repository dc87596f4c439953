// SPDX-License-Identifier: Apache-2.0
// Hand-made safetensors files, and what must hold for any bytes whatever; shared by the tests and the fuzzer.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graft/io/safetensors.hpp"

namespace graft::test {

/// A file with this header text and this data, whether they make sense or not.
inline std::vector<std::byte> safetensors_file(std::string_view header, std::string_view data = {}) {
  const std::uint64_t length = header.size();
  std::vector<std::byte> file(sizeof length + header.size() + data.size());
  std::memcpy(file.data(), &length, sizeof length);
  std::ranges::copy(std::as_bytes(std::span(header)), file.begin() + sizeof length);
  std::ranges::copy(std::as_bytes(std::span(data)), file.end() - std::ssize(data));
  return file;
}

inline bool same(const array_ref& a, const array_ref& b) {
  return a.type == b.type && a.shape == b.shape && std::ranges::equal(a.bytes, b.bytes);
}

/// Whether the bytes are refused, or else seen in a way that makes sense: every array inside the file with the bytes
/// its shape needs, and a file written from what was seen seen as the same again. Throws nothing but on a defect.
inline bool refused_or_consistent(std::span<const std::byte> file) {
  safetensors_view seen;
  try {
    seen = view_safetensors(file, "file", foreign_types::set_aside);
  } catch (const format_error&) {
    return true;
  }
  std::size_t bytes = 0;
  for (const auto& [name, a] : seen.items) {
    if (a.bytes.data() < file.data() + 8 || a.bytes.data() + a.bytes.size() > file.data() + file.size()) return false;
    if (a.bytes.size() != checked_bytes(a.type, a.shape)) return false;
    bytes += a.bytes.size();
  }
  if (bytes > file.size()) return false;  // arrays would overlap
  const auto written = to_safetensors(seen.items, seen.metadata);
  const auto again = view_safetensors(written, "written");
  if (again.metadata != seen.metadata || again.items.size() != seen.items.size()) return false;
  return std::ranges::all_of(again.items, [&](const auto& item) {
    const array_ref* before = find(seen.items, item.first);
    return before != nullptr && same(*before, item.second);
  });
}

}  // namespace graft::test
