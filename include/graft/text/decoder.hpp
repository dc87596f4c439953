// SPDX-License-Identifier: Apache-2.0
// From the texts of tokens back to text, one token at a time: what has been written never changes again.
// Read next: text/stream_decoder.hpp.
#pragma once
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "graft/text/byte_level.hpp"
#include "graft/text/normalizer.hpp"
#include "graft/text/pre_tokenizer.hpp"

namespace graft::text {

/// Characters of the byte alphabet become bytes, bytes become text; U+FFFD for what is not UTF-8. Joins all tokens.
struct byte_level_decoder {};
/// A run of tokens <0xHH> becomes the text of its bytes, or one U+FFFD each when it is not UTF-8 as a whole.
struct byte_fallback_decoder {};
/// Joins all tokens to one, for the steps that follow.
struct fuse_decoder {};
/// Drops up to `start` times `content` from the start of a token and up to `stop` times from its end.
struct strip_decoder {
  std::string content;  ///< one character
  std::size_t start = 0, stop = 0;
};
/// A token that does not continue a word follows a space; `cleanup` takes back spaces before punctuation.
struct word_piece_decoder {
  std::string prefix = "##";
  bool cleanup = true;
};
/// `replacement` becomes a space; in the first token, nothing, when a space was written in front of the text.
struct metaspace_decoder {
  std::string replacement = "\xE2\x96\x81";
  bool prepended = true;
};
/// `suffix` becomes a space; in the last token, nothing.
struct bpe_decoder {
  std::string suffix = "</w>";
};
/// Tokens with a space between them: what a file without a decoder means.
struct space_decoder {};

using decoder = std::variant<byte_level_decoder, byte_fallback_decoder, fuse_decoder, strip_decoder, replace,
                             word_piece_decoder, metaspace_decoder, bpe_decoder, space_decoder>;

/// Runs the decoders of a list over a stream of tokens. Each holds back only what later tokens can change.
class decoder_chain {
 public:
  /// `steps` must live longer than this.
  explicit decoder_chain(const std::vector<decoder>& steps) : steps_(&steps), states_(steps.size()) {}

  /// Takes the text of the next token; appends to `out` the text that is certain now.
  void push(std::string_view token, std::string& out) { feed(0, token, true, out); }

  /// Appends what was held back, and starts afresh.
  void finish(std::string& out) {
    for (std::size_t i = 0; i < steps_->size(); ++i) {
      std::visit([&](const auto& step) { close(step, i, out); }, (*steps_)[i]);
      states_[i] = {};
    }
  }

 private:
  struct state {
    std::string part;          // of a token that comes in several parts
    std::string held;          // bytes or a token that wait for what follows
    std::size_t tokens = 0;    // tokens that are complete
    std::size_t begun = 0;     // strip: contents dropped at the start of the token
    std::size_t trailing = 0;  // strip: contents that may be at its end
    bool inside = false;       // strip: past the contents at the start
  };

  /// A token may come in parts, of which the last has `ends`: behind a step that joins tokens, all is one token.
  void feed(std::size_t i, std::string_view part, bool ends, std::string& out) {
    if (i == steps_->size()) {
      out += part;
      return;
    }
    std::visit(
        [&](const auto& step) {
          using step_type = std::remove_cvref_t<decltype(step)>;
          if constexpr (std::is_same_v<step_type, fuse_decoder>) {
            feed(i + 1, part, false, out);
          } else if constexpr (std::is_same_v<step_type, strip_decoder>) {
            strip(step, i, part, ends, out);
          } else if (!ends || !states_[i].part.empty()) {
            states_[i].part += part;
            if (!ends) return;
            const std::string token = std::exchange(states_[i].part, {});
            take(step, i, token, out);
            ++states_[i].tokens;
          } else {
            take(step, i, part, out);
            ++states_[i].tokens;
          }
        },
        (*steps_)[i]);
  }

  void take(const byte_level_decoder&, std::size_t i, std::string_view token, std::string& out) {
    std::string& held = states_[i].held;
    if (!append_as_bytes(held, token)) held += token;
    std::string certain;
    held.erase(0, append_valid(held, certain));
    feed(i + 1, certain, false, out);
  }

  void take(const byte_fallback_decoder& step, std::size_t i, std::string_view token, std::string& out) {
    if (const int byte = byte_of(token); byte >= 0) {
      states_[i].held += static_cast<char>(byte);
    } else {
      close(step, i, out);
      feed(i + 1, token, true, out);
    }
  }

