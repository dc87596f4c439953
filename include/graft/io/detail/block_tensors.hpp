// SPDX-License-Identifier: Apache-2.0
// Block formats in safetensors, which has no name for them: the bytes of the rows as a U8 tensor, and a metadata entry
// "graft.blocks/<tensor>": "<format> <columns>". Other programs then read the file, and see bytes. Read next:
// io/safetensors.hpp, which does this on the way in and out.
#pragma once
#include <algorithm>
#include <charconv>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "graft/core/dtype.hpp"
#include "graft/io/detail/printable.hpp"
#include "graft/nn/state_dict.hpp"

namespace graft::detail {

inline constexpr std::string_view blocks_key = "graft.blocks/";

/// The tensor of bytes that stands for an array of blocks of rank 1 or more, whose size was checked.
template <class = void>
array_ref as_bytes(array_ref a) {
  a.shape.back() = row_bytes(a.type, a.shape.back());
  a.type = dtype::u8;
  return a;
}
template <class = void>
std::pair<std::string, std::string> blocks_entry(const std::string& name, const array_ref& a) {
  return {concat(blocks_key, name), concat(name_of(a.type), ' ', a.shape.back())};
}

/// The array of blocks that a tensor of bytes stands for, by its entry's text. Throws format_error when the text is no such
/// entry, or the tensor has not the bytes it asks for.
template <class = void>
array_ref as_blocks(array_ref a, std::string_view text, std::string_view file, std::string_view name) {
  const auto refuse = [&](const auto&... what) {
    throw_error<format_error>(file, ": __metadata__ ", in_quotes(concat(blocks_key, name)), ": ", what...);
  };
  const std::string_view format = text.substr(0, text.find(' '));
  const std::string_view number = text.substr(std::min(text.size(), format.size() + 1));
  index_t columns = 0;
  std::from_chars(number.data(), number.data() + number.size(), columns);
  if (columns < 0 || number != std::to_string(columns))  // whatever is not one whole number does not come back as it was
    refuse("expected a format and a number of columns, got ", in_quotes(text));
  const dtype bytes_type = a.type;
  for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::nf4})
    if (format == name_of(type)) a.type = type;
  if (a.type == bytes_type) refuse("expected q8_0, q4_0 or nf4, got ", in_quotes(format));
  if (bytes_type != dtype::u8 || a.shape.empty())
    refuse("expected a tensor of U8 with rows, got ", name_of(bytes_type), " of shape ", to_string(a.shape));
  const index_t row = std::exchange(a.shape.back(), columns);
  try {
    checked_bytes(a.type, a.shape);
  } catch (const shape_error& e) {
    refuse(e.what());
  }
  if (row_bytes(a.type, columns) != row)
    refuse("rows of ", columns, " columns take ", row_bytes(a.type, columns), " bytes in ", format, ", but the tensor's have ", row);
  return a;
}

/// Turns what the metadata says are blocks into such, and drops those entries. Names are distinct.
template <class = void>
void open_blocks(records<array_ref>& items, records<std::string>& metadata, std::string_view file) {
  std::map<std::string_view, array_ref*> by_name;
  if (std::ranges::any_of(metadata, [](const auto& m) { return m.first.starts_with(blocks_key); }))
    for (auto& [name, a] : items) by_name.emplace(name, &a);
  for (const auto& [key, text] : metadata) {
    if (!key.starts_with(blocks_key)) continue;
    const std::string_view name = std::string_view(key).substr(blocks_key.size());
    const auto at = by_name.find(name);
    if (at == by_name.end())
      throw_error<format_error>(file, ": __metadata__ ", in_quotes(key), ": there is no such tensor");
    *at->second = as_blocks(*at->second, text, file, name);
  }
  std::erase_if(metadata, [](const auto& m) { return m.first.starts_with(blocks_key); });
}

}  // namespace graft::detail
