// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding: a piece becomes characters, and neighbours merge in the order the merges were learnt.
// Read next: text/word_piece.hpp.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/text/byte_level.hpp"
#include "graft/text/vocabulary.hpp"

namespace graft::text {

/// Two neighbours and what they become; its place in the list is its rank, and the lowest rank merges first.
struct merge {
  token_id left, right, result;
};

struct bpe_options {
  std::string unknown;         ///< token for a character outside the vocabulary; empty: the character is dropped
  std::string prefix, suffix;  ///< written around a character that is not the first, and around the last, of a piece
  bool fuse_unknown = false;   ///< neighbouring unknown characters become one token
  bool byte_fallback = false;  ///< an unknown character becomes tokens <0x00> to <0xFF> when the vocabulary has them
  bool ignore_merges = false;  ///< a piece that is a token stays one
};

namespace detail {

/// Rank and result of a merge by its two sides; open addressing, at most half full.
class merge_table {
 public:
  struct entry {
    std::uint64_t sides = ~std::uint64_t{0};
    std::uint32_t rank = std::numeric_limits<std::uint32_t>::max();  ///< the largest: these two do not merge
    token_id result = no_token;
  };

  explicit merge_table(const std::vector<merge>& merges) : slots_(std::bit_ceil(2 * merges.size() + 1)) {
    shift_ = 64 - std::countr_zero(slots_.size());
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      entry& e = slots_[slot_of(sides_of(merges[rank].left, merges[rank].right))];
      e = {sides_of(merges[rank].left, merges[rank].right), static_cast<std::uint32_t>(rank), merges[rank].result};
    }
  }

  const entry& find(token_id left, token_id right) const noexcept { return slots_[slot_of(sides_of(left, right))]; }

 private:
  static std::uint64_t sides_of(token_id left, token_id right) noexcept {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  }
  /// Where the sides are, or the free slot where they would be.
  std::size_t slot_of(std::uint64_t sides) const noexcept {
    std::size_t s = shift_ == 64 ? 0 : (sides * 0x9E3779B97F4A7C15u) >> shift_;
    while (slots_[s].sides != sides && slots_[s].result != no_token) s = (s + 1) & (slots_.size() - 1);
    return s;
  }

  std::vector<entry> slots_;
  int shift_;
};

}  // namespace detail

/// Memory of one thread's encoding, reused from piece to piece.
struct bpe_workspace {
  struct symbol {
    token_id id;
    std::int32_t previous, next;  // -1: none
  };
  struct candidate {
    std::uint32_t rank;
    std::int32_t at;
    token_id left, right, result;  // the sides it was made for: it lapses when either has merged otherwise
  };
  std::vector<token_id> characters, ids;
  std::vector<detail::merge_table::entry> pairs;
  std::vector<symbol> symbols;
  std::vector<candidate> queue;

  symbol& at(std::int32_t i) { return symbols[static_cast<std::size_t>(i)]; }
};

/// Immutable. Encoding takes O(n log n) for a piece of n characters, and one look-up for a piece that is a token.
class bpe {
 public:
  /// `words` holds every token the merges and options name; the text of a merge's result is that of its left side and,
  /// without options.prefix, of its right side. Cost: the vocabulary is encoded once, some 0.3 us a token.
  bpe(const vocabulary& words, const std::vector<merge>& merges, bpe_options o)
      : merges_(merges),
        seams_(seams(words, merges)),
        options_(std::move(o)),
        whole_(static_cast<std::size_t>(words.limit()), false) {
    unknown_ = options_.unknown.empty() ? no_token : words.find(options_.unknown);
    for (char32_t c = 0; c < direct_.size(); ++c) {
      std::string character;
      append_code_point(character, c);
      direct_[c] = words.find(character);
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
      constexpr const char* hex = "0123456789ABCDEF";
      bytes_[byte] = words.find(concat("<0x", hex[byte >> 4], hex[byte & 15], ">"));
    }
    find_whole_tokens(words);
  }

  const std::string& unknown() const noexcept { return options_.unknown; }

  /// Appends the tokens of a piece of valid UTF-8. Throws format_error when it needs the unknown token and the
  /// vocabulary lacks it.
  void encode(const vocabulary& words, std::string_view piece, std::vector<token_id>& out, bpe_workspace& w) const {
    if (const token_id id = words.find(piece); id != no_token && whole_[static_cast<std::size_t>(id)]) {
      out.push_back(id);
      return;
    }
    to_characters(words, piece, w.characters);
    for (auto begin = w.characters.cbegin(); begin != w.characters.cend();) {
      const auto end = end_of_part(words, begin, w.characters.cend());
      w.ids.assign(begin, end);
      if (w.ids.size() <= few) merge_few(w);
      else merge_many(w);
      out.insert(out.end(), w.ids.begin(), w.ids.end());
      begin = end;
    }
  }

