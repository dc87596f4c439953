// SPDX-License-Identifier: Apache-2.0
// From text to token ids and back, as a published model does it. Files are read by io/tokenizer_json.hpp.
// Read next: text/stream_decoder.hpp.
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "graft/text/added_tokens.hpp"
#include "graft/text/bpe.hpp"
#include "graft/text/decoder.hpp"
#include "graft/text/normalizer.hpp"
#include "graft/text/post_processor.hpp"
#include "graft/text/pre_tokenizer.hpp"
#include "graft/text/word_piece.hpp"

namespace graft {

struct encode_options {
  bool special_tokens = true;      ///< add what the model expects around a text: begin token, [CLS], [SEP]
  index_t max_length = 0;          ///< shorten the text so that all ids, special ones included, are at most this many; 0: never
  side give_up = side::right;      ///< the end a text loses when it is too long
};

struct decode_options {
  bool skip_special_tokens = true;
};

/// The tokens with a part to play, as far as the files tell.
struct special_tokens {
  std::optional<token_id> begin, end, padding, unknown, separator, classifier, mask;
};

namespace text {

using model = std::variant<bpe, word_piece, word_level>;

/// What a tokenizer consists of, in the order text passes through.
struct tokenizer_parts {
  std::vector<added_token> added{};
  std::vector<normalizer> normalizers{};
  std::vector<pre_tokenizer> pre_tokenizers{};
  vocabulary words{};
  text::model model = word_level("");
  post_processor around{};
  std::vector<decoder> decoders{};
  special_tokens special{};
  index_t truncation = 0;  ///< the length the file asks to shorten to, or 0
};

}  // namespace text

/// Immutable; copies share everything. All functions may be called from several threads at once.
class tokenizer {
 public:
  /// Throws format_error when an added token's id belongs to another token.
  explicit tokenizer(text::tokenizer_parts parts) : data_(std::make_shared<const data>(std::move(parts))) {}

  /// Bytes that are not UTF-8 count as U+FFFD. Text that contains the content of an added token ("<s>") yields its id:
  /// see docs before encoding text of strangers. Throws option_error when max_length leaves no room for the special tokens,
  /// format_error when the text needs an unknown token and the vocabulary has none.
  encoding encode(std::string_view text, encode_options o = {}) const {
    std::vector<token_id> ids = data_->ids_of(text);
    const auto& parts = data_->parts.around.single;
    if (o.max_length != 0) text::keep(ids, room(parts, o), o.give_up);
    return text::compose(parts, ids, {}, o.special_tokens);
  }

  /// Two texts in one. When they are too long, the longer gives way first.
  encoding encode_pair(std::string_view a, std::string_view b, encode_options o = {}) const {
    std::vector<token_id> first = data_->ids_of(a), second = data_->ids_of(b);
    const auto& parts = data_->parts.around.pair;
    if (o.max_length != 0) text::keep_longest_first(first, second, room(parts, o), o.give_up);
    return text::compose(parts, first, second, o.special_tokens);
  }

  /// Ids the tokenizer does not know decode to nothing: embeddings often have more rows than there are tokens.
  std::string decode(std::span<const token_id> ids, decode_options o = {}) const {
    std::string out;
    text::decoder_chain chain(data_->parts.decoders);
    for (token_id id : ids) {
      if (const auto token = data_->decodable(id, o)) chain.push(*token, out);
    }
    chain.finish(out);
    return out;
  }

  std::optional<token_id> id_of(std::string_view token) const {
    const token_id id = data_->find(token);
    return id == text::no_token ? std::nullopt : std::optional(id);
  }

  /// The token as it stands in the vocabulary, which is not the text it decodes to. Throws option_error on an unknown id.
  std::string_view token_of(token_id id) const {
    if (!data_->all.contains(id)) {
      throw_error<option_error>("token_of: no token has id ", id, "; the largest is ", data_->all.limit() - 1);
    }
    return data_->all.text_of(id);
  }

  /// One more than the largest id: the rows an embedding needs.
  index_t vocabulary_size() const noexcept { return data_->all.limit(); }

  const graft::special_tokens& special() const noexcept { return data_->parts.special; }

  /// The length the file asks to shorten to, or 0. Encoding never does so by itself: pass it as max_length.
  index_t truncation() const noexcept { return data_->parts.truncation; }

 private:
  friend class stream_decoder;

  struct data {
    text::tokenizer_parts parts;
    text::vocabulary all;  ///< the model's tokens and the added ones
    text::added_token_finder in_text, in_normalized_text;
    std::vector<bool> is_special;                              // by id
    std::vector<std::pair<token_id, std::string>> normalized;  // added tokens that decode to other text than their content

    explicit data(text::tokenizer_parts p);
    std::vector<token_id> ids_of(std::string_view text) const;
    void encode_section(std::string section, bool opens_input, std::vector<token_id>& out, text::match_workspace& matches,
                        text::bpe_workspace& merges) const;
    std::optional<std::string_view> decodable(token_id id, decode_options o) const;
    token_id find(std::string_view token) const noexcept { return all.find(token); }
  };

  static std::size_t room(std::span<const text::template_part> parts, encode_options o) {
    const auto special = o.special_tokens ? static_cast<index_t>(text::special_tokens_in(parts)) : 0;
    if (o.max_length < special) {
      throw_error<option_error>("encode: max_length is ", o.max_length, ", and the special tokens alone are ", special);
    }
    return static_cast<std::size_t>(o.max_length - special);
  }

  std::shared_ptr<const data> data_;
};
