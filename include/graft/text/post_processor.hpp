// SPDX-License-Identifier: Apache-2.0
// Cuts encoded text to a length and puts special tokens around it. Read next: text/tokenizer.hpp.
#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "graft/text/vocabulary.hpp"

namespace graft {

/// Encoded text.
struct encoding {
  std::vector<token_id> ids;
  std::vector<token_id> type_ids;  ///< one for each id: which of two texts it belongs to, for models that ask
};

/// An end of a text.
enum class side { left, right };

namespace text {

/// One part of an encoded text: the first text, the second, or special tokens.
struct template_part {
  enum source_type { first, second, special } source = first;
  token_id type_id = 0;
  std::vector<token_id> ids{};  ///< of special tokens; otherwise empty
};

/// What is written around one text and around two. The default adds nothing.
struct post_processor {
  std::vector<template_part> single{{template_part::first, 0}};
  std::vector<template_part> pair{{template_part::first, 0}, {template_part::second, 1}};
};

inline std::size_t special_tokens_in(std::span<const template_part> parts) {
  std::size_t n = 0;
  for (const template_part& p : parts) n += p.ids.size();
  return n;
}

/// Writes the parts one after another; `special` false leaves the special tokens out.
inline encoding compose(std::span<const template_part> parts, std::span<const token_id> first,
                        std::span<const token_id> second, bool special) {
  encoding e;
  e.ids.reserve(first.size() + second.size() + special_tokens_in(parts));
  e.type_ids.reserve(e.ids.capacity());
  for (const template_part& p : parts) {
    std::span<const token_id> ids = p.ids;
    if (p.source == template_part::special && !special) continue;
    if (p.source == template_part::first) ids = first;
    if (p.source == template_part::second) ids = second;
    e.ids.insert(e.ids.end(), ids.begin(), ids.end());
    e.type_ids.insert(e.type_ids.end(), ids.size(), p.type_id);
  }
  return e;
}

/// Keeps n ids; cuts off the others at one end.
inline void keep(std::vector<token_id>& ids, std::size_t n, side cut) {
  if (n >= ids.size()) return;
  const auto excess = static_cast<std::ptrdiff_t>(ids.size() - n);
  if (cut == side::left) ids.erase(ids.begin(), ids.begin() + excess);
  else ids.erase(ids.end() - excess, ids.end());
}

/// Shortens two texts to `room` ids together. The longer one gives way until both are as long; then each keeps half,
/// and an odd id goes to the one that was longer (the second, when they were equal).
inline void keep_longest_first(std::vector<token_id>& first, std::vector<token_id>& second, std::size_t room,
                               side cut) {
  if (first.size() + second.size() <= room) return;
  const bool first_is_longer = first.size() > second.size();
  std::size_t shorter = std::min(first.size(), second.size());
  std::size_t longer = shorter > room ? shorter : std::max(shorter, room - shorter);
  if (shorter + longer > room) {
    shorter = room / 2;
    longer = room - shorter;
  }
  keep(first, first_is_longer ? longer : shorter, cut);
  keep(second, first_is_longer ? shorter : longer, cut);
}

}  // namespace text
}  // namespace graft
