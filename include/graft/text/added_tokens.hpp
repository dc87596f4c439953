// SPDX-License-Identifier: Apache-2.0
// Tokens that are found in the text itself, before anything is cut: [CLS], <|endoftext|>, words added by hand.
// Read next: text/tokenizer.hpp.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "graft/text/unicode.hpp"
#include "graft/text/vocabulary.hpp"

namespace graft::text {

struct added_token {
  token_id id = 0;
  std::string content;
  bool single_word = false;  ///< matches only where neither neighbour is a word character
  bool strip_left = false;   ///< takes the white space before it
  bool strip_right = false;  ///< takes the white space behind it
  bool normalized = false;   ///< is looked for in the normalized text, as normalized content
  bool special = false;      ///< decoding may skip it
};

/// Finds tokens in a text, leftmost first and the longest of those. Time is linear in the text unless tokens overlap.
class added_token_finder {
 public:
  /// Looks for `content`, which may differ from token.content. Of two equal contents the first counts.
  void add(const added_token& token, std::string_view content) {
    if (content.empty()) return;
    if (nodes_.empty()) nodes_.emplace_back();
    starts_[static_cast<unsigned char>(content[0])] = true;
    std::size_t at = 0;
    for (char c : content) {
      std::size_t next = child(at, c);
      if (next == 0) {
        next = nodes_.size();
        nodes_.push_back({c, 0, nodes_[at].first_child, none});
        nodes_[at].first_child = static_cast<std::uint32_t>(next);
      }
      at = next;
    }
    if (nodes_[at].token != none) return;
    nodes_[at].token = static_cast<std::uint32_t>(tokens_.size());
    tokens_.push_back(token);
  }

  /// Calls between(begin, end) for every stretch of text without tokens, none empty, and found(id) for every token.
  template <class Between, class Found>
  void scan(std::string_view s, Between between, Found found) const {
    std::size_t done = 0;
    for (std::size_t at = 0; at < s.size() && !tokens_.empty();) {
      const auto [token, length] = starts_[static_cast<unsigned char>(s[at])] ? longest(s.substr(at)) : match{};
      if (token == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at, end = at + length;
      at = end;
      if (token->single_word && touches_word(s, begin, end)) continue;
      if (token->strip_left) begin = begin_of_space(s, begin);
      if (token->strip_right) end = end_of_space(s, end);
      if (done < begin) between(done, begin);
      found(token->id);
      done = end;
    }
    if (done < s.size()) between(done, s.size());
  }

 private:
  static constexpr std::uint32_t none = ~std::uint32_t{0};
  struct node {  // of a tree of all contents, byte by byte
    char byte = 0;
    std::uint32_t first_child = 0, sibling = 0;
    std::uint32_t token = none;
  };
  struct match {
    const added_token* token = nullptr;
    std::size_t length = 0;
  };

  std::size_t child(std::size_t at, char byte) const {
    std::uint32_t next = nodes_[at].first_child;
    while (next != 0 && nodes_[next].byte != byte) next = nodes_[next].sibling;
    return next;
  }

  match longest(std::string_view s) const {
    match best;
    std::size_t at = 0;
    for (std::size_t i = 0; i < s.size() && (at = child(at, s[i])) != 0; ++i) {
      if (nodes_[at].token != none) best = {&tokens_[nodes_[at].token], i + 1};
    }
    return best;
  }

  static bool touches_word(std::string_view s, std::size_t begin, std::size_t end) {
    if (begin != 0 && is_word_character(code_point_before(s.data() + begin))) return true;
    const char* p = s.data() + end;
    return end != s.size() && is_word_character(take_code_point(p));
  }
  static std::size_t begin_of_space(std::string_view s, std::size_t at) {
    while (at != 0 && is_space(code_point_before(s.data() + at))) {
      do --at;
      while ((static_cast<unsigned char>(s[at]) & 0xC0) == 0x80);
    }
    return at;
  }
  static std::size_t end_of_space(std::string_view s, std::size_t at) {
    for (const char* p = s.data() + at; at != s.size() && is_space(take_code_point(p));) {
      at = static_cast<std::size_t>(p - s.data());
    }
    return at;
  }

  std::vector<added_token> tokens_;
  std::vector<node> nodes_;
  std::array<bool, 256> starts_{};
};

}  // namespace graft::text
