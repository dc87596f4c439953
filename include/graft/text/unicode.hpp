// SPDX-License-Identifier: Apache-2.0
// The classes of characters tokenizers ask about, lower case and the normal forms, from utf8proc's Unicode tables.
// Read next: text/normalizer.hpp.
#pragma once
#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "graft/core/error.hpp"
#include "graft/text/utf8.hpp"

namespace graft::text {

namespace detail {

inline utf8proc_category_t category(char32_t c) noexcept { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }
constexpr bool between(char32_t c, char32_t first, char32_t last) noexcept { return c >= first && c <= last; }

}  // namespace detail

/// Unicode's White_Space property.
constexpr bool is_space(char32_t c) noexcept {
  if (c < 0x80) return c == ' ' || detail::between(c, '\t', '\r');
  return c == 0x85 || c == 0xA0 || c == 0x1680 || detail::between(c, 0x2000, 0x200A) || c == 0x2028 || c == 0x2029 ||
         c == 0x202F || c == 0x205F || c == 0x3000;
}

/// General category N: digits, letters used as numbers, fractions.
inline bool is_numeric(char32_t c) noexcept {
  if (c < 0x80) return detail::between(c, '0', '9');
  const auto k = detail::category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

/// General category P, and every ASCII character that is neither letter, digit, space nor control.
inline bool is_punctuation(char32_t c) noexcept {
  if (c < 0x80) {
    return detail::between(c, '!', '/') || detail::between(c, ':', '@') || detail::between(c, '[', '`') ||
           detail::between(c, '{', '~');
  }
  const auto k = detail::category(c);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

inline bool is_nonspacing_mark(char32_t c) noexcept { return c >= 0x80 && detail::category(c) == UTF8PROC_CATEGORY_MN; }

inline bool is_mark(char32_t c) noexcept {
  if (c < 0x80) return false;
  const auto k = detail::category(c);
  return k >= UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_ME;
}

/// What \w means in the regular expressions of Unicode's technical standard 18: letters, marks, decimal digits, letter
/// numbers, connecting punctuation, circled letters and the two joiners.
inline bool is_word_character(char32_t c) noexcept {
  if (c < 0x80) {
    return detail::between(c, 'a', 'z') || detail::between(c, 'A', 'Z') || detail::between(c, '0', '9') || c == '_';
  }
  if (detail::between(c, 0x24B6, 0x24E9) || detail::between(c, 0x1F130, 0x1F149) ||
      detail::between(c, 0x1F150, 0x1F169) || detail::between(c, 0x1F170, 0x1F189) || c == 0x200C || c == 0x200D) {
    return true;
  }
  const auto k = detail::category(c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NL) || k == UTF8PROC_CATEGORY_PC;
}

/// Controls, format characters and private use, without tab, line feed and carriage return: what BERT drops.
inline bool is_control(char32_t c) noexcept {
  if (c < 0x80) return (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F;
  const auto k = detail::category(c);
  return k >= UTF8PROC_CATEGORY_CC && k <= UTF8PROC_CATEGORY_CO;
}

/// The blocks of ideographs that BERT sets apart as words of one character.
constexpr bool is_ideograph(char32_t c) noexcept {
  return c >= 0x3400 && (detail::between(c, 0x4E00, 0x9FFF) || detail::between(c, 0x3400, 0x4DBF) ||
                         detail::between(c, 0x20000, 0x2A6DF) || detail::between(c, 0x2A700, 0x2B73F) ||
                         detail::between(c, 0x2B740, 0x2B81F) || detail::between(c, 0x2B920, 0x2CEAF) ||
                         detail::between(c, 0xF900, 0xFAFF) || detail::between(c, 0x2F800, 0x2FA1F));
}

/// Appends the lower case of one character, whatever stands around it.
inline void append_lower_case(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(detail::between(c, 'A', 'Z') ? c + ('a' - 'A') : c);
  } else if (c == 0x130) {
    out += "i\xCC\x87";  // the one character whose lower case is always two: i and a dot above
  } else {
    append_code_point(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

enum class normal_form { nfc, nfd, nfkc, nfkd };

/// Replaces valid UTF-8 by its normal form.
inline void to_normal_form(std::string& s, normal_form form) {
  if (is_ascii(s)) return;
  int options = UTF8PROC_STABLE;
  options |= form == normal_form::nfc || form == normal_form::nfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == normal_form::nfkc || form == normal_form::nfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(s.data()), static_cast<utf8proc_ssize_t>(s.size()),
                   &result, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (length < 0) throw_error<error>("Unicode normal form of ", s.size(), " bytes: ", utf8proc_errmsg(length));
  s.assign(reinterpret_cast<const char*>(result), static_cast<std::size_t>(length));
}

}  // namespace graft::text
