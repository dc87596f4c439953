// SPDX-License-Identifier: Apache-2.0
// Linear weights of GPT-2 lie in files as (in, out), the other way round than in every other model. Read next: io/load_model.hpp.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <string_view>

#include "graft/core/frozen_array.hpp"
#include "graft/core/tensor.hpp"
#include "graft/nn/state_dict.hpp"

namespace graft::detail {

/// A frozen matrix turned around, in memory of its own and in its storage type.
template <class = void>
frozen_array transposed(const frozen_array& a) {
  const index_t rows = a.shape()[0], columns = a.shape()[1];
  const std::size_t size = a.bytes().size() / static_cast<std::size_t>(std::max<index_t>(rows * columns, 1));
  auto owner = std::make_shared<tensor<std::byte, 1>>(extents<1>{std::ssize(a.bytes())});
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < columns; ++j)
      std::memcpy(owner->data() + static_cast<std::size_t>(j * rows + i) * size, a.bytes().data() + static_cast<std::size_t>(i * columns + j) * size, size);
  return frozen_array(a.type(), extents<2>{columns, rows}, owner->data(), owner);
}

/// Turns the linear weights of a GPT-2 from the file's layout to the model's, or back.
template <class = void>
void turn_linear_weights(records<frozen_array>& arrays) {
  for (auto& [name, a] : arrays)
    if ((name.ends_with(".c_attn.weight") || name.ends_with(".c_proj.weight") || name.ends_with(".c_fc.weight")) && a.shape().size() == 2) a = transposed(a);
}

}  // namespace graft::detail
