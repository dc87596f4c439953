// SPDX-License-Identifier: Apache-2.0
// Rewrites a regular expression from the syntax tokenizer files use (Oniguruma's) to PCRE2's, or refuses it.
// Read next: text/pattern.hpp.
#pragma once
#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8  // our calls name the width themselves: another one elsewhere does no harm
#endif
#include <pcre2.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/error.hpp"
#include "graft/text/utf8.hpp"

namespace graft::text::detail {

// What Oniguruma's \s and \w stand for, as items of a character class. PCRE2's own differ: its \s has U+180E, its \w
// lacks marks and connecting punctuation. Outside of a class, Oniguruma counts the superscripts and fractions of
// Latin-1 to \w.
inline constexpr std::string_view space_items = R"(\x09-\x0d\x85\p{Z})";
inline constexpr std::string_view not_space_items =
    R"(\x00-\x08\x0e-\x1f\x21-\x84\x86-\x9f\xa1-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e})"
    R"(\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";
inline constexpr std::string_view word_items =
    R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{24b6}-\x{24e9}\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

/// One pass over a pattern. What the two syntaxes read alike is copied, what they read differently is spelled out, and
/// what could not be made to mean the same is an error: a wrong guess would give wrong tokens without a word.
class pattern_rewriter {
 public:
  explicit pattern_rewriter(std::string_view source) : source_(source) {
    if (source.size() > 16384)
      throw_error<format_error>("pattern of ", source.size(), " bytes: expected at most 16384");
  }

