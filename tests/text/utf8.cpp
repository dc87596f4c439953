// SPDX-License-Identifier: Apache-2.0
#include "graft/text/utf8.hpp"

#include "support/catch.hpp"

using namespace graft::text;

static std::string lossy(std::string_view s) {
  std::string storage;
  return std::string(to_utf8(s, storage));
}

TEST_CASE("every code point is written and read back, and is valid UTF-8 unless it is a surrogate") {
  std::size_t wrong = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    std::string s;
    append_code_point(s, c);
    const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    if (is_utf8(s) == surrogate) ++wrong;
    const char* p = s.data();
    if (take_code_point(p) != c || p != s.data() + s.size()) ++wrong;
    if (code_point_before(s.data() + s.size()) != c) ++wrong;
    if (count_characters(s) != 1) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("bytes that are not UTF-8 are found wherever they stand") {
  for (std::string_view bad :
       {"\x80", "\xC1\x81", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xF5", "\xFF", "\xE2\x82"}) {
    for (std::size_t before = 0; before < 20; ++before) {
      const std::string s = std::string(before, 'a') + std::string(bad);
      CHECK_FALSE(is_utf8(s));
      CHECK(ascii_prefix(s) == before);
    }
  }
  CHECK(is_utf8(""));
  CHECK(is_utf8("abcdefgh\xF0\x9F\x98\x80ijklmnop"));
}

TEST_CASE("each longest run that is not UTF-8 becomes one replacement character") {
  CHECK(lossy("abc") == "abc");
  CHECK(lossy("a\x80z") == "a\uFFFDz");
  CHECK(lossy("a\xE2\x82z") == "a\uFFFDz");              // the start of a character of three bytes
  CHECK(lossy("a\xF0\x9F\x98") == "a\uFFFD");            // cut short by the end
  CHECK(lossy("\xED\xA0\x80") == "\uFFFD\uFFFD\uFFFD");  // a surrogate: no byte of it starts a character
  CHECK(lossy("\xC3\xC3\xA9") == "\uFFFD\u00E9");
}

TEST_CASE("a character that the end cuts short waits for its other bytes") {
  std::string out;
  CHECK(append_valid("a\xF0\x9F", out) == 1);
  CHECK(out == "a");
  CHECK(append_valid("\xF0\x9F\x98\x80", out) == 4);
  CHECK(out == "a\U0001F600");
}
