// SPDX-License-Identifier: Apache-2.0
// Text cut into pieces, and the five ways to treat what separates them. Read next: text/pre_tokenizer.hpp.
#pragma once
#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace graft::text {

/// Which side a separator ends up on.
enum class split_behavior {
  removed,               ///< the-end -> the | end
  isolated,              ///< the-end -> the | - | end
  merged_with_previous,  ///< the-end -> the- | end
  merged_with_next,      ///< the-end -> the | -end
  contiguous             ///< like isolated, with neighbouring separators as one piece
};

struct piece {
  std::size_t begin, end;
};

/// A text and the pieces of it that go to the model; none is empty.
struct pieces {
  std::string text;
  std::vector<piece> items;
  bool first_opens_input = false;  ///< whether the first piece starts where the caller's text starts

  std::string_view operator[](std::size_t i) const {
    return std::string_view(text).substr(items[i].begin, items[i].end - items[i].begin);
  }
};

/// Takes the matches of one piece, and the gaps between them, in order; appends the pieces they make to a list.
class piece_splitter {
 public:
  piece_splitter(std::vector<piece>& out, split_behavior behavior)
      : out_(out), first_(out.size()), behavior_(behavior) {}

  void add(std::size_t begin, std::size_t end, bool match) {
    const bool alone = out_.size() == first_;
    bool joins = false;
    switch (behavior_) {
      case split_behavior::removed:
        if (match) return;
        break;
      case split_behavior::isolated: break;
      case split_behavior::merged_with_previous: joins = match && !after_match_; break;
      case split_behavior::merged_with_next: joins = !match && after_match_; break;
      case split_behavior::contiguous: joins = match == after_match_; break;
    }
    if (joins && !alone) out_.back().end = end;
    else out_.push_back({begin, end});
    after_match_ = match;
    any_empty_ = any_empty_ || begin == end;
  }

  /// Drops the pieces that an empty match has left.
  void finish() {
    if (!any_empty_) return;
    const auto empty = [](piece p) { return p.begin == p.end; };
    out_.erase(std::remove_if(out_.begin() + static_cast<std::ptrdiff_t>(first_), out_.end(), empty), out_.end());
  }

 private:
  std::vector<piece>& out_;
  std::size_t first_;
  split_behavior behavior_;
  bool after_match_ = false, any_empty_ = false;
};

}  // namespace graft::text
