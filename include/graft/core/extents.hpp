// SPDX-License-Identifier: Apache-2.0
// Fixed-rank shapes, shared by everything that has a shape. Read next: core/tensor.hpp.
#pragma once
#include <array>
#include <cstddef>
#include <limits>
#include <span>
#include <string>

#include "graft/core/error.hpp"
#include "graft/core/index.hpp"

namespace graft {

template <std::size_t Rank>
using extents = std::array<index_t, Rank>;

inline constexpr std::size_t max_rank = 4;

/// Number of elements of a shape; 1 for rank 0.
constexpr index_t volume(std::span<const index_t> shape) noexcept {
  index_t n = 1;
  for (index_t e : shape) n *= e;
  return n;
}

/// Strides, in elements, of a contiguous row-major array of this shape.
template <std::size_t Rank>
constexpr extents<Rank> row_major_strides(const extents<Rank>& shape) noexcept {
  extents<Rank> stride{};
  index_t step = 1;
  for (std::size_t i = Rank; i-- > 0;) {
    stride[i] = step;
    step *= shape[i];
  }
  return stride;
}

/// "(2, 3)", as error messages print a shape.
inline std::string to_string(std::span<const index_t> shape) {
  std::string s = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) s += ", ";
    s += std::to_string(shape[i]);
  }
  return s += ')';
}

/// Number of bytes of `shape` elements of `element_bytes` each. Throws shape_error on a negative extent or an overflow:
/// shapes from files come through here before anything is allocated.
inline std::size_t checked_bytes(std::span<const index_t> shape, std::size_t element_bytes) {
  std::size_t bytes = element_bytes;
  for (index_t e : shape) {
    std::size_t product = 0;
    if (e < 0 || __builtin_mul_overflow(bytes, static_cast<std::size_t>(e), &product) ||
        product > static_cast<std::size_t>(std::numeric_limits<index_t>::max()))
      throw_error<shape_error>("shape ", to_string(shape), " of ", element_bytes, "-byte elements is negative or too large");
    bytes = product;
  }
  return bytes;
}

}  // namespace graft
