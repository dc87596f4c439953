// SPDX-License-Identifier: Apache-2.0
// WordPiece, the longest known start of a word again and again, and whole words by a table.
// Read next: text/added_tokens.hpp.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/text/utf8.hpp"
#include "graft/text/vocabulary.hpp"

namespace graft::text {

namespace detail {

inline token_id unknown_word(const vocabulary& words, std::string_view unknown, std::string_view piece) {
  const token_id id = words.find(unknown);
  if (id == no_token) {
    throw_error<format_error>("encoding \"", piece.substr(0, 64), "\": the vocabulary lacks the unknown token \"",
                              unknown, "\"");
  }
  return id;
}

}  // namespace detail

struct word_piece_options {
  std::string unknown = "[UNK]";
  std::string prefix = "##";         ///< in front of every token that does not begin a word
  std::size_t max_characters = 100;  ///< a longer word is unknown as a whole
};

class word_piece {
 public:
  word_piece(const vocabulary& words, word_piece_options o) : options_(std::move(o)) {
    for (token_id id = 0; id < words.limit(); ++id) {
      if (words.contains(id)) longest_ = std::max(longest_, words.text_of(id).size());
    }
  }

  const std::string& unknown() const noexcept { return options_.unknown; }

  /// Appends the tokens of a word of valid UTF-8, or the unknown token when some part of it is in no token.
  /// Throws format_error when the vocabulary lacks the unknown token then.
  void encode(const vocabulary& words, std::string_view word, std::vector<token_id>& out) const {
    const std::size_t before = out.size();
    bool known = word.size() <= options_.max_characters || count_characters(word) <= options_.max_characters;
    std::string rest;
    for (std::size_t begin = 0; known && begin < word.size();) {
      const std::size_t prefix = begin == 0 ? 0 : options_.prefix.size();
      if (begin != 0) rest.assign(options_.prefix).append(word.substr(begin, longest_));
      const std::string_view candidate = begin == 0 ? word : std::string_view(rest);
      std::size_t end = std::min(candidate.size(), longest_);
      token_id id = no_token;  // tokens are UTF-8: none ends within a character
      while (end > prefix && (id = words.find(candidate.substr(0, end))) == no_token) --end;
      known = id != no_token;
      if (known) out.push_back(id);
      begin += end - prefix;
    }
    if (known) return;
    out.resize(before);
    out.push_back(detail::unknown_word(words, options_.unknown, word));
  }

 private:
  word_piece_options options_;
  std::size_t longest_ = 0;  // bytes of the longest token
};

/// A piece is a token, or unknown.
class word_level {
 public:
  explicit word_level(std::string unknown) : unknown_(std::move(unknown)) {}

  const std::string& unknown() const noexcept { return unknown_; }

  void encode(const vocabulary& words, std::string_view word, std::vector<token_id>& out) const {
    const token_id id = words.find(word);
    out.push_back(id != no_token ? id : detail::unknown_word(words, unknown_, word));
  }

 private:
  std::string unknown_;
};

}  // namespace graft::text
