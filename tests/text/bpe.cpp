// SPDX-License-Identifier: Apache-2.0
#include "graft/text/bpe.hpp"

#include "support/catch.hpp"

using namespace graft;
using namespace graft::text;
using strings = std::vector<std::string>;

namespace {

/// A vocabulary of tokens, in order, and merges by text.
struct small_bpe {
  vocabulary words;
  bpe model;

  static vocabulary numbered(const strings& tokens) {
    vocabulary v;
    for (const std::string& t : tokens) v.add(t, static_cast<token_id>(v.size()));
    return v;
  }
  static std::vector<merge> found(const vocabulary& v, const std::vector<std::pair<std::string, std::string>>& merges,
                                  std::size_t prefix) {
    std::vector<merge> all;
    for (const auto& [left, right] : merges)
      all.push_back({v.find(left), v.find(right), v.find(left + right.substr(prefix))});
    return all;
  }
  small_bpe(const strings& tokens, const std::vector<std::pair<std::string, std::string>>& merges, bpe_options o = {})
      : words(numbered(tokens)), model(words, found(words, merges, o.prefix.size()), o) {}

  std::string operator()(std::string_view piece) const {
    std::vector<token_id> ids;
    bpe_workspace w;
    model.encode(words, piece, ids, w);
    std::string s;
    for (token_id id : ids) s += concat(s.empty() ? "" : " ", words.text_of(id));
    return s;
  }
};

/// Merging by the definition: again and again the lowest rank, and of those the leftmost.
std::vector<token_id> merged_slowly(std::vector<token_id> ids, const std::vector<merge>& merges) {
  for (;;) {
    std::size_t best = merges.size(), where = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      for (std::size_t rank = 0; rank < best; ++rank) {
        if (merges[rank].left == ids[i] && merges[rank].right == ids[i + 1]) {
          best = rank;
          where = i;
        }
      }
    }
    if (best == merges.size()) return ids;
    ids[where] = merges[best].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
}

}  // namespace

TEST_CASE("the lowest rank merges first, the leftmost of equals") {
  const small_bpe b({"a", "b", "c", "ab", "bc", "aa"}, {{"b", "c"}, {"a", "b"}, {"a", "a"}});
  CHECK(b("abc") == "a bc");
  CHECK(b("ab") == "ab");
  CHECK(b("aaa") == "aa a");
  CHECK(b("aaaa") == "aa aa");
  CHECK(b("") == "");
}

TEST_CASE("a token that no merges lead to is not made, unless merges are ignored") {
  const strings tokens{"a", "b", "c", "ab", "abc"};
  CHECK(small_bpe(tokens, {{"a", "b"}})("abc") == "ab c");
  CHECK(small_bpe(tokens, {{"a", "b"}}, {.ignore_merges = true})("abc") == "abc");
  CHECK(small_bpe(tokens, {{"a", "b"}}, {.ignore_merges = true})("abca") == "ab c a");
}

TEST_CASE("an unknown character is dropped, becomes the unknown token, or bytes") {
  strings tokens{"<unk>", "a", "b"};
  CHECK(small_bpe(tokens, {})("axyb") == "a b");
  CHECK(small_bpe(tokens, {}, {.unknown = "<unk>"})("axyb") == "a <unk> <unk> b");
  CHECK(small_bpe(tokens, {}, {.unknown = "<unk>", .fuse_unknown = true})("axybx") == "a <unk> b <unk>");
  const bpe_options bytes{.unknown = "<unk>", .fuse_unknown = true, .byte_fallback = true};
  tokens.insert(tokens.end(), {"<0xC3>", "<0xA9>", "<0x78>"});
  CHECK(small_bpe(tokens, {}, bytes)("a\u00E9xb") == "a <0xC3> <0xA9> <0x78> b");
  CHECK(small_bpe(tokens, {}, bytes)("a\u00EAb") == "a <unk> b");  // 0xAA has no token: no half of a character
}

TEST_CASE("an unknown token that is not there is an error when it is needed") {
  const small_bpe b({"a", "xa"}, {}, {.unknown = "<unk>"});
  CHECK(b("aa") == "a a");
  CHECK_THROWS_WITH(b("ax"), "encoding the character \"x\": the vocabulary lacks it, and the unknown token \"<unk>\"");
}

TEST_CASE("marks on what continues a word and on its end") {
  const small_bpe continued({"a", "##b", "##c", "ab", "##bc"}, {{"a", "##b"}, {"##b", "##c"}}, {.prefix = "##"});
  CHECK(continued("abc") == "ab ##c");
  CHECK(continued("ab") == "ab");
  const small_bpe ended({"a", "b", "b</w>", "a</w>", "ab</w>"}, {{"a", "b</w>"}}, {.suffix = "</w>"});
  CHECK(ended("aab") == "a ab</w>");
  CHECK(ended("a") == "a</w>");
}

TEST_CASE("every way of merging gives what the definition gives") {
  const strings letters{"a", "b", "c", "d"};
  std::uint64_t state = 1;
  const auto draw = [&](std::size_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(state >> 33) % n;
  };
  vocabulary words = small_bpe::numbered(letters);
  std::vector<merge> merges;
  while (merges.size() < 60) {  // random merges of what is there; d at the end of a token meets nothing
    const auto pick = [&] { return static_cast<token_id>(draw(static_cast<std::size_t>(words.size()))); };
    const token_id left = pick(), right = pick();
    const std::string joined = concat(words.text_of(left), words.text_of(right));
    if (joined.size() > 12 || words.text_of(left).ends_with('d') || words.find(joined) != no_token) continue;
    words.add(joined, static_cast<token_id>(words.size()));
    merges.push_back({left, right, words.find(joined)});
  }
  const bpe model(words, merges, {});
  bpe_workspace w;
  for (std::size_t length : {1, 2, 5, 12, 47, 48, 49, 50, 200, 1000}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::string piece;
      std::vector<token_id> characters, got;
      for (std::size_t i = 0; i < length; ++i) {
        characters.push_back(static_cast<token_id>(draw(repeat % 2 == 0 ? 4 : 3)));  // without d: one long part
        piece += letters[static_cast<std::size_t>(characters.back())];
      }
      model.encode(words, piece, got, w);
      REQUIRE(got == merged_slowly(characters, merges));
    }
  }
}

TEST_CASE("a piece as long as a book takes no time to speak of") {
  strings tokens{"a", "aa", "aaaa"};
  const small_bpe b(tokens, {{"a", "a"}, {"aa", "aa"}});
  const std::string piece(1'000'001, 'a');
  std::vector<token_id> ids;
  bpe_workspace w;
  b.model.encode(b.words, piece, ids, w);
  CHECK(ids.size() == 250'001);
  CHECK(ids.back() == 0);
}
