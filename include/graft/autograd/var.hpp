// SPDX-License-Identifier: Apache-2.0
// A value on a tape, and where a leaf's gradient gathers. Read next: autograd/tape.hpp.
#pragma once
#include <cstdint>

#include "graft/core/pool.hpp"
#include "graft/core/tensor.hpp"

namespace graft {

using node_id = std::int32_t;
inline constexpr node_id no_node = -1;  // "no gradient flows here": frozen and constant values

/// A value, what keeps its memory alive, and where it sits on the tape. Contiguous. Copies share the elements; only the
/// operation that made a var writes to it.
template <class T, std::size_t Rank>
struct var {
  tensor_view<T, Rank> value;
  buffer_handle storage;  // empty when somebody else owns the elements: parameters, constants
  node_id id = no_node;

  bool needs_grad() const noexcept { return id != no_node; }
  const extents<Rank>& shape() const noexcept { return value.shape; }
  /// The number itself: of a loss, say.
  T item() const noexcept
    requires(Rank == 0)
  {
    return *value.data;
  }
};

/// Where a leaf's gradient gathers: as many elements as the leaf has. While `written` is false the elements mean nothing
/// and the next writer overwrites them, so nobody ever clears memory.
template <class T>
struct gradient_slot {
  T* data = nullptr;
  bool written = false;
};

/// A value that a backward pass will ask its tape for: kept, or to be computed again by the node that made it.
template <class T, std::size_t Rank>
struct retained {
  tensor_view<const T, Rank> view;  // without data where it is to be computed again
  node_id maker = no_node;
};

/// view = beta * view + g. The first writer gets beta 0, with no memset and no temporary.
template <class T, std::size_t Rank>
struct accumulator {
  tensor_view<T, Rank> view;
  T beta;
};

}  // namespace graft
