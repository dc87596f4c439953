// SPDX-License-Identifier: Apache-2.0
// Matrices in block formats, and the values they hold.
#pragma once
#include <tuple>

#include "graft/nn/quantize.hpp"
#include "support/near.hpp"

namespace graft::test {

using every_block_format = std::tuple<q8_0_block, q4_0_block, nf4_block>;

/// Random numbers in [-1, 1) in the block format B.
template <class B>
frozen_array random_blocks(extents<2> shape, std::uint64_t seed) {
  return convert_array(frozen_array(random_tensor<float, 2>(shape, seed)), dtype_of<B>);
}

}  // namespace graft::test
