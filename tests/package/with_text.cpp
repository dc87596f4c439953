// SPDX-License-Identifier: Apache-2.0
// graft::text alone: a pattern of PCRE2 and the tables of utf8proc.
#include <cstdio>
#include <string>
#include <string_view>

#include "graft/text/pattern.hpp"
#include "graft/text/unicode.hpp"

int main() {
  std::string word;
  graft::text::append_lower_case(word, U'\u00c4');
  graft::text::match_workspace workspace;
  int matches = 0;
  graft::text::pattern::regex(R"(\p{L}+)").for_each_segment("one two", workspace, [&](std::size_t, std::size_t, bool match) { matches += match; });
  std::printf("text: %d words, %zu bytes\n", matches, word.size());
}
