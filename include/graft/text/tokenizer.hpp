// SPDX-License-Identifier: Apache-2.0
// From text to token ids and back, as a published model does it. Files are read by io/tokenizer_json.hpp.
// Read next: text/stream_decoder.hpp.
#pragma once
#include <algorithm>
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
  bool special_tokens = true;  ///< add what the model expects around a text: begin token, [CLS], [SEP]
  index_t max_length = 0;  ///< at most so many ids, special ones included: shortens the text; 0: as many as it takes
  side cut = side::right;  ///< the end a text loses when it is too long
};

struct decode_options {
  bool skip_special_tokens = true;
};

/// The tokens with a part to play, as far as the files tell.
struct special_tokens {
  std::optional<token_id> begin, end, padding, unknown, separator, classifier, mask;
};

namespace text {

using piece_encoder = std::variant<bpe, word_piece, word_level>;

/// What a tokenizer consists of, in the order text passes through.
struct tokenizer_parts {
  std::vector<added_token> added{};
  std::vector<normalizer> normalizers{};
  std::vector<pre_tokenizer> pre_tokenizers{};
  vocabulary words{};  ///< of the model; an added token may be one of them
  piece_encoder model = word_level("");
  post_processor around{};
  std::vector<decoder> decoders{};
  special_tokens special{};
  index_t truncation = 0;  ///< the length the file asks to shorten to, or 0
};

namespace detail {

/// The parts and what follows from them. Immutable.
class tokenizer_data {
 public:
  explicit tokenizer_data(tokenizer_parts p);

  const tokenizer_parts parts;

  token_id find(std::string_view token) const noexcept {
    const token_id id = parts.words.find(token);
    return id != no_token ? id : extra_.find(token);
  }
  bool contains(token_id id) const noexcept { return parts.words.contains(id) || extra_.contains(id); }
  std::string_view text_of(token_id id) const noexcept {
    return (parts.words.contains(id) ? parts.words : extra_).text_of(id);
  }
  token_id limit() const noexcept { return std::max(parts.words.limit(), extra_.limit()); }

  /// What the decoders are to see of a token, if anything.
  std::optional<std::string_view> decodable(token_id id, decode_options o) const {
    if (!contains(id)) return std::nullopt;
    const index_t added = added_[static_cast<std::size_t>(id)];
    if (added < 0) return parts.words.text_of(id);
    if (o.skip_special_tokens && parts.added[static_cast<std::size_t>(added)].special) return std::nullopt;
    return decoded_[static_cast<std::size_t>(added)];
  }

  /// The ids of a text, without special tokens around it.
  std::vector<token_id> encode(std::string_view any_bytes) const;

 private:
  struct workspace {
    match_workspace matches;
    bpe_workspace merges;
    text::pieces pieces;
  };
  void encode_section(std::string_view section, bool opens_input, std::vector<token_id>& out, workspace& w) const;

