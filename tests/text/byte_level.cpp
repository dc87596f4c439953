// SPDX-License-Identifier: Apache-2.0
#include "graft/text/byte_level.hpp"

#include "support/catch.hpp"

using namespace graft::text;

TEST_CASE("every byte has one character, and back") {
  std::size_t wrong = 0;
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string as_character, as_byte;
    append_as_characters(as_character, std::string(1, static_cast<char>(byte)));
    wrong += !is_utf8(as_character) || count_characters(as_character) != 1 || !append_as_bytes(as_byte, as_character) ||
             as_byte != std::string(1, static_cast<char>(byte));
  }
  CHECK(wrong == 0);
}

TEST_CASE("printable Latin-1 stays and the rest moves up in order") {
  std::string s = ">";
  append_as_characters(s, std::string_view("a \n\0\xAD\xFF", 6));
  CHECK(s == ">a\u0120\u010A\u0100\u0143\u00FF");
}

TEST_CASE("a character outside of the alphabet stands for no byte") {
  std::string s = ">";
  CHECK_FALSE(append_as_bytes(s, "a\u0144"));
  CHECK_FALSE(append_as_bytes(s, "a "));
  CHECK(s == ">");
}
