// SPDX-License-Identifier: Apache-2.0
#include "graft/text/pattern.hpp"

#include <thread>
#include <vector>

#include "graft/text/pre_tokenizer.hpp"
#include "support/catch.hpp"

using namespace graft;
using text::pattern;

/// Matches in brackets, the rest as it is.
static std::string marked(const pattern& p, std::string_view s) {
  text::match_workspace w;
  std::string out;
  p.for_each_segment(s, w, [&](std::size_t begin, std::size_t end, bool match) {
    out += match ? concat("[", s.substr(begin, end - begin), "]") : std::string(s.substr(begin, end - begin));
  });
  return out;
}
static std::string marked(const char* regex, std::string_view s) { return marked(pattern::regex(regex), s); }

TEST_CASE("a literal is found as it stands") {
  CHECK(marked(pattern::literal("a.b"), "a.bxa.b") == "[a.b]x[a.b]");
  CHECK(marked(pattern::literal("aa"), "aaaaa") == "[aa][aa]a");
  CHECK_THROWS_AS(pattern::literal(""), format_error);
}

TEST_CASE("matches and gaps cover the subject, empty matches too") {
  CHECK(marked("b+", "abba") == "a[bb]a");
  CHECK(marked("x*", "axb") == "[]a[x]b[]");
  CHECK(marked("", "ab") == "[]a[]b[]");
  CHECK(marked("x", "") == "");
}

TEST_CASE("the words of GPT-2") {
  CHECK(marked(text::gpt2_words, "I'll  be 12\u00BD !? \n x") == "[I]['ll][ ][ be][ 12\u00BD][ !?][ \n][ x]");
  CHECK(marked(text::gpt2_words, "DON'T") == "[DON]['][T]");
}

TEST_CASE("white space and word characters are those of Oniguruma") {
  CHECK(marked("\\s", "a\u180Eb\u0085") == "a\u180Eb[\u0085]");  // PCRE2's own \s has U+180E
  CHECK(marked("[^\\s]+", "a\u180Eb c") == "[a\u180Eb] [c]");
  CHECK(marked("[^\\S\\n]+", "a \n\tb") == "a[ ]\n[\t]b");
  CHECK(marked("\\w+", "e\u0301\u203F x") == "[e\u0301\u203F] [x]");  // PCRE2's own \w lacks both
  CHECK(marked("\\w", "\u00B2") == "[\u00B2]");
  CHECK(marked("[\\w]", "\u00B2") == "\u00B2");
  CHECK(marked("e\\b", "e\u0301 e") == "e\u0301 [e]");
  CHECK(marked("e\\B", "e\u0301 e") == "[e]\u0301 e");
}

TEST_CASE("what the two syntaxes write differently means what Oniguruma means") {
  CHECK(marked("^a|a$", "a\nxa\na") == "[a]\nx[a]\n[a]");  // lines, always
  CHECK(marked("(?m:.)", "\n") == "[\n]");                 // m is for the dot
  CHECK(marked(".", "\n\r") == "\n[\r]");
  CHECK(marked("a{,2}b", "aaab") == "a[aab]");   // at most two
  CHECK(marked("a{2}+", "aaaaa") == "[aaaa]a");  // repeated, not possessive
  CHECK(marked("\\d{1,3}+1", "1231") == "[1231]");
  CHECK(marked("(?:ab){2}?c", "ababc c") == "[ababc] [c]");  // optional, not reluctant
  CHECK(marked("a++b", "aab") == "[aab]");
  CHECK(marked("a{x", "a{x") == "[a{x]");
  CHECK(marked("[^(\\s|[.,])]+", "a (b|c. d]") == "[a] ([b]|[c]. [d]]");  // a class in a class adds to it
  CHECK(marked("[\\s-x]", "-") == "[-]");
  CHECK(marked("[]a]", "]") == "[]]");
  CHECK(marked("\\u0061\\x{62}\\x63", "abc") == "[abc]");
  CHECK(marked("\\p{Han}+", "\u6F22\u3001\u5B57") == "[\u6F22]\u3001[\u5B57]");  // the script, not its extensions
  CHECK(marked("\\p{^L}\\P{^L}", "1a") == "[1a]");
  CHECK(marked("(?i:'s)", "'S'\u017F") == "['S]['\u017F]");
  CHECK(marked("(?i)AB|c", "abC") == "[ab][C]");
  CHECK(marked("(?<n>a)\\k<n>", "aa") == "[aa]");
  CHECK(marked("\\/\\'\\-", "/'-") == "[/'-]");
}

TEST_CASE("what cannot be made to mean the same is refused with its place") {
  for (const char* bad : {"[a&&b]", "[[:alpha:]]", "[^[^a]]", "\\h",     "\\X",   "\\Q",   "\\pL", "\\p{Alphabetic}",
                          "[\\W]",  "(?x)a",       "a(?i)b",  "(*UTF)a", "\\xe9", "\\u12", "a)",   "(a",
                          "[a",     "[a-\\s]",     "\\",      "*",       "[z-a]", "\\0"}) {
    INFO(bad);
    CHECK_THROWS_AS(pattern::regex(bad), format_error);
  }
  CHECK_THROWS_WITH(pattern::regex("ab[c&&d]"), "pattern \"ab[c&&d]\" at 4: intersections of classes are not known");
  CHECK_THROWS_AS(pattern::regex(std::string(20000, '[')), format_error);
}

TEST_CASE("an expression that runs away is stopped") {
  const std::string subject = std::string(40, 'a') + "b";
  CHECK_THROWS_AS(marked("(a+)+$", subject), format_error);
  CHECK_THROWS_AS(marked("(?:a|aa)+$", std::string(80, 'a') + "b"), format_error);
}

TEST_CASE("a match too deep for the compiled code's stack is found by the interpreter") {
  const std::string subject(300'000, 'a');
  std::size_t segments = 0;
  text::match_workspace w;
  pattern::regex("(?:a|b)+").for_each_segment(subject, w, [&](std::size_t, std::size_t end, bool match) {
    segments += match && end == subject.size();
  });
  CHECK(segments == 1);
}

TEST_CASE("one pattern serves several threads") {
  const pattern words = pattern::regex(text::gpt2_words);
  std::string subject;
  for (int i = 0; i < 500; ++i) subject += concat(" word", i, "'s \u00E9t\u00E9 ", i * 7);
  const std::string expected = marked(words, subject);
  std::vector<std::string> got(4);
  std::vector<std::thread> threads;
  for (std::string& g : got) threads.emplace_back([&] { g = marked(words, subject); });
  for (std::thread& t : threads) t.join();
  for (const std::string& g : got) CHECK(g == expected);
}
