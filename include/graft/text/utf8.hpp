// SPDX-License-Identifier: Apache-2.0
// UTF-8 one step at a time: validity, code points, and the replacement of what is not UTF-8.
// Read next: text/unicode.hpp.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace graft::text {

/// U+FFFD, which stands for bytes that are not UTF-8.
inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";

/// The first character of some bytes, or what stands in its place.
struct utf8_step {
  enum kind_type : std::uint8_t { character, invalid, cut_short } kind;
  std::size_t bytes;  ///< length of the character; else of the longest start of one, at least 1
};

/// Looks at the first character of `s`, which is not empty. Surrogates and overlong forms are invalid.
inline utf8_step first_character(std::string_view s) noexcept {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned lead = at(0);
  if (lead < 0x80) return {utf8_step::character, 1};
  if (lead < 0xC2 || lead > 0xF4) return {utf8_step::invalid, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;  // of the second byte: the rest is 0x80 to 0xBF
  unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (std::size_t i = 1; i < length; ++i, low = 0x80, high = 0xBF) {
    if (i == s.size()) return {utf8_step::cut_short, i};
    if (at(i) < low || at(i) > high) return {utf8_step::invalid, i};
  }
  return {utf8_step::character, length};
}

/// Bytes at the start of `s` that are ASCII, found eight at a time.
inline std::size_t ascii_prefix(std::string_view s) noexcept {
  std::size_t i = 0;
  for (std::uint64_t eight; i + 8 <= s.size(); i += 8) {
    std::memcpy(&eight, s.data() + i, 8);
    if ((eight & 0x8080808080808080u) != 0) break;
  }
  while (i < s.size() && static_cast<unsigned char>(s[i]) < 0x80) ++i;
  return i;
}

inline bool is_ascii(std::string_view s) noexcept { return ascii_prefix(s) == s.size(); }

inline bool is_utf8(std::string_view s) noexcept {
  for (;;) {
    s.remove_prefix(ascii_prefix(s));
    if (s.empty()) return true;
    const utf8_step step = first_character(s);
    if (step.kind != utf8_step::character) return false;
    s.remove_prefix(step.bytes);
  }
}

/// Appends `bytes` to `out`, each longest run that is not UTF-8 as one U+FFFD. A character that the end cuts short is
/// left over for a caller who will have more bytes. Returns the number of bytes consumed.
inline std::size_t append_valid(std::string_view bytes, std::string& out) {
  std::size_t i = 0;
  while (i < bytes.size()) {
    const utf8_step step = first_character(bytes.substr(i));
    if (step.kind == utf8_step::cut_short) break;
    out += step.kind == utf8_step::character ? bytes.substr(i, step.bytes) : replacement_character;
    i += step.bytes;
  }
  return i;
}

/// `s` itself when it is UTF-8; otherwise a copy in `storage` with U+FFFD for every longest run that is not.
inline std::string_view to_utf8(std::string_view s, std::string& storage) {
  if (is_utf8(s)) return s;
  storage.clear();
  if (append_valid(s, storage) != s.size()) storage += replacement_character;
  return storage;
}

/// Reads the code point at `p` and moves `p` behind it. Only for UTF-8 known to be valid.
inline char32_t take_code_point(const char*& p) noexcept {
  const auto next = [&] { return static_cast<unsigned char>(*p++); };
  const char32_t lead = next();
  if (lead < 0x80) return lead;
  char32_t c = lead < 0xE0 ? lead & 0x1F : lead < 0xF0 ? lead & 0x0F : lead & 0x07;
  for (int rest = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3; rest > 0; --rest) c = c << 6 | (next() & 0x3Fu);
  return c;
}

/// The code point before `p`, which is not at the start of the valid UTF-8 it points into.
inline char32_t code_point_before(const char* p) noexcept {
  do --p;
  while ((static_cast<unsigned char>(*p) & 0xC0) == 0x80);
  return take_code_point(p);
}

inline void append_code_point(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xC0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xE0 | c >> 12);
    } else {
      put(0xF0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3F));
    }
    put(0x80 | (c >> 6 & 0x3F));
  }
  put(0x80 | (c & 0x3F));
}

/// Characters in valid UTF-8.
inline std::size_t count_characters(std::string_view s) noexcept {
  std::size_t n = 0;
  for (char c : s) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace graft::text
