// SPDX-License-Identifier: Apache-2.0
// A text file as batches for a causal language model. Read next: nn/batch.hpp, text/tokenizer.hpp.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/error.hpp"
#include "graft/io/mapped_file.hpp"
#include "graft/nn/batch.hpp"
#include "graft/text/tokenizer.hpp"

namespace graft {

struct text_batches_options {
  index_t sequence = 256;  // tokens of a window, >= 2
  index_t batch = 1;       // windows of a batch, >= 1
};

/// Disjoint windows of a token sequence in order, `batch` at a time, each labelled with its own next tokens. The last window
/// and the last batch may be shorter; a single token that is left over has nothing to predict and is dropped. For use in a
/// range-based for. Memory: 4 bytes a token, and one batch. Throws option_error for sizes below their least.
class text_batches {
 public:
  /// A whole text file. Throws io_error when it cannot be read, format_error when it gives fewer than two tokens.
  text_batches(const tokenizer& words, const std::filesystem::path& file, const text_batches_options& o = {})
      : text_batches(read(words, file), o) {}

  explicit text_batches(std::vector<std::int32_t> ids, const text_batches_options& o = {}) : ids_(std::move(ids)), options_(o) {
    if (o.sequence < 2) throw_error<option_error>("text_batches: sequence is ", o.sequence, ", expected 2 or more");
    if (o.batch < 1) throw_error<option_error>("text_batches: batch is ", o.batch, ", expected 1 or more");
  }

  class iterator {
   public:
    iterator(const text_batches& from, std::size_t first) : from_(&from), first_(first), next_(first) { fill(); }
    const token_batch& operator*() const noexcept { return batch_; }
    iterator& operator++() {
      first_ = next_;
      fill();
      return *this;
    }
    bool operator==(const iterator& other) const noexcept { return first_ == other.first_; }

   private:
    void fill() {
      batch_.clear();
      const std::span<const std::int32_t> ids = from_->ids_;
      const auto length = static_cast<std::size_t>(from_->options_.sequence);
      while (next_ < ids.size() && batch_.sequences() < from_->options_.batch) {
        const auto window = ids.subspan(next_, std::min(length, ids.size() - next_));
        if (window.size() > 1) batch_.add_with_next_labels(window);
        next_ += window.size();
      }
      if (batch_.sequences() == 0) first_ = next_;
    }
    const text_batches* from_;
    std::size_t first_, next_;
    token_batch batch_;
  };

  iterator begin() const { return iterator(*this, 0); }
  iterator end() const { return iterator(*this, ids_.size()); }
  index_t tokens() const noexcept { return static_cast<index_t>(ids_.size()); }

 private:
  static std::vector<std::int32_t> read(const tokenizer& words, const std::filesystem::path& file) {
    const mapped_file text(file);
    auto ids = words.encode(std::string_view(reinterpret_cast<const char*>(text.bytes().data()), text.bytes().size())).ids;
    if (ids.size() < 2) throw_error<format_error>("\"", file.string(), "\" gives ", ids.size(), " tokens, expected 2 or more");
    return ids;
  }

  std::vector<std::int32_t> ids_;
  text_batches_options options_;
};

}  // namespace graft
