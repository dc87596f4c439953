// SPDX-License-Identifier: Apache-2.0
// What operations on tensors take: tensors, views of them, and axes counted from either end. Read next: tensor/map.hpp.
#pragma once
#include <cstddef>
#include <string_view>

#include "graft/core/tensor.hpp"

namespace graft {

namespace detail {
template <class X> inline constexpr bool is_tensor = false;
template <class T, std::size_t Rank> inline constexpr bool is_tensor<tensor<T, Rank>> = true;
template <class T, std::size_t Rank> inline constexpr bool is_tensor<tensor_view<T, Rank>> = true;
}  // namespace detail

/// A tensor, or a view of one.
template <class X>
concept tensor_like = detail::is_tensor<std::remove_cvref_t<X>>;

/// Its element type, without const.
template <tensor_like X>
using element_of = typename std::remove_cvref_t<X>::value_type;

/// Its number of axes.
template <tensor_like X>
inline constexpr std::size_t rank_of = std::remove_cvref_t<X>::rank;

namespace detail {

/// x, to read.
template <class T, std::size_t Rank>
tensor_view<const T, Rank> const_view(const tensor<T, Rank>& x) { return x; }
template <class T, std::size_t Rank>
tensor_view<const std::remove_const_t<T>, Rank> const_view(tensor_view<T, Rank> x) { return x; }

/// x, to write.
template <class T, std::size_t Rank>
tensor_view<T, Rank> mutable_view(tensor<T, Rank>& x) { return x; }
template <class T, std::size_t Rank>
tensor_view<T, Rank> mutable_view(tensor_view<T, Rank> x) {
  static_assert(!std::is_const_v<T>, "graft: the elements of this view are const and cannot be written");
  return x;
}

/// Refuses, at compile time, to compute in a type that only stores.
template <class T>
constexpr void require_arithmetic() {
  static_assert(!storage_only<T>, "graft: bf16 and f16 only store numbers: compute on cast<float>(x)");
}
template <class T>
constexpr void require_floating() {
  static_assert(std::floating_point<T>, "graft: this takes tensors of float or double: use cast<float>(x)");
}
template <class T, class... Others>
constexpr void require_one_type() {
  static_assert((std::same_as<T, Others> && ...), "graft: the tensors differ in element type: cast<To>(x) one of them");
}

/// The number of an axis; negative ones count from the end, so that -1 is the last. Throws shape_error.
inline std::size_t checked_axis(std::string_view operation, index_t axis, std::size_t rank) {
  const auto axes = static_cast<index_t>(rank);
  if (axis < -axes || axis >= axes)
    throw_error<shape_error>(operation, ": axis ", axis, " of a tensor of rank ", rank);
  return static_cast<std::size_t>(axis < 0 ? axis + axes : axis);
}

/// The shape without one axis.
template <std::size_t Rank>
constexpr extents<Rank - 1> without_axis(const extents<Rank>& shape, std::size_t axis) noexcept {
  extents<Rank - 1> rest{};
  for (std::size_t from = 0, to = 0; from < Rank; ++from)
    if (from != axis) rest[to++] = shape[from];
  return rest;
}

/// Where the element at position `n`, in row-major order, lies in an array of these strides.
template <std::size_t Rank>
constexpr index_t offset_of(index_t n, const extents<Rank>& shape, const extents<Rank>& stride) noexcept {
  index_t offset = 0;
  for (std::size_t i = Rank; i-- > 0; n /= shape[i]) offset += n % shape[i] * stride[i];
  return offset;
}

/// The axes in an order that has `axis` last, and the order that puts it back.
template <std::size_t Rank>
constexpr std::array<std::size_t, Rank> axis_last(std::size_t axis) noexcept {
  std::array<std::size_t, Rank> order{};
  for (std::size_t i = 0; i < Rank; ++i) order[i] = i < axis ? i : i + 1 < Rank ? i + 1 : axis;
  return order;
}
template <std::size_t Rank>
constexpr std::array<std::size_t, Rank> axis_back(std::size_t axis) noexcept {
  std::array<std::size_t, Rank> order{};
  for (std::size_t i = 0; i < Rank; ++i) order[i] = i < axis ? i : i == axis ? Rank - 1 : i - 1;
  return order;
}

}  // namespace detail

}  // namespace graft
