// SPDX-License-Identifier: Apache-2.0
// Text from outside as a message may show it. Read next: io/json.hpp.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "graft/core/error.hpp"

namespace graft::detail {

// No control characters, no more than `most` bytes, no character cut in two.
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

}  // namespace graft::detail
