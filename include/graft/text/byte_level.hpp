// SPDX-License-Identifier: Apache-2.0
// The alphabet of byte-level models: one printable character for every byte. Read next: text/pre_tokenizer.hpp.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "graft/text/utf8.hpp"

namespace graft::text {

/// Printable characters of Latin-1 stand for their own byte; the other 68 bytes, in order, are U+0100 and up. A space
/// is U+0120, a line feed U+010A.
class byte_alphabet {
 public:
  static constexpr char32_t end = 0x100 + 68;  ///< one more than the largest character of the alphabet

  constexpr byte_alphabet() {
    char32_t moved = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool stays = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
      const char32_t c = stays ? byte : moved++;
      character_[byte] = c;
      byte_[c] = static_cast<std::int16_t>(byte);
    }
  }

  constexpr char32_t character_of(unsigned char byte) const { return character_[byte]; }

  /// The byte a character stands for, or -1.
  constexpr int byte_of(char32_t c) const { return c < end ? byte_[c] : -1; }

 private:
  static constexpr std::array<std::int16_t, end> none() {
    std::array<std::int16_t, end> a{};
    for (auto& b : a) b = -1;
    return a;
  }
  std::array<char32_t, 256> character_{};
  std::array<std::int16_t, end> byte_ = none();
};

inline constexpr byte_alphabet bytes_as_characters{};

/// Appends the characters that stand for `bytes`.
inline void append_as_characters(std::string& out, std::string_view bytes) {
  const std::size_t before = out.size();
  out.resize(before + 2 * bytes.size());
  char* p = out.data() + before;
  for (char byte : bytes) {
    const char32_t c = bytes_as_characters.character_of(static_cast<unsigned char>(byte));
    if (c >= 0x80) *p++ = static_cast<char>(0xC0 | c >> 6);
    *p++ = static_cast<char>(c < 0x80 ? c : 0x80 | (c & 0x3F));
  }
  out.resize(static_cast<std::size_t>(p - out.data()));
}

/// Appends the bytes the characters of a token stand for. False, and nothing appended, when one stands for none.
inline bool append_as_bytes(std::string& out, std::string_view token) {
  const std::size_t before = out.size();
  for (const char *p = token.data(), *end = p + token.size(); p != end;) {
    const int byte = bytes_as_characters.byte_of(take_code_point(p));
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(byte);
  }
  return true;
}

}  // namespace graft::text
