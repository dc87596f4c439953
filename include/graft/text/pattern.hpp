// SPDX-License-Identifier: Apache-2.0
// A text to look for: a string, or a regular expression run by PCRE2. Read next: text/pre_tokenizer.hpp.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "graft/core/error.hpp"
#include "graft/text/pattern_syntax.hpp"  // and pcre2.h
#include "graft/text/utf8.hpp"

namespace graft::text {

/// What a search writes to. One for each thread; any pattern may use it.
class match_workspace {
 public:
  pcre2_match_data_8* get() {
    if (!data_) data_.reset(pcre2_match_data_create_8(1, nullptr));
    if (!data_) throw_error<error>("pattern: no memory to match with");
    return data_.get();
  }

 private:
  struct release {
    void operator()(pcre2_match_data_8* p) const { pcre2_match_data_free_8(p); }
  };
  std::unique_ptr<pcre2_match_data_8, release> data_;
};

/// Immutable and shared on copying; searching from several threads is safe.
class pattern {
 public:
  /// Looks for `words` as they stand. Throws format_error when they are empty.
  static pattern literal(std::string words) {
    if (words.empty()) throw_error<format_error>("pattern: an empty string matches everywhere");
    return {std::move(words), nullptr, nullptr};
  }

  /// A regular expression as tokenizer files write them (Oniguruma's syntax), over Unicode characters. Throws
  /// format_error on a syntax error and on what PCRE2 would read differently.
  static pattern regex(std::string source) {
    const std::string rewritten = detail::pattern_rewriter(source).rewrite();
    const std::unique_ptr<pcre2_compile_context_8, decltype(&pcre2_compile_context_free_8)> how(
        pcre2_compile_context_create_8(nullptr), &pcre2_compile_context_free_8);
    pcre2_set_newline_8(how.get(), PCRE2_NEWLINE_LF);
    pcre2_set_bsr_8(how.get(), PCRE2_BSR_UNICODE);
    int reason = 0;
    PCRE2_SIZE where = 0;
    pcre2_code_8* code = pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(rewritten.data()), rewritten.size(),
                                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &reason, &where, how.get());
    if (code == nullptr) {
      throw_error<format_error>("pattern \"", source, "\" (as \"", rewritten, "\" at ", where, "): ", message(reason));
    }
    std::shared_ptr<pcre2_code_8> owner(code, &pcre2_code_free_8);
    pcre2_jit_compile_8(code, PCRE2_JIT_COMPLETE);  // where there is no compiler, the interpreter does the work
    std::shared_ptr<pcre2_match_context_8> limits(pcre2_match_context_create_8(nullptr), &pcre2_match_context_free_8);
    pcre2_set_match_limit_8(limits.get(), 10'000'000);
    pcre2_set_heap_limit_8(limits.get(), 256 * 1024);  // KiB
    return {std::move(source), std::move(owner), std::move(limits)};
  }

  const std::string& source() const noexcept { return source_; }

  /// Calls f(begin, end, is_match) for the matches in valid UTF-8 and for what lies between them, in order and without
  /// gaps. An empty match counts, unless it touches the match before it. Throws format_error when the expression takes
  /// too many steps on this subject.
  template <class F>
  void for_each_segment(std::string_view subject, match_workspace& w, F f) const {
    std::size_t done = 0, from = 0;
    std::size_t begin = 0, end = 0;
    for (bool any = false; !subject.empty() && from <= subject.size() && find(subject, from, w, begin, end);) {
      if (begin == end && any && end == done) {  // the empty match behind a match: step over one character
        if (from == subject.size()) break;
        from += first_character(subject.substr(from)).bytes;
        continue;
      }
      any = true;
      if (done != begin) f(done, begin, false);
      f(begin, end, true);
      from = done = end;
    }
    if (done != subject.size() || subject.empty()) f(done, subject.size(), false);
  }

 private:
  pattern(std::string source, std::shared_ptr<pcre2_code_8> code, std::shared_ptr<pcre2_match_context_8> limits)
      : source_(std::move(source)), code_(std::move(code)), limits_(std::move(limits)) {}

  static std::string message(int reason) {
    char words[256];
    return pcre2_get_error_message_8(reason, reinterpret_cast<PCRE2_UCHAR8*>(words), sizeof words) < 0
               ? concat("error ", reason)
               : std::string(words);
  }

  bool find(std::string_view subject, std::size_t from, match_workspace& w, std::size_t& begin,
            std::size_t& end) const {
    if (code_ == nullptr) {
      begin = subject.find(source_, from);
      end = begin + source_.size();
      return begin != std::string_view::npos;
    }
    const auto match = [&](std::uint32_t options) {
      return pcre2_match_8(code_.get(), reinterpret_cast<PCRE2_SPTR8>(subject.data()), subject.size(), from,
                           PCRE2_NO_UTF_CHECK | options, w.get(), limits_.get());
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
      result = match(PCRE2_NO_JIT);  // the interpreter takes its stack from the heap
    if (result == PCRE2_ERROR_NOMATCH) return false;
    if (result < 0) {
      throw_error<format_error>("pattern \"", source_, "\" on ", subject.size(), " bytes of text: ", message(result));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer_8(w.get());
    begin = bounds[0];
    end = bounds[1];
    return true;
  }

  std::string source_;
  std::shared_ptr<pcre2_code_8> code_;  // none: look for the source as it stands
  std::shared_ptr<pcre2_match_context_8> limits_;
};

}  // namespace graft::text
