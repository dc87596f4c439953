// SPDX-License-Identifier: Apache-2.0
// Shapes that stretch to meet each other: axes are matched from the last backwards, missing ones count as 1, and an extent
// of 1 repeats. Read next: tensor/map.hpp.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>

#include "graft/tensor/operand.hpp"

namespace graft::detail {

/// "(2, 3), (2, 4) and (5)"
inline std::string shape_list(std::initializer_list<std::span<const index_t>> shapes) {
  std::string text;
  std::size_t left = shapes.size();
  for (const auto& shape : shapes) {
    text += to_string(shape);
    --left;
    text += left == 0 ? "" : left == 1 ? " and " : ", ";
  }
  return text;
}

/// The shape all these shapes stretch to. Throws shape_error with the operation's name.
template <std::size_t... Ranks>
extents<std::max({Ranks...})> broadcast_shape(std::string_view operation, const extents<Ranks>&... shapes) {
  constexpr std::size_t rank = std::max({Ranks...});
  extents<rank> common;
  common.fill(1);
  const auto meet = [&](std::span<const index_t> shape) {
    for (std::size_t i = 0; i < shape.size(); ++i) {
      const std::size_t axis = rank - shape.size() + i;
      if (common[axis] == 1) common[axis] = shape[i];
      else if (shape[i] != 1 && shape[i] != common[axis])
        throw_error<shape_error>(operation, ": shapes ", shape_list({shapes...}), " do not broadcast at axis ", axis);
    }
  };
  (meet(shapes), ...);
  return common;
}

/// A view stretched to a shape: repeated axes have stride 0. Throws shape_error with the operation's name.
template <class T, std::size_t Rank, std::size_t To>
tensor_view<T, To> broadcast_to(std::string_view operation, tensor_view<T, Rank> x, const extents<To>& shape) {
  tensor_view<T, To> wide(x.data, shape, {});
  bool fits = Rank <= To;
  if constexpr (Rank <= To)
    for (std::size_t i = 0, axis = To - Rank; i < Rank; ++i, ++axis) {
      fits = fits && (x.shape[i] == shape[axis] || x.shape[i] == 1);
      wide.stride[axis] = x.shape[i] == 1 ? 0 : x.stride[i];
    }
  if (!fits)
    throw_error<shape_error>(operation, ": shape ", to_string(x.shape), " does not broadcast to ", to_string(shape));
  return wide;
}

/// First and one-past-last byte that a view's elements take.
template <class T, std::size_t Rank>
std::pair<const std::byte*, const std::byte*> byte_range(tensor_view<T, Rank> x) noexcept {
  index_t first = 0, last = 0;
  for (std::size_t i = 0; i < Rank; ++i) (x.stride[i] < 0 ? first : last) += (x.shape[i] - 1) * x.stride[i];
  return {reinterpret_cast<const std::byte*>(x.data + first), reinterpret_cast<const std::byte*>(x.data + last + 1)};
}

/// Whether writing `out` element by element could change elements of `in` before they are read.
template <class T, class U, std::size_t Rank>
bool disturbs(tensor_view<T, Rank> out, tensor_view<U, Rank> in) noexcept {
  if (out.size() == 0) return false;
  const auto [a, a_end] = byte_range(out);
  const auto [b, b_end] = byte_range(in);
  if (b_end <= a || a_end <= b) return false;
  bool same = a == b && sizeof(T) == sizeof(U);
  for (std::size_t i = 0; i < Rank; ++i) same = same && (out.shape[i] == 1 || out.stride[i] == in.stride[i]);
  return !same;
}

/// An operand that stays as it is while `out` is written: a copy where they overlap, else the operand itself.
template <class T, std::size_t Rank>
struct undisturbed {
  tensor<T, Rank> copy;
  tensor_view<const T, Rank> view;

  template <class U>
  undisturbed(tensor_view<U, Rank> out, tensor_view<const T, Rank> in) : view(in) {
    if (disturbs(out, in)) view = copy = in.clone();
  }
};

}  // namespace graft::detail
