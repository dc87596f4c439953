// SPDX-License-Identifier: Apache-2.0
// What happens to a text before it is cut: normal forms, lower case, accents, replacements.
// Read next: text/pre_tokenizer.hpp.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "graft/text/pattern.hpp"
#include "graft/text/unicode.hpp"

namespace graft::text {

/// Puts `text` in front of what is not empty.
struct prepend {
  std::string text;
};

/// Puts `content` in the place of every match.
struct replace {
  pattern what;
  std::string content;
};

struct lowercase {};
struct strip_accents {};  ///< drops every combining mark; takes nothing apart, so a decomposing form comes first

/// Drops white space at either end.
struct strip_spaces {
  bool left = true, right = true;
};

/// What BERT does, in this order.
struct bert_normalizer {
  bool clean = true;  ///< drops control characters and U+FFFD, turns every white space into a plain one
  bool set_apart_ideographs = true;
  bool strip_accents = true;  ///< takes characters apart and drops nonspacing marks
  bool lowercase = true;
};

using normalizer = std::variant<prepend, replace, normal_form, lowercase, strip_accents, strip_spaces, bert_normalizer>;

namespace detail {

/// Calls append(out, c) for every character and makes what it appended the new text.
template <class F>
void map_characters(std::string& s, F append) {
  std::string out;
  out.reserve(s.size());
  for (const char *p = s.data(), *end = p + s.size(); p != end;) append(out, take_code_point(p));
  s = std::move(out);
}

inline void to_lower_case(std::string& s) {
  map_characters(s, [](std::string& out, char32_t c) { append_lower_case(out, c); });
}

// Normal forms make a text a few times longer at most, replacements as long as a file tells them to.
inline void check_growth(std::size_t from, std::size_t to) {
  if (to / 64 > from + 1024)
    throw_error<format_error>("normalizing ", from, " bytes of text made ", to, " of them, or more");
}

inline std::string replaced(std::string_view s, const replace& r, match_workspace& w) {
  std::string out;
  out.reserve(s.size());
  r.what.for_each_segment(s, w, [&](std::size_t begin, std::size_t end, bool match) {
    if (match) out += r.content;
    else out += s.substr(begin, end - begin);
    check_growth(s.size(), out.size());
  });
  return out;
}

inline void apply(const prepend& n, std::string& s, match_workspace&) {
  if (!s.empty()) s.insert(0, n.text);
}
inline void apply(const replace& n, std::string& s, match_workspace& w) { s = replaced(s, n, w); }
inline void apply(normal_form form, std::string& s, match_workspace&) { to_normal_form(s, form); }
inline void apply(lowercase, std::string& s, match_workspace&) { to_lower_case(s); }
inline void apply(strip_accents, std::string& s, match_workspace&) {
  if (is_ascii(s)) return;
  map_characters(s, [](std::string& out, char32_t c) {
    if (!is_mark(c)) append_code_point(out, c);
  });
}
inline void apply(strip_spaces n, std::string& s, match_workspace&) {
  const char *begin = s.data(), *end = begin + s.size();
  for (const char* p = begin; n.left && p != end && is_space(take_code_point(p));) begin = p;
  while (n.right && end != begin && is_space(code_point_before(end))) {
    do --end;
    while ((static_cast<unsigned char>(*end) & 0xC0) == 0x80);
  }
  s = std::string(begin, end);
}
inline void apply(const bert_normalizer& n, std::string& s, match_workspace&) {
  map_characters(s, [&](std::string& out, char32_t c) {
    if (n.clean && (is_control(c) || c == 0xFFFD)) return;
    if (n.clean && is_space(c)) c = ' ';
    const bool apart = n.set_apart_ideographs && is_ideograph(c);
    if (apart) out += ' ';
    append_code_point(out, c);
    if (apart) out += ' ';
  });
  if (n.strip_accents && !is_ascii(s)) {
    to_normal_form(s, normal_form::nfd);
    map_characters(s, [](std::string& out, char32_t c) {
      if (!is_nonspacing_mark(c)) append_code_point(out, c);
    });
  }
  if (n.lowercase) to_lower_case(s);
}

}  // namespace detail

/// Runs the normalizers over valid UTF-8, one after another. Throws format_error when they make the text 64 times as
/// long.
inline void normalize(const std::vector<normalizer>& steps, std::string& s, match_workspace& w) {
  const std::size_t before = s.size();
  for (const normalizer& step : steps) {
    std::visit([&](const auto& n) { detail::apply(n, s, w); }, step);
    detail::check_growth(before, s.size());
  }
}

}  // namespace graft::text
