// SPDX-License-Identifier: Apache-2.0
#include "graft/text/tokenizer.hpp"

#include <thread>

#include "support/catch.hpp"

using namespace graft;
using ids_type = std::vector<token_id>;

namespace {

/// Whole words in lower case; <s> before a text, <s> between two; "Bob" in the normalized text; <pad> beyond the model.
text::tokenizer_parts small_parts() {
  text::tokenizer_parts p;
  p.added = {{.id = 1, .content = "<s>", .special = true},
             {.id = 7, .content = "<pad>", .special = true},
             {.id = 9, .content = "Bob", .single_word = true, .normalized = true}};
  p.normalizers = {text::lowercase{}};
  p.pre_tokenizers = {text::words_and_symbols{}};
  for (const char* word : {"<unk>", "<s>", "hello", "world", "!", "\uFFFD"}) {
    p.words.add(word, static_cast<token_id>(p.words.size()));
  }
  p.model = text::word_level("<unk>");
  const text::template_part begin{text::template_part::special, 0, {1}};
  p.around = {{begin, {text::template_part::first, 0}},
              {begin, {text::template_part::first, 0}, begin, {text::template_part::second, 1}}};
  p.decoders = {text::space_decoder{}};
  p.special.begin = 1;
  return p;
}
const tokenizer& words() {
  static const tokenizer t(small_parts());
  return t;
}

}  // namespace

TEST_CASE("text passes through every part") {
  CHECK(words().encode("Hello World!").ids == ids_type{1, 2, 3, 4});
  CHECK(words().encode("Hello World!", {.special_tokens = false}).ids == ids_type{2, 3, 4});
  const encoding pair = words().encode_pair("hello", "world !");
  CHECK(pair.ids == ids_type{1, 2, 1, 3, 4});
  CHECK(pair.type_ids == ids_type{0, 0, 0, 1, 1});
}

TEST_CASE("added tokens are found in the text, and normalized ones in the normalized text") {
  CHECK(words().encode("hello<s>world<pad>", {.special_tokens = false}).ids == ids_type{2, 1, 3, 7});
  CHECK(words().encode("<S>", {.special_tokens = false}).ids == ids_type{0, 0, 0});
  CHECK(words().encode("hello BOB bobby", {.special_tokens = false}).ids == ids_type{2, 9, 0});
}

TEST_CASE("empty text is the special tokens alone") {
  CHECK(words().encode("").ids == ids_type{1});
  CHECK(words().encode("", {.special_tokens = false}).ids.empty());
  CHECK(words().encode_pair("", "").ids == ids_type{1, 1});
  CHECK(words().decode(ids_type{}) == "");
}

TEST_CASE("bytes that are not UTF-8 count as replacement characters") {
  CHECK(words().encode("hello \xFF world \xE2\x82", {.special_tokens = false}).ids == ids_type{2, 5, 3, 5});
  CHECK(words().encode(std::string("hello\0world", 11), {.special_tokens = false}).ids == ids_type{2, 0, 3});
}

TEST_CASE("a text is shortened so that the special tokens still fit") {
  CHECK(words().encode("hello world !", {.max_length = 3}).ids == ids_type{1, 2, 3});
  CHECK(words().encode("hello world !", {.max_length = 3, .cut = side::left}).ids == ids_type{1, 3, 4});
  CHECK(words().encode("hello world !", {.special_tokens = false, .max_length = 2}).ids == ids_type{2, 3});
  CHECK(words().encode("hello world !", {.max_length = 1}).ids == ids_type{1});
  CHECK(words().encode("hello", {.max_length = 100}).ids == ids_type{1, 2});
  CHECK(words().encode_pair("hello world", "! ! ! !", {.max_length = 6}).ids == ids_type{1, 2, 3, 1, 4, 4});
  CHECK_THROWS_WITH(words().encode_pair("a", "b", {.max_length = 1}),
                    "encode: max_length is 1, and the special tokens alone are 2");
  CHECK_THROWS_AS(words().encode("a", {.max_length = -1}), option_error);
}

TEST_CASE("decoding leaves special tokens out, or not, and skips ids that do not exist") {
  CHECK(words().decode(ids_type{1, 2, 3, 7}) == "hello world");
  CHECK(words().decode(ids_type{1, 2, 3, 7}, {.skip_special_tokens = false}) == "<s> hello world <pad>");
  CHECK(words().decode(ids_type{2, 6, -1, 100000, 3}) == "hello world");
  CHECK(words().decode(ids_type{9}) == "bob");  // an added token decodes to what was looked for
}

TEST_CASE("tokens are known by text and by id") {
  CHECK(words().id_of("hello") == 2);
  CHECK(words().id_of("<pad>") == 7);
  CHECK(words().id_of("Bob") == 9);
  CHECK_FALSE(words().id_of("bob"));
  CHECK(words().token_of(9) == "Bob");
  CHECK(words().token_of(0) == "<unk>");
  CHECK(words().vocabulary_size() == 10);
  CHECK(words().special().begin == 1);
  CHECK_THROWS_WITH(words().token_of(8), "token_of: no token has id 8 (the largest is 9)");
  CHECK_THROWS_AS(words().token_of(-1), option_error);
}

TEST_CASE("an added token must not share its id, nor have two") {
  auto parts = small_parts();
  parts.added.push_back({.id = 2, .content = "new"});
  CHECK_THROWS_WITH(tokenizer(parts), "added token \"new\" has id 2, which belongs to \"hello\"");
  parts.added.back() = {.id = 11, .content = "hello"};
  CHECK_THROWS_WITH(tokenizer(parts), "added token \"hello\" has id 11, and id 2 too");
  parts.added.back() = {.id = 7, .content = "new"};
  CHECK_THROWS_AS(tokenizer(parts), format_error);
}

TEST_CASE("one tokenizer serves several threads") {
  auto parts = small_parts();
  parts.pre_tokenizers = {text::split{text::pattern::regex("\\s+|\\w+"), text::split_behavior::isolated}};
  const tokenizer shared(std::move(parts));
  std::string line;
  for (int i = 0; i < 2000; ++i) line += i % 3 == 0 ? "Hello " : i % 7 == 0 ? "<s>" : "world! ";
  const ids_type expected = shared.encode(line).ids;
  std::vector<ids_type> got(4);
  std::vector<std::thread> threads;
  for (ids_type& g : got) threads.emplace_back([&g, &line, copy = shared] { g = copy.encode(line).ids; });
  for (std::thread& t : threads) t.join();
  for (const ids_type& g : got) CHECK(g == expected);
}