  vocabulary extra_;  // added tokens that are not in the model
  added_token_finder in_text_, in_normalized_text_;
  std::vector<index_t> added_;        // by id: place among the added tokens, or -1
  std::vector<std::string> decoded_;  // what the added tokens decode to: the content that was looked for
};

inline tokenizer_data::tokenizer_data(tokenizer_parts p) : parts(std::move(p)) {
  match_workspace matches;
  for (const added_token& t : parts.added) {
    const token_id known = find(t.content);
    if (known == no_token && parts.words.contains(t.id)) {
      throw_error<format_error>("added token \"", t.content, "\" has id ", t.id, ", which belongs to \"", text_of(t.id),
                                "\"");
    }
    if (known == no_token) extra_.add(t.content, t.id);
    if (known != no_token && known != t.id) {
      throw_error<format_error>("added token \"", t.content, "\" has id ", t.id, ", and id ", known, " too");
    }
    std::string content = t.content;
    if (t.normalized) normalize(parts.normalizers, content, matches);
    (t.normalized ? in_normalized_text_ : in_text_).add(t, content);
    added_.resize(static_cast<std::size_t>(limit()), -1);
    added_[static_cast<std::size_t>(t.id)] = static_cast<index_t>(decoded_.size());
    decoded_.push_back(std::move(content));
  }
  added_.resize(static_cast<std::size_t>(limit()), -1);
}

inline std::vector<token_id> tokenizer_data::encode(std::string_view any_bytes) const {
  std::string replaced;
  const std::string_view text = to_utf8(any_bytes, replaced);
  std::vector<token_id> ids;
  ids.reserve(text.size() / 3);
  workspace w;
  const auto found = [&](token_id id) { ids.push_back(id); };
  in_text_.scan(
      text,
      [&](std::size_t begin, std::size_t end) {
        std::string section(text.substr(begin, end - begin));
        normalize(parts.normalizers, section, w.matches);
        in_normalized_text_.scan(
            section,
            [&](std::size_t first, std::size_t last) {
              encode_section(std::string_view(section).substr(first, last - first), begin == 0 && first == 0, ids, w);
            },
            found);
      },
      found);
  return ids;
}

inline void tokenizer_data::encode_section(std::string_view section, bool opens_input, std::vector<token_id>& out,
                                           workspace& w) const {
  w.pieces.text = section;
  w.pieces.items.assign(1, {0, section.size()});
  w.pieces.first_opens_input = opens_input;
  pre_tokenize(parts.pre_tokenizers, w.pieces, w.matches);
  std::visit(
      [&](const auto& model) {
        for (std::size_t i = 0; i < w.pieces.items.size(); ++i) {
          if constexpr (std::is_same_v<decltype(model), const bpe&>)
            model.encode(parts.words, w.pieces[i], out, w.merges);
          else model.encode(parts.words, w.pieces[i], out);
        }
      },
      parts.model);
}

}  // namespace detail
}  // namespace text

/// Immutable; copies share everything. All functions may be called from several threads at once.
class tokenizer {
 public:
  /// Throws format_error when an added token shares its id with another token.
  explicit tokenizer(text::tokenizer_parts parts)
      : data_(std::make_shared<const text::detail::tokenizer_data>(std::move(parts))) {}

  /// Bytes that are not UTF-8 count as U+FFFD. The content of an added token within the text, such as "<s>", becomes
  /// that token: mind where the text comes from. Throws option_error when max_length leaves no room for the special
  /// tokens, format_error when the text needs an unknown token and the vocabulary has none.
  encoding encode(std::string_view text, encode_options o = {}) const {
    std::vector<token_id> ids = data_->encode(text);
    const auto& around = data_->parts.around.single;
    if (o.max_length != 0) text::keep(ids, room(around, o), o.cut);
    return text::compose(around, ids, {}, o.special_tokens);
  }

  /// Two texts as one input. When they are too long, the longer gives way first.
  encoding encode_pair(std::string_view a, std::string_view b, encode_options o = {}) const {
    std::vector<token_id> first = data_->encode(a), second = data_->encode(b);
    const auto& around = data_->parts.around.pair;
    if (o.max_length != 0) text::keep_longest_first(first, second, room(around, o), o.cut);
    return text::compose(around, first, second, o.special_tokens);
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

  /// The token as the files write it, which is not the text it decodes to. Throws option_error on an unknown id.
  std::string_view token_of(token_id id) const {
    if (!data_->contains(id))
      throw_error<option_error>("token_of: no token has id ", id, " (the largest is ", data_->limit() - 1, ")");
    return data_->text_of(id);
  }

  /// One more than the largest id: the rows an embedding needs.
  index_t vocabulary_size() const noexcept { return data_->limit(); }

  const special_tokens& special() const noexcept { return data_->parts.special; }

  /// The length the file asks to shorten to, or 0. Encoding never does so by itself: pass it as max_length.
  index_t truncation() const noexcept { return data_->parts.truncation; }

 private:
  friend class stream_decoder;

  static std::size_t room(std::span<const text::template_part> around, const encode_options& o) {
    const auto special = o.special_tokens ? static_cast<index_t>(text::special_tokens_in(around)) : 0;
    if (o.max_length < special) {
      throw_error<option_error>("encode: max_length is ", o.max_length, ", and the special tokens alone are ", special);
    }
    return static_cast<std::size_t>(o.max_length - special);
  }

  std::shared_ptr<const text::detail::tokenizer_data> data_;
};

}  // namespace graft