 private:
  static constexpr std::size_t few = 48;  // characters that merge_few merges sooner than merge_many
  using ids_iterator = std::vector<token_id>::const_iterator;

  // The last character of a left side and the first of its right side, for all merges, as a list of merges.
  static std::vector<merge> seams(const vocabulary& words, const std::vector<merge>& merges) {
    std::vector<merge> all;
    all.reserve(merges.size());
    for (const merge& m : merges) all.push_back({last_of(words, m.left), first_of(words, m.right), 0});
    std::sort(all.begin(), all.end(),
              [](const merge& a, const merge& b) { return a.left != b.left ? a.left < b.left : a.right < b.right; });
    const auto same = [](const merge& a, const merge& b) { return a.left == b.left && a.right == b.right; };
    all.erase(std::unique(all.begin(), all.end(), same), all.end());
    return all;
  }
  static token_id first_of(const vocabulary& words, token_id id) {
    const char* p = words.text_of(id).data();
    return words.text_of(id).empty() ? no_token : static_cast<token_id>(take_code_point(p));
  }
  static token_id last_of(const vocabulary& words, token_id id) {
    const std::string_view s = words.text_of(id);
    return s.empty() ? no_token : static_cast<token_id>(code_point_before(s.data() + s.size()));
  }

  // Nothing ever merges across two characters that face each other in no merge: there a long piece, of a model that
  // sees whole texts, falls apart into parts, most often words.
  ids_iterator end_of_part(const vocabulary& words, ids_iterator begin, ids_iterator end) const {
    if (static_cast<std::size_t>(end - begin) <= few || !options_.prefix.empty()) return end;
    auto at = begin + 1;
    const auto may_merge = [&] {
      return seams_.find(last_of(words, *(at - 1)), first_of(words, *at)).result != no_token;
    };
    while (at != end && may_merge()) ++at;
    return at;
  }

  // A token that its own text merges to needs no merging when it comes as a piece.
  void find_whole_tokens(const vocabulary& words) {
    bpe_workspace w;
    std::vector<bool> whole(whole_.size());
    for (token_id id = 0; id < words.limit(); ++id) {
      if (!words.contains(id) || words.text_of(id).empty()) continue;
      whole[static_cast<std::size_t>(id)] = options_.ignore_merges || merges_to_itself(words, id, w);
    }
    whole_ = std::move(whole);
  }
  bool merges_to_itself(const vocabulary& words, token_id id, bpe_workspace& w) const {
    const std::string_view piece = words.text_of(id);
    if (piece.size() > 256 || !is_known(words, piece)) return false;  // long tokens are rare: merge them when they come
    std::vector<token_id> ids;
    encode(words, piece, ids, w);
    return ids.size() == 1 && ids[0] == id;
  }
  // Whether encoding it cannot throw for want of the unknown token.
  bool is_known(const vocabulary& words, std::string_view piece) const {
    if (options_.unknown.empty() || unknown_ != no_token) return true;
    for (const char *p = piece.data(), *end = p + piece.size(); p != end;) {
      const char* const begin = p;
      take_code_point(p);
      if (find_character(words, {begin, static_cast<std::size_t>(p - begin)}, begin == piece.data(), p == end) ==
          no_token) {
        return false;
      }
    }
    return true;
  }

  token_id find_character(const vocabulary& words, std::string_view c, bool first, bool last) const {
    const bool plain = (first || options_.prefix.empty()) && (!last || options_.suffix.empty());
    if (!plain) return words.find(decorated(c, first, last));
    const char* p = c.data();
    const char32_t code = take_code_point(p);
    return code < direct_.size() ? direct_[code] : words.find(c);
  }
  std::string decorated(std::string_view c, bool first, bool last) const {
    return concat(first ? std::string_view() : options_.prefix, c, last ? options_.suffix : std::string_view());
  }