  std::string rewrite() {
    while (at_ < source_.size()) {
      const std::size_t begin = out_.size();
      switch (source_[at_]) {
        case '\\': escape_outside_class(); break;
        case '[': character_class(); break;
        case '(':
          groups_.push_back(begin);
          group();
          break;
        case ')':
          if (groups_.empty()) refuse("a parenthesis too many");
          atom_ = groups_.back();
          groups_.pop_back();
          copy(1);
          continue;
        case '{': quantifier(); continue;
        case '?':
        case '*':
        case '+': copy(1); continue;
        default: copy(first_character(source_.substr(at_)).bytes);
      }
      atom_ = begin;
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view why) const {
    throw_error<format_error>("pattern \"", source_, "\" at ", at_, ": ", why);
  }
  bool next_is(std::string_view s) const { return source_.substr(at_, s.size()) == s; }
  char next() const {
    if (at_ >= source_.size()) refuse("it ends too early");
    return source_[at_];
  }
  void copy(std::size_t n) {
    out_ += source_.substr(at_, n);
    at_ += n;
  }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
  static bool is_one_of(char c, std::string_view set) { return set.find(c) != std::string_view::npos; }

  void group() {
    if (next_is("(*")) refuse("verbs are not known");
    if (!next_is("(?")) return copy(1);
    for (std::string_view opening : {"(?:", "(?=", "(?!", "(?>", "(?<"}) {
      if (next_is(opening)) return copy(opening.size());  // (?< begins a lookbehind or a name
    }
    const std::size_t end = source_.find_first_not_of("im-", at_ + 2);
    if (end == at_ + 2 || end == std::string_view::npos || !is_one_of(source_[end], ":)"))
      refuse("a group of unknown kind");
    if (source_[end] == ')' && at_ != 0) refuse("options may only be switched at the start, or for one group");
    for (; at_ != end; ++at_) out_ += next() == 'm' ? 's' : next();  // m lets the dot match a line feed there
  }

  // {n}, {n,}, {,m}, {n,m}. A plus behind it repeats it, and would make it possessive in PCRE2; a question mark behind
  // {n} makes it optional. So either takes a group.
  void quantifier() {
    std::size_t i = at_ + 1;
    const auto number = [&] {
      const std::size_t first = i;
      while (i < source_.size() && is_digit(source_[i])) ++i;
      return source_.substr(first, i - first);
    };
    const std::string_view low = number();
    const bool range = i < source_.size() && source_[i] == ',';
    if (range) ++i;
    const std::string_view high = range ? number() : std::string_view();
    if (i >= source_.size() || source_[i] != '}' || (low.empty() && high.empty())) {
      atom_ = out_.size();
      out_ += "\\{";
      ++at_;
      return;
    }
    out_ += concat("{", low.empty() ? std::string_view("0") : low, range ? "," : "", high, "}");
    at_ = i + 1;
    if (next_is("+") || (next_is("?") && !range)) {
      out_.insert(atom_, "(?:");
      out_ += ')';
      copy(1);
    }
  }

  void escape_outside_class() {
    ++at_;
    const char c = next();
    const std::string word = concat(word_items, R"(\xb2\xb3\xb9\xbc-\xbe)");
    const auto spell_out = [&](const auto&... parts) {
      out_ += concat(parts...);
      ++at_;
    };
    switch (c) {
      case 's': return spell_out("[", space_items, "]");
      case 'S': return spell_out("[^", space_items, "]");
      case 'w': return spell_out("[", word, "]");
      case 'W': return spell_out("[^", word, "]");
      case 'b': return spell_out("(?:(?<=[", word, "])(?![", word, "])|(?<![", word, "])(?=[", word, "]))");
      case 'B': return spell_out("(?:(?<=[", word, "])(?=[", word, "])|(?<![", word, "])(?![", word, "]))");
      default: break;
    }
    if (is_one_of(c, "dDAzZRk123456789")) {
      out_ += '\\';
      copy(1);
    } else if (!common_escape()) {
      refuse(concat("the escape \\", c, " is not known"));
    }
  }

  // What means the same inside and outside of a class; `at_` is behind the backslash. False when it is none of it.
  bool common_escape() {
    const char c = next();
    if (c == 'p' || c == 'P') return property(), true;
    if (c == 'x' || c == 'u') return code_point(), true;
    if ((is_letter(c) && !is_one_of(c, "nrtfae")) || is_digit(c)) return false;
    out_ += '\\';
    copy(1);
    return true;
  }

  void property() {
    bool negated = next() == 'P';
    if (++at_, next() != '{') refuse("a property must stand in braces");
    const std::size_t end = source_.find('}', at_);
    if (end == std::string_view::npos) refuse("a property without its closing brace");
    std::string_view name = source_.substr(at_ + 1, end - at_ - 1);
    if (!name.empty() && name.front() == '^') {
      negated = !negated;
      name.remove_prefix(1);
    }
    const bool category = !name.empty() && is_one_of(name[0], "CLMNPSZ") &&
                          (name.size() == 1 || (name.size() == 2 && name[1] >= 'a' && name[1] <= 'z'));
#if PCRE2_MAJOR > 10 || PCRE2_MINOR >= 40
    const std::string_view script = "sc:";  // a bare name means script extensions from 10.40 on
#else
    const std::string_view script = "";
#endif
    out_ += concat(negated ? "\\P{" : "\\p{", category ? std::string_view() : script, name, "}");
    at_ = end + 1;
  }

  // \x{H...}, \xHH below 80 (above it is half a character in Oniguruma), \uHHHH.
  void code_point() {
    const bool braces = next_is("x{");
    const std::size_t first = at_ + (braces ? 2 : 1);
    std::size_t end = first;
    const std::size_t most = braces ? 6 : next() == 'u' ? 4 : 2;
    while (end < source_.size() && end - first < most && is_hex(source_[end])) ++end;
    const std::string_view digits = source_.substr(first, end - first);
    const bool complete =
        braces ? !digits.empty() && end < source_.size() && source_[end] == '}' : digits.size() == most;
    if (!complete || (most == 2 && !is_one_of(digits[0], "01234567"))) refuse("a character code that is not known");
    out_ += concat("\\x{", digits, "}");
    at_ = end + (braces ? 1 : 0);
  }

  void character_class() {
    ++at_;
    out_ += '[';
    if (next() == '^') copy(1);
    class_items();
    out_ += ']';
  }

  // Up to and with the closing bracket. A class within a class adds its items to the outer one.
  void class_items() {
    for (bool first = true; first || next() != ']'; first = false) {
      if (next_is("&&")) refuse("intersections of classes are not known");
      if (next_is("[:") || next_is("[^")) refuse("named classes and negated classes within a class are not known");
      if (next() == '[') {
        ++at_;
        class_items();
      } else if (!class_item()) {
        if (next() == '-' && !next_is("-]")) literal();  // no range starts at \s and its like
      } else if (next() == '-' && !next_is("-]")) {
        copy(1);
        if (next() == '[' || !class_item()) refuse("a range must end in a character");
      }
    }
    ++at_;
  }

  // True when the item is one character, from which a range may start.
  bool class_item() {
    if (next() != '\\') return literal(), true;
    ++at_;
    const char c = next();
    const auto items = [&](std::string_view set) {
      out_ += set;
      ++at_;
      return false;
    };
    switch (c) {
      case 's': return items(space_items);
      case 'S': return items(not_space_items);
      case 'w': return items(word_items);
      case 'd': return items("\\d");
      case 'D': return items("\\D");
      case 'b': return items("\\x08"), true;
      default: break;
    }
    if (!common_escape()) refuse(concat("the escape \\", c, " is not known in a class"));
    return c != 'p' && c != 'P';
  }

  void literal() {
    const char c = next();
    if (static_cast<unsigned char>(c) < 0x80 && !is_letter(c) && !is_digit(c)) out_ += '\\';
    const std::size_t first = at_++;
    while (at_ < source_.size() && (static_cast<unsigned char>(source_[at_]) & 0xC0) == 0x80) ++at_;
    out_ += source_.substr(first, at_ - first);
  }

  std::string_view source_;
  std::size_t at_ = 0;
  std::string out_;
  std::size_t atom_ = 0;             // where in out_ begins what a quantifier would repeat
  std::vector<std::size_t> groups_;  // where the open groups begin
};

}  // namespace graft::text::detail
