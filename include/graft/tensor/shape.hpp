// SPDX-License-Identifier: Apache-2.0
// Tensors put together and taken apart: axes inserted, parts joined, split, repeated and padded. What only looks at the
// same elements (slice, select, transpose, permute, reshape) is a member of tensor and tensor_view.
// Read next: tensor/gather.hpp.
#pragma once
#include <span>
#include <vector>

#include "graft/tensor/create.hpp"

namespace graft {

namespace detail {

template <std::size_t Rank>
extents<Rank + 1> with_axis(const extents<Rank>& shape, std::size_t axis, index_t extent) noexcept {
  extents<Rank + 1> longer{};
  for (std::size_t to = 0, from = 0; to <= Rank; ++to) longer[to] = to == axis ? extent : shape[from++];
  return longer;
}

}  // namespace detail

/// The same elements with an axis of extent 1 put before axis `at`; -1 makes it the last. A view shares them; a temporary
/// tensor is taken over: `x - insert_axis(mean(x, 1), 1)`. Throws shape_error.
template <class T, std::size_t Rank>
tensor_view<T, Rank + 1> insert_axis(tensor_view<T, Rank> x, index_t at) {
  const std::size_t axis = detail::checked_axis("insert_axis", at, Rank + 1);
  return {x.data, detail::with_axis(x.shape, axis, 1), detail::with_axis(x.stride, axis, 1)};
}
template <class T, std::size_t Rank>
tensor_view<T, Rank + 1> insert_axis(tensor<T, Rank>& x, index_t at) { return insert_axis(x.view(), at); }
template <class T, std::size_t Rank>
tensor_view<const T, Rank + 1> insert_axis(const tensor<T, Rank>& x, index_t at) { return insert_axis(x.view(), at); }
template <class T, std::size_t Rank>
tensor<T, Rank + 1> insert_axis(tensor<T, Rank>&& x, index_t at) {
  return std::move(x).into_shape(detail::with_axis(x.shape(), detail::checked_axis("insert_axis", at, Rank + 1), 1));
}

/// The parts one after another along an axis. Throws shape_error when another axis differs, or there are no parts.
template <class T, std::size_t Rank>
tensor<std::remove_const_t<T>, Rank> concatenate(index_t axis, std::span<const tensor_view<T, Rank>> parts) {
  static_assert(Rank > 0, "graft: numbers of rank 0 have no axis to join along: stack() them");
  const std::size_t a = detail::checked_axis("concatenate", axis, Rank);
  if (parts.empty()) throw_error<shape_error>("concatenate: there is nothing to join");
  extents<Rank> shape = parts[0].shape;
  shape[a] = 0;
  for (const auto& part : parts) {
    for (std::size_t i = 0; i < Rank; ++i)
      if (i != a && part.shape[i] != shape[i])
        throw_error<shape_error>("concatenate: ", to_string(parts[0].shape), " and ", to_string(part.shape), " differ at axis ",
                                 i, ", not only at axis ", a);
    shape[a] += part.shape[a];
  }
  tensor<std::remove_const_t<T>, Rank> whole(shape);
  index_t at = 0;
  for (const auto& part : parts) {
    copy_into(whole.slice(a, at, at + part.shape[a]), part);
    at += part.shape[a];
  }
  return whole;
}
template <class T, std::size_t Rank>
auto concatenate(index_t axis, const std::vector<tensor_view<T, Rank>>& parts) {
  return concatenate(axis, std::span<const tensor_view<T, Rank>>(parts));
}
template <tensor_like X, tensor_like... Others>
auto concatenate(index_t axis, const X& x, const Others&... others) {
  detail::require_one_type<element_of<X>, element_of<Others>...>();
  static_assert(((rank_of<X> == rank_of<Others>) && ...), "graft: tensors of different rank are joined");
  using view = tensor_view<const element_of<X>, rank_of<X>>;
  const view parts[] = {detail::const_view(x), detail::const_view(others)...};
  return concatenate(axis, std::span<const view>(parts));
}

/// Tensors of one shape side by side along a new axis. Throws shape_error when the shapes differ.
template <tensor_like X, tensor_like... Others>
auto stack(index_t axis, const X& x, const Others&... others) {
  static_assert(rank_of<X> < max_rank, "graft: tensors have at most four dimensions");
  const std::size_t a = detail::checked_axis("stack", axis, rank_of<X> + 1);
  const auto shape = detail::const_view(x).shape;
  const auto check = [&](const auto& other) {
    if (other.shape != shape)
      throw_error<shape_error>("stack: the shapes differ: ", to_string(shape), " and ", to_string(other.shape));
  };
  (check(detail::const_view(others)), ...);
  const auto at = static_cast<index_t>(a);
  return concatenate(at, insert_axis(detail::const_view(x), at), insert_axis(detail::const_view(others), at)...);
}

/// Views of consecutive parts of these sizes along an axis. Throws shape_error unless they add up to its extent.
template <class T, std::size_t Rank>
std::vector<tensor_view<T, Rank>> split(tensor_view<T, Rank> x, std::initializer_list<index_t> sizes, index_t axis = 0) {
  const std::size_t a = detail::checked_axis("split", axis, Rank);
  std::vector<tensor_view<T, Rank>> parts;
  index_t at = 0;
  for (const index_t size : sizes) {
    if (size < 0 || size > x.shape[a] - at)
      throw_error<shape_error>("split: a part of ", size, " after ", at, " does not fit in axis ", a, " of ", to_string(x.shape));
    parts.push_back(x.slice(a, at, at + size));
    at += size;
  }
  if (at != x.shape[a])
    throw_error<shape_error>("split: the parts make ", at, " of the ", x.shape[a], " in axis ", a, " of ", to_string(x.shape));
  return parts;
}
/// The same in equal parts. Throws shape_error unless the extent is a multiple of `parts`.
template <class T, std::size_t Rank>
std::vector<tensor_view<T, Rank>> split(tensor_view<T, Rank> x, index_t parts, index_t axis = 0) {
  const std::size_t a = detail::checked_axis("split", axis, Rank);
  if (parts < 1 || x.shape[a] % parts != 0)
    throw_error<shape_error>("split: axis ", a, " of ", to_string(x.shape), " does not fall into ", parts, " equal parts");
  const index_t size = x.shape[a] / parts;
  std::vector<tensor_view<T, Rank>> views;
  for (index_t i = 0; i < parts; ++i) views.push_back(x.slice(a, i * size, (i + 1) * size));
  return views;
}
template <class T, std::size_t Rank>
auto split(tensor<T, Rank>& x, std::initializer_list<index_t> sizes, index_t axis = 0) { return split(x.view(), sizes, axis); }
template <class T, std::size_t Rank>
auto split(const tensor<T, Rank>& x, std::initializer_list<index_t> sizes, index_t axis = 0) { return split(x.view(), sizes, axis); }
template <class T, std::size_t Rank>
auto split(tensor<T, Rank>& x, index_t parts, index_t axis = 0) { return split(x.view(), parts, axis); }
template <class T, std::size_t Rank>
auto split(const tensor<T, Rank>& x, index_t parts, index_t axis = 0) { return split(x.view(), parts, axis); }
template <class T, std::size_t Rank>  // the parts would look at elements that are about to go
void split(tensor<T, Rank>&&, std::initializer_list<index_t>, index_t = 0) = delete;
template <class T, std::size_t Rank>
void split(tensor<T, Rank>&&, index_t, index_t = 0) = delete;

/// x repeated as a whole, `times` times along an axis. Throws shape_error for times < 0.
template <tensor_like X>
auto tile(const X& x, index_t times, index_t axis = 0) {
  const auto from = detail::const_view(x);
  const std::size_t a = detail::checked_axis("tile", axis, rank_of<X>);
  auto shape = from.shape;
  if (times < 0 || __builtin_mul_overflow(shape[a], times, &shape[a]))
    throw_error<shape_error>("tile: axis ", a, " of ", to_string(from.shape), " cannot be repeated ", times, " times");
  tensor<element_of<X>, rank_of<X>> whole(shape);
  for (index_t i = 0; i < times; ++i) copy_into(whole.slice(a, i * from.shape[a], (i + 1) * from.shape[a]), from);
  return whole;
}

/// x with `before` and `after` elements of one value put at the ends of an axis. Throws shape_error when either is < 0.
template <tensor_like X>
auto pad(const X& x, index_t axis, index_t before, index_t after, std::type_identity_t<element_of<X>> value = {}) {
  const auto from = detail::const_view(x);
  const std::size_t a = detail::checked_axis("pad", axis, rank_of<X>);
  if (before < 0 || after < 0) throw_error<shape_error>("pad: ", before, " and ", after, " elements cannot be added");
  auto shape = from.shape;
  shape[a] += before + after;
  auto whole = tensor<element_of<X>, rank_of<X>>::full(shape, value);
  copy_into(whole.slice(a, before, before + from.shape[a]), from);
  return whole;
}

}  // namespace graft
