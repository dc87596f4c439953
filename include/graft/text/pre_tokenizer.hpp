// SPDX-License-Identifier: Apache-2.0
// How text is cut into the pieces a model sees one at a time: words, digits, punctuation. Read next: text/bpe.hpp.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "graft/text/byte_level.hpp"
#include "graft/text/pattern.hpp"
#include "graft/text/pieces.hpp"
#include "graft/text/unicode.hpp"

namespace graft::text {

/// Cuts at the matches of a pattern; `invert` takes the gaps for the matches.
struct split {
  pattern what;
  split_behavior behavior = split_behavior::isolated;
  bool invert = false;
};

/// The pattern GPT-2 cuts with.
inline constexpr const char* gpt2_words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Writes every byte as one character, after a space in front of each piece and after cutting with gpt2_words if asked
/// to.
struct byte_level {
  bool add_prefix_space = false;
  std::optional<pattern> words;  ///< gpt2_words, or nothing
};

/// Isolates every numeric character, or every run of them.
struct digits {
  bool individual = false;
};

struct punctuation {
  split_behavior behavior = split_behavior::isolated;
};

struct words_and_symbols {};  ///< keeps runs of word characters and runs of other characters, drops white space
struct white_space_split {};  ///< drops white space
struct bert_words {};         ///< drops white space, isolates punctuation

enum class prepend_scheme { always, first, never };

/// Writes a space as `replacement`, puts one in front of each piece (or of the input only), and cuts before each.
struct metaspace {
  std::string replacement = "\xE2\x96\x81";
  prepend_scheme scheme = prepend_scheme::always;
  bool cut = true;
};

using pre_tokenizer =
    std::variant<split, byte_level, digits, punctuation, words_and_symbols, white_space_split, bert_words, metaspace>;

namespace detail {

/// Cuts every piece: segments(piece, add) reports matches and gaps of one piece by add(begin, end, is_match).
template <class Segments>
void cut(pieces& p, split_behavior behavior, Segments segments) {
  std::vector<piece> old;
  old.swap(p.items);
  p.items.reserve(2 * old.size());
  const std::string_view text = p.text;
  for (const piece& from : old) {
    piece_splitter splitter(p.items, behavior);
    segments(text.substr(from.begin, from.end - from.begin), [&](std::size_t begin, std::size_t end, bool match) {
      splitter.add(from.begin + begin, from.begin + end, match);
    });
    splitter.finish();
  }
  p.first_opens_input =
      p.first_opens_input && !old.empty() && !p.items.empty() && p.items.front().begin == old.front().begin;
}

/// Cuts at single characters.
template <class IsMatch>
void cut_at_characters(pieces& p, split_behavior behavior, IsMatch is_match) {
  cut(p, behavior, [&](std::string_view s, auto add) {
    std::size_t done = 0;
    for (const char *at = s.data(), *end = at + s.size(); at != end;) {
      const auto begin = static_cast<std::size_t>(at - s.data());
      if (!is_match(take_code_point(at))) continue;
      const auto behind = static_cast<std::size_t>(at - s.data());
      if (done != begin) add(done, begin, false);
      add(begin, behind, true);
      done = behind;
    }
    if (done != s.size()) add(done, s.size(), false);
  });
}

/// Writes every piece anew: write(i, out) appends the i-th piece to the new text.
template <class Write>
void rewrite(pieces& p, Write write) {
  std::string out;
  out.reserve(p.text.size() + p.text.size() / 2);
  for (std::size_t i = 0; i < p.items.size(); ++i) {
    const std::size_t begin = out.size();
    write(i, out);
    p.items[i] = {begin, out.size()};  // piece i of the old text is not read again
  }
  p.text = std::move(out);
}

inline void cut_at_matches(pieces& p, const pattern& what, split_behavior behavior, bool invert, match_workspace& w) {
  cut(p, behavior, [&](std::string_view s, auto add) {
    what.for_each_segment(s, w,
                          [&](std::size_t begin, std::size_t end, bool match) { add(begin, end, match != invert); });
  });
}

inline void apply(const split& t, pieces& p, match_workspace& w) { cut_at_matches(p, t.what, t.behavior, t.invert, w); }

inline void apply(const byte_level& t, pieces& p, match_workspace& w) {
  if (t.add_prefix_space) {
    rewrite(p, [&](std::size_t i, std::string& out) {
      if (!p[i].starts_with(' ')) out += ' ';
      out += p[i];
    });
  }
  if (t.words) cut_at_matches(p, *t.words, split_behavior::isolated, false, w);
  rewrite(p, [&](std::size_t i, std::string& out) { append_as_characters(out, p[i]); });
}

inline void apply(digits t, pieces& p, match_workspace&) {
  cut_at_characters(p, t.individual ? split_behavior::isolated : split_behavior::contiguous, is_numeric);
}

inline void apply(punctuation t, pieces& p, match_workspace&) { cut_at_characters(p, t.behavior, is_punctuation); }

inline void apply(words_and_symbols, pieces& p, match_workspace&) {
  const auto kind_of = [](char32_t c) { return is_space(c) ? 0 : is_word_character(c) ? 1 : 2; };
  cut(p, split_behavior::removed, [&](std::string_view s, auto add) {
    for (const char *at = s.data(), *end = at + s.size(); at != end;) {
      const char* const begin = at;
      const int kind = kind_of(take_code_point(at));
      for (const char* next = at; next != end && kind_of(take_code_point(next)) == kind;) at = next;
      add(static_cast<std::size_t>(begin - s.data()), static_cast<std::size_t>(at - s.data()), kind == 0);
    }
  });
}

inline void apply(white_space_split, pieces& p, match_workspace&) {
  cut_at_characters(p, split_behavior::removed, is_space);
}

inline void apply(bert_words, pieces& p, match_workspace& w) {
  apply(white_space_split{}, p, w);
  apply(punctuation{}, p, w);
}

inline void apply(const metaspace& t, pieces& p, match_workspace& w) {
  rewrite(p, [&](std::size_t i, std::string& out) {
    const bool may_prepend =
        t.scheme == prepend_scheme::always || (t.scheme == prepend_scheme::first && i == 0 && p.first_opens_input);
    if (may_prepend && !p[i].starts_with(' ') && !p[i].starts_with(t.replacement)) out += t.replacement;
    for (char c : p[i]) {
      if (c == ' ') out += t.replacement;
      else out += c;
    }
  });
  if (t.cut) cut_at_matches(p, pattern::literal(t.replacement), split_behavior::merged_with_next, false, w);
}

}  // namespace detail

/// Runs the pre-tokenizers over the pieces, one after another.
inline void pre_tokenize(const std::vector<pre_tokenizer>& steps, pieces& p, match_workspace& w) {
  for (const pre_tokenizer& step : steps) std::visit([&](const auto& t) { detail::apply(t, p, w); }, step);
}

}  // namespace graft::text
