// SPDX-License-Identifier: Apache-2.0
// The tokens of a model by number and by text. Read next: text/bpe.hpp.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "graft/core/extents.hpp"
#include "graft/text/utf8.hpp"

namespace graft {

using token_id = std::int32_t;  ///< number of a token: a row of the embedding, a column of the logits

namespace text {

inline constexpr token_id no_token = -1;
inline constexpr token_id max_token_id = (1 << 22) - 1;  ///< the largest published vocabularies have about 2^18

/// Tokens and their ids, one to one; ids may have gaps. All text lies in one string.
class vocabulary {
 public:
  /// Adds a token. Throws format_error when its text or its id is taken, the text is not UTF-8, or the id is not in
  /// [0, max_token_id].
  void add(std::string_view text, token_id id) {
    if (id < 0 || id > max_token_id) {
      throw_error<format_error>("token \"", text, "\" has id ", id, ": expected 0 to ", max_token_id);
    }
    if (!is_utf8(text)) throw_error<format_error>("the token with id ", id, " is not UTF-8");
    if (const token_id other = find(text); other != no_token) {
      throw_error<format_error>("token \"", text, "\" has id ", id, " and id ", other);
    }
    if (contains(id))
      throw_error<format_error>("id ", id, " belongs to token \"", text, "\" and to \"", text_of(id), "\"");
    if (bytes_.size() + text.size() > std::numeric_limits<std::uint32_t>::max()) {
      throw_error<format_error>("a vocabulary of more than 4 GiB of text");
    }
    if (id >= limit()) entries_.resize(static_cast<std::size_t>(id) + 1);
    entries_[static_cast<std::size_t>(id)] = {static_cast<std::uint32_t>(bytes_.size()),
                                              static_cast<std::uint32_t>(text.size()), true};
    bytes_ += text;
    if (++count_ * 2 > slots_.size()) grow();
    else insert(id);
  }

  /// The token's id, or no_token.
  token_id find(std::string_view text) const noexcept {
    if (slots_.empty()) return no_token;
    for (std::size_t s = hash(text);; ++s) {
      const token_id id = slots_[s & (slots_.size() - 1)];
      if (id == no_token || text_of(id) == text) return id;
    }
  }

  bool contains(token_id id) const noexcept {
    return id >= 0 && id < limit() && entries_[static_cast<std::size_t>(id)].used;
  }

  /// The text of a token the vocabulary contains.
  std::string_view text_of(token_id id) const noexcept {
    const entry& e = entries_[static_cast<std::size_t>(id)];
    return {bytes_.data() + e.begin, e.size};
  }

  index_t size() const noexcept { return static_cast<index_t>(count_); }
  /// One more than the largest id.
  token_id limit() const noexcept { return static_cast<token_id>(entries_.size()); }

 private:
  struct entry {
    std::uint32_t begin = 0, size = 0;
    bool used = false;
  };

  static std::size_t hash(std::string_view text) noexcept { return std::hash<std::string_view>{}(text); }
  void insert(token_id id) {
    std::size_t s = hash(text_of(id));
    while (slots_[s & (slots_.size() - 1)] != no_token) ++s;
    slots_[s & (slots_.size() - 1)] = id;
  }
  void grow() {
    slots_.assign(std::bit_ceil(count_ * 4), no_token);
    for (token_id id = 0; id < limit(); ++id) {
      if (contains(id)) insert(id);
    }
  }

  std::string bytes_;
  std::vector<entry> entries_;   // by id
  std::vector<token_id> slots_;  // open addressing, at most half full; the size is a power of two
  std::size_t count_ = 0;
};

}  // namespace text
}  // namespace graft
