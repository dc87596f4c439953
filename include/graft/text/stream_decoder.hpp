// SPDX-License-Identifier: Apache-2.0
// Text from tokens while a model is still writing. Read next: io/tokenizer_json.hpp.
#pragma once
#include <string>
#include <utility>

#include "graft/text/tokenizer.hpp"

namespace graft {

/// Decodes one token at a time. Everything returned, with what finish() returns, is what decode() makes of all tokens
/// at once. Each piece of text is complete UTF-8; what later tokens may change is held back: the bytes of an unfinished
/// character, a run of byte tokens, the last word of some models. Not for use by several threads at once.
class stream_decoder {
 public:
  explicit stream_decoder(tokenizer words, decode_options o = {})
      : words_(std::move(words)), options_(o), chain_(words_.data_->parts.decoders) {}

  /// The text that is certain with this token; often empty. Unknown ids decode to nothing.
  std::string push(token_id id) {
    std::string out;
    if (const auto token = words_.data_->decodable(id, options_)) chain_.push(*token, out);
    return out;
  }

  /// The text held back. The next push begins another text.
  std::string finish() {
    std::string out;
    chain_.finish(out);
    return out;
  }

 private:
  tokenizer words_;
  decode_options options_;
  text::decoder_chain chain_;
};

}  // namespace graft
