// SPDX-License-Identifier: Apache-2.0
// Keys and values of the tokens a decoder has seen, so that each new token costs one row. Read next: models/generate.hpp.
#pragma once
#include <algorithm>
#include <vector>

#include "graft/core/tensor.hpp"

namespace graft {

/// One sequence's cache. Memory: 2 layers capacity width elements, made at once.
template <class T>
class kv_cache {
 public:
  kv_cache(index_t layers, index_t width, index_t capacity) : capacity_(capacity) {
    for (index_t i = 0; i < layers; ++i) layers_.push_back({tensor<T, 2>({capacity, width}), tensor<T, 2>({capacity, width})});
  }

  index_t length() const noexcept { return length_; }
  index_t capacity() const noexcept { return capacity_; }
  void clear() noexcept { length_ = 0; }

  /// Writes the rows of new tokens behind the present ones. Throws shape_error when they do not fit.
  void append(index_t layer, tensor_view<const T, 2> keys, tensor_view<const T, 2> values) {
    if (length_ + keys.shape[0] > capacity_)
      throw_error<shape_error>("kv_cache: ", length_, " + ", keys.shape[0], " tokens exceed the capacity of ", capacity_);
    auto& l = layers_[static_cast<std::size_t>(layer)];
    std::copy_n(keys.data, keys.size(), &l.keys(length_, 0));
    std::copy_n(values.data, values.size(), &l.values(length_, 0));
  }
  /// Counts the appended tokens, once all layers have them.
  void advance(index_t tokens) noexcept { length_ += tokens; }

  tensor_view<const T, 2> keys(index_t layer, index_t rows) const { return layers_[static_cast<std::size_t>(layer)].keys.slice(0, 0, rows); }
  tensor_view<const T, 2> values(index_t layer, index_t rows) const { return layers_[static_cast<std::size_t>(layer)].values.slice(0, 0, rows); }

 private:
  struct layer_cache {
    tensor<T, 2> keys, values;
  };
  std::vector<layer_cache> layers_;
  index_t capacity_, length_ = 0;
};

}  // namespace graft