  void to_characters(const vocabulary& words, std::string_view piece, std::vector<token_id>& ids) const {
    ids.clear();
    bool unknown_waits = false;  // held back, so that a fused run ends where a known character begins
    const auto flush = [&] {
      if (unknown_waits) ids.push_back(unknown_);
      unknown_waits = false;
    };
    for (const char *p = piece.data(), *end = p + piece.size(); p != end;) {
      const char* const begin = p;
      take_code_point(p);
      const std::string_view c(begin, static_cast<std::size_t>(p - begin));
      const bool first = begin == piece.data(), last = p == end;
      if (const token_id id = find_character(words, c, first, last); id != no_token) {
        flush();
        ids.push_back(id);
      } else if (!options_.byte_fallback || !append_bytes(decorated(c, first, last), ids)) {
        if (options_.unknown.empty()) continue;
        if (unknown_ == no_token) {
          throw_error<format_error>("encoding the character \"", c,
                                    "\": the vocabulary lacks it, and the unknown token \"", options_.unknown, "\"");
        }
        if (!options_.fuse_unknown) flush();
        unknown_waits = true;
      }
    }
    flush();
  }

  bool append_bytes(std::string_view c, std::vector<token_id>& ids) const {
    const auto token_of = [&](char byte) { return bytes_[static_cast<unsigned char>(byte)]; };
    if (std::any_of(c.begin(), c.end(), [&](char byte) { return token_of(byte) == no_token; })) return false;
    for (char byte : c) ids.push_back(token_of(byte));
    return true;
  }

  // Looks through all neighbours for each merge: quickest for the length of a word.
  void merge_few(bpe_workspace& w) const {
    if (w.ids.size() < 2) return;
    w.pairs.clear();
    for (std::size_t i = 0; i + 1 < w.ids.size(); ++i) w.pairs.push_back(merges_.find(w.ids[i], w.ids[i + 1]));
    while (!w.pairs.empty()) {
      const auto best = std::min_element(w.pairs.begin(), w.pairs.end(),
                                         [](const auto& a, const auto& b) { return a.rank < b.rank; });
      if (best->result == no_token) return;
      const auto i = best - w.pairs.begin();
      w.ids[static_cast<std::size_t>(i)] = best->result;
      w.ids.erase(w.ids.begin() + i + 1);
      w.pairs.erase(best);
      const auto at = static_cast<std::size_t>(i);
      if (at > 0) w.pairs[at - 1] = merges_.find(w.ids[at - 1], w.ids[at]);
      if (at < w.pairs.size()) w.pairs[at] = merges_.find(w.ids[at], w.ids[at + 1]);
    }
  }

  // A linked list of symbols and a queue of merges, for pieces as long as a book.
  void merge_many(bpe_workspace& w) const {
    link_symbols(w);
    std::make_heap(w.queue.begin(), w.queue.end(), later);
    while (!w.queue.empty()) {
      std::pop_heap(w.queue.begin(), w.queue.end(), later);
      const bpe_workspace::candidate m = w.queue.back();
      w.queue.pop_back();
      auto& left = w.at(m.at);
      if (left.id != m.left || left.next < 0 || w.at(left.next).id != m.right) continue;
      auto& right = w.at(left.next);
      left.id = m.result;
      left.next = right.next;
      right.id = no_token;
      if (left.next >= 0) w.at(left.next).previous = m.at;
      if (left.previous >= 0 && queue(w, left.previous, m.at)) std::push_heap(w.queue.begin(), w.queue.end(), later);
      if (left.next >= 0 && queue(w, m.at, left.next)) std::push_heap(w.queue.begin(), w.queue.end(), later);
    }
    w.ids.clear();
    for (const auto& s : w.symbols) {
      if (s.id != no_token) w.ids.push_back(s.id);
    }
  }
  void link_symbols(bpe_workspace& w) const {
    if (w.ids.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
      throw_error<option_error>("encoding a piece of ", w.ids.size(), " characters: expected fewer than 2^31");
    }
    const auto n = static_cast<std::int32_t>(w.ids.size());
    w.symbols.clear();
    w.queue.clear();
    for (std::int32_t i = 0; i < n; ++i) {
      w.symbols.push_back({w.ids[static_cast<std::size_t>(i)], i - 1, i + 1 == n ? -1 : i + 1});
      if (i > 0) queue(w, i - 1, i);
    }
  }
  // Puts the merge of two neighbours at the end of the queue, if there is one.
  bool queue(bpe_workspace& w, std::int32_t left, std::int32_t right) const {
    const auto& m = merges_.find(w.at(left).id, w.at(right).id);
    if (m.result == no_token) return false;
    w.queue.push_back({m.rank, left, w.at(left).id, w.at(right).id, m.result});
    return true;
  }
  static bool later(const bpe_workspace::candidate& a, const bpe_workspace::candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  }

  detail::merge_table merges_, seams_;
  bpe_options options_;
  token_id unknown_ = no_token;
  std::array<token_id, 0x400> direct_{};  // characters found without hashing: the byte alphabet, Latin, Greek
  std::array<token_id, 256> bytes_{};
  std::vector<bool> whole_;
};

}  // namespace graft::text
