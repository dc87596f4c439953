// SPDX-License-Identifier: Apache-2.0
// Elements and rows picked by number, and rows added back by number. Read next: tensor/sort.hpp.
#pragma once
#include <cstdint>
#include <limits>

#include "graft/kernel/embedding.hpp"
#include "graft/tensor/create.hpp"

namespace graft {

namespace detail {

template <class I>
void check_index(std::string_view operation, I at, std::size_t axis, std::span<const index_t> shape) {
  static_assert(std::integral<I>, "graft: indices are integers");
  if (!(at >= 0 && static_cast<std::uint64_t>(at) < static_cast<std::uint64_t>(shape[axis])))
    throw_error<shape_error>(operation, ": index ", at, " does not lie in axis ", axis, " of ", to_string(shape));
}

}  // namespace detail

/// The slices of x at these positions of an axis, in their order; positions may repeat.
/// Shapes: indices (N), integers; the axis of the result has extent N. Throws shape_error for an index outside the axis.
template <tensor_like X, tensor_like I>
auto take(const X& x, const I& indices, index_t axis = 0) {
  static_assert(rank_of<X> > 0, "graft: a number of rank 0 has nothing to take from");
  static_assert(rank_of<I> == 1, "graft: take() wants its indices as a vector: see also take_along()");
  const auto from = detail::const_view(x);
  const auto ids = detail::const_view(indices);
  const std::size_t a = detail::checked_axis("take", axis, rank_of<X>);
  auto shape = from.shape;
  shape[a] = ids.shape[0];
  for (index_t i = 0; i < shape[a]; ++i) detail::check_index("take", ids(i), a, from.shape);
  tensor<element_of<X>, rank_of<X>> taken(shape);
  for (index_t i = 0; i < shape[a]; ++i) copy_into(taken.select(a, i), from.select(a, static_cast<index_t>(ids(i))));
  return taken;
}
template <tensor_like X>
auto take(const X& x, std::initializer_list<index_t> indices, index_t axis = 0) {
  return take(x, tensor_view<const index_t, 1>(std::span(indices.begin(), indices.size()), {std::ssize(indices)}), axis);
}

/// out(..., i, ...) = x(..., indices(..., i, ...), ...): what argsort() and top_k() point at.
/// Shapes: those of x and of the indices are equal but for the axis. Throws shape_error.
template <tensor_like X, tensor_like I>
auto take_along(const X& x, const I& indices, index_t axis = -1) {
  static_assert(rank_of<X> == rank_of<I>, "graft: take_along() wants indices of the rank of x: see also take()");
  constexpr std::size_t rank = rank_of<X>;
  const auto from = detail::const_view(x);
  const auto ids = detail::const_view(indices);
  const std::size_t a = detail::checked_axis("take_along", axis, rank);
  for (std::size_t i = 0; i < rank; ++i)
    if (i != a && from.shape[i] != ids.shape[i])
      throw_error<shape_error>("take_along: x is ", to_string(from.shape), ", the indices are ", to_string(ids.shape));
  tensor<element_of<X>, rank> taken(ids.shape);
  auto line = from.stride;  // every line along the axis starts where the index is 0
  line[a] = 0;
  for (index_t n = 0; n < taken.size(); ++n) {
    const auto at = ids.data[detail::offset_of(n, ids.shape, ids.stride)];
    detail::check_index("take_along", at, a, from.shape);
    taken.data()[n] = from.data[detail::offset_of(n, ids.shape, line) + static_cast<index_t>(at) * from.stride[a]];
  }
  return taken;
}

/// table(indices(n), .) += rows(n, .), in the order of n; indices may repeat.
/// Shapes: table (V, C), its rows contiguous, indices (N), integers, rows (N, C). Throws shape_error, before any change.
template <tensor_like Table, tensor_like I, tensor_like Rows>
void scatter_rows_add(context& ctx, Table&& table, const I& indices, const Rows& rows) {
  using T = element_of<Table>;
  detail::require_arithmetic<T>();
  detail::require_one_type<T, element_of<Rows>>();
  static_assert(rank_of<Table> == 2 && rank_of<Rows> == 2 && rank_of<I> == 1, "graft: scatter_rows_add() takes a matrix, a vector of indices and a matrix");
  const auto to = detail::mutable_view(table);
  const auto ids = detail::const_view(indices);
  const auto from = detail::const_view(rows);
  if (from.shape != extents<2>{ids.shape[0], to.shape[1]})
    throw_error<shape_error>("scatter_rows_add: ", ids.shape[0], " indices into ", to_string(to.shape), " meet rows of shape ", to_string(from.shape));
  if (to.shape[1] != 1 && to.stride[1] != 1) throw_error<shape_error>("scatter_rows_add: the rows of the table are not contiguous");
  if (to.shape[0] > std::numeric_limits<std::int32_t>::max())
    throw_error<shape_error>("scatter_rows_add: a table of ", to.shape[0], " rows is too large");
  tensor<std::int32_t, 1> checked(ids.shape);
  for (index_t n = 0; n < ids.shape[0]; ++n) {
    detail::check_index("scatter_rows_add", ids(n), 0, to.shape);
    checked(n) = static_cast<std::int32_t>(ids(n));
  }
  const tensor<T, 2> values = from.clone();
  kernel::scatter_rows<T>(ctx, values.data(), checked.data(), ids.shape[0], to, T(1));
}
template <tensor_like Table, tensor_like I, tensor_like Rows>
void scatter_rows_add(Table&& table, const I& indices, const Rows& rows) {
  context ctx;
  scatter_rows_add(ctx, table, indices, rows);
}

}  // namespace graft