  void take(const replace& step, std::size_t i, std::string_view token, std::string& out) {
    feed(i + 1, detail::replaced(token, step, matches_), true, out);
  }

  void take(const word_piece_decoder& step, std::size_t i, std::string_view token, std::string& out) {
    std::string s;
    if (states_[i].tokens != 0) {
      if (token.starts_with(step.prefix)) token.remove_prefix(step.prefix.size());
      else s = ' ';
    }
    s += token;
    if (step.cleanup) clean_up(s);
    feed(i + 1, s, true, out);
  }

  void take(const metaspace_decoder& step, std::size_t i, std::string_view token, std::string& out) {
    const bool drop = states_[i].tokens == 0 && step.prepended;
    feed(i + 1, replaced(token, step.replacement, drop ? "" : " "), true, out);
  }

  void take(const bpe_decoder& step, std::size_t i, std::string_view token, std::string& out) {
    if (states_[i].tokens != 0) feed(i + 1, replaced(states_[i].held, step.suffix, " "), true, out);
    states_[i].held = token;
  }

  void take(const space_decoder&, std::size_t i, std::string_view token, std::string& out) {
    if (states_[i].tokens != 0) feed(i + 1, " ", true, out);
    feed(i + 1, token, true, out);
  }

  void strip(const strip_decoder& step, std::size_t i, std::string_view part, bool ends, std::string& out) {
    std::string kept;
    while (!part.empty()) {
      state& s = states_[i];
      const bool match = part.starts_with(step.content);
      const std::size_t length = first_character(part).bytes;
      if (match && !s.inside && s.begun < step.start) {
        ++s.begun;
      } else {
        s.inside = true;
        if (match) {
          if (++s.trailing > step.stop) {
            kept += step.content;
            --s.trailing;
          }
        } else {
          for (; s.trailing != 0; --s.trailing) kept += step.content;
          kept += part.substr(0, length);
        }
      }
      part.remove_prefix(length);
    }
    if (ends) states_[i] = {};  // the contents still held are those at the end: dropped
    feed(i + 1, kept, ends, out);
  }

  // What a step still owes when no token follows.
  template <class Step>
  void close(const Step& step, std::size_t i, std::string& out) {
    if constexpr (std::is_same_v<Step, byte_level_decoder>) {
      const bool cut_short = !states_[i].held.empty();
      feed(i + 1, cut_short ? replacement_character : std::string_view(), true, out);
    } else if constexpr (std::is_same_v<Step, byte_fallback_decoder>) {
      const std::string run = std::exchange(states_[i].held, {});
      if (!run.empty() && is_utf8(run)) return feed(i + 1, run, true, out);
      for (std::size_t n = 0; n < run.size(); ++n) feed(i + 1, replacement_character, true, out);
    } else if constexpr (std::is_same_v<Step, fuse_decoder>) {
      feed(i + 1, {}, true, out);
    } else if constexpr (std::is_same_v<Step, bpe_decoder>) {
      if (states_[i].tokens != 0) feed(i + 1, replaced(states_[i].held, step.suffix, ""), true, out);
    }
  }

  static int byte_of(std::string_view token) {
    const auto digit = [&](std::size_t i) {
      constexpr std::string_view digits = "0123456789ABCDEFabcdef";
      const std::size_t d = digits.find(token[i]);
      return d == std::string_view::npos ? -1 : static_cast<int>(d < 16 ? d : d - 6);
    };
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>' || digit(3) < 0 || digit(4) < 0) return -1;
    return digit(3) * 16 + digit(4);
  }

  static std::string replaced(std::string_view s, std::string_view what, std::string_view content) {
    std::string result;
    std::size_t at = 0;
    for (std::size_t found; !what.empty() && (found = s.find(what, at)) != std::string_view::npos;
         at = found + what.size()) {
      result += s.substr(at, found - at);
      result += content;
    }
    return result += s.substr(at);
  }

  static void clean_up(std::string& s) {
    constexpr std::string_view from[] = {" .",  " ?",      " !",  " ,",   " ' ", " n't",
                                         " 'm", " do not", " 's", " 've", " 're"};
    constexpr std::string_view to[] = {".", "?", "!", ",", "'", "n't", "'m", " don't", "'s", "'ve", "'re"};
    for (std::size_t i = 0; i < std::size(from); ++i) {
      if (s.find(from[i]) != std::string::npos) s = replaced(s, from[i], to[i]);
    }
  }

  const std::vector<decoder>* steps_;
  std::vector<state> states_;
  match_workspace matches_;
};

}  // namespace graft::text
