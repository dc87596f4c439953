// SPDX-License-Identifier: Apache-2.0
#include "graft/text/pieces.hpp"

#include "graft/text/pattern.hpp"
#include "support/catch.hpp"

using namespace graft::text;

/// The pieces of a text cut at hyphens.
static std::vector<std::string> cut(std::string_view s, split_behavior behavior, bool invert = false) {
  std::vector<piece> items;
  piece_splitter splitter(items, behavior);
  match_workspace w;
  pattern::literal("-").for_each_segment(
      s, w, [&](auto begin, auto end, bool match) { splitter.add(begin, end, match != invert); });
  splitter.finish();
  std::vector<std::string> out;
  for (piece p : items) out.emplace_back(s.substr(p.begin, p.end - p.begin));
  return out;
}
using strings = std::vector<std::string>;

TEST_CASE("a separator is removed, isolated, merged to a side, or joined with its neighbours") {
  const std::string_view s = "-the-final--countdown-";
  CHECK(cut(s, split_behavior::removed) == strings{"the", "final", "countdown"});
  CHECK(cut(s, split_behavior::isolated) == strings{"-", "the", "-", "final", "-", "-", "countdown", "-"});
  CHECK(cut(s, split_behavior::merged_with_previous) == strings{"-", "the-", "final-", "-", "countdown-"});
  CHECK(cut(s, split_behavior::merged_with_next) == strings{"-the", "-final", "-", "-countdown", "-"});
  CHECK(cut(s, split_behavior::contiguous) == strings{"-", "the", "-", "final", "--", "countdown", "-"});
}

TEST_CASE("inverted, the gaps are the separators") {
  const std::string_view s = "-the-final--countdown-";
  CHECK(cut(s, split_behavior::removed, true) == strings{"-", "-", "-", "-", "-"});
  CHECK(cut(s, split_behavior::merged_with_previous, true) == strings{"-the", "-final", "-", "-countdown", "-"});
  CHECK(cut(s, split_behavior::merged_with_next, true) == strings{"-", "the-", "final-", "-", "countdown-"});
  CHECK(cut(s, split_behavior::contiguous, true) == strings{"-", "the", "-", "final", "--", "countdown", "-"});
}

TEST_CASE("an empty match cuts and leaves no piece of its own") {
  std::vector<piece> items{{0, 0}};  // of an earlier text: not ours to drop
  piece_splitter splitter(items, split_behavior::isolated);
  splitter.add(0, 0, true);
  splitter.add(0, 2, false);
  splitter.add(2, 2, true);
  splitter.add(2, 3, false);
  splitter.finish();
  REQUIRE(items.size() == 3);
  CHECK(items[1].end == 2);
  CHECK(items[2].begin == 2);
}
