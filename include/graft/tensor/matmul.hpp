// SPDX-License-Identifier: Apache-2.0
// Matrix products of tensors and views, single and batched, over the dense kernels. Read next: kernel/gemm.hpp for how.
#pragma once
#include "graft/kernel/dot.hpp"
#include "graft/kernel/gemm.hpp"
#include "graft/tensor/broadcast.hpp"

namespace graft {

namespace detail {

template <class T>
bool rows_lie_together(tensor_view<T, 2> x) noexcept { return x.shape[1] == 1 || x.stride[1] == 1; }

/// c = a b for contiguous c. The kernels want rows or columns side by side; what has neither is copied.
template <class T, class E>
void multiply(context& ctx, tensor_view<const T, 2> a, tensor_view<const E, 2> b, tensor_view<T, 2> c) {
  if (c.size() == 0) return;
  if (a.shape[1] == 0) return (void)std::fill_n(c.data, c.size(), T(0));
  tensor<T, 2> a_copy;
  tensor<E, 2> b_copy;
  if (!rows_lie_together(b) && !rows_lie_together(b.transpose())) b = b_copy = b.clone();
  const bool b_columns = rows_lie_together(b.transpose()) && (b.shape[1] == 1 || !rows_lie_together(b));
  if constexpr (std::same_as<T, E>)
    if (!rows_lie_together(a) && rows_lie_together(a.transpose()) && !b_columns) return kernel::matmul_tn<T>(ctx, a.transpose(), b, c);
  if (!rows_lie_together(a)) a = a_copy = a.clone();
  if (b_columns) kernel::matmul_nt<T>(ctx, a, b.transpose(), c);
  else kernel::matmul_nn<T>(ctx, a, b, c);
}

/// The axes before the last two.
template <std::size_t Rank>
extents<Rank - 2> batch_of(const extents<Rank>& e) noexcept {
  extents<Rank - 2> batch;
  std::copy_n(e.begin(), Rank - 2, batch.begin());
  return batch;
}
template <class T, std::size_t Rank>
tensor_view<T, 2> matrix_at(tensor_view<T, Rank> x, index_t n) noexcept {
  return {x.data + offset_of(n, batch_of(x.shape), batch_of(x.stride)), {x.shape[Rank - 2], x.shape[Rank - 1]},
          {x.stride[Rank - 2], x.stride[Rank - 1]}};
}
/// x with its batch axes stretched to `batch`.
template <class T, std::size_t Rank, std::size_t Batch>
tensor_view<T, Batch + 2> batched(tensor_view<T, Rank> x, const extents<Batch>& batch) {
  extents<Batch + 2> shape;
  std::copy_n(batch.begin(), Batch, shape.begin());
  std::copy_n(x.shape.end() - 2, 2, shape.end() - 2);
  return broadcast_to("matmul", x, shape);
}

template <class T, class E, std::size_t A, std::size_t B>
auto matmul_matrices(context& ctx, tensor_view<const T, A> a, tensor_view<const E, B> b) {
  constexpr std::size_t rank = std::max(A, B);
  const index_t n = a.shape[A - 2], m = b.shape[B - 1];
  if (a.shape[A - 1] != b.shape[B - 2])
    throw_error<shape_error>("matmul: a has ", a.shape[A - 1], " columns, b has ", b.shape[B - 2], " rows (a is ",
                             to_string(a.shape), ", b is ", to_string(b.shape), ')');
  const auto batch = broadcast_shape("matmul, batch axes", batch_of(a.shape), batch_of(b.shape));
  extents<rank> shape;
  std::copy_n(batch.begin(), rank - 2, shape.begin());
  shape[rank - 2] = n;
  shape[rank - 1] = m;
  tensor<T, rank> c(shape);
  if constexpr (B == 2)
    if (A > 2 && a.contiguous()) {  // one matrix for the whole batch: one product
      multiply<T, E>(ctx, a.reshape(volume(batch) * n, a.shape[A - 1]), b, c.reshape(volume(batch) * n, m));
      return c;
    }
  const auto as = batched(a, batch);
  const auto bs = batched(b, batch);
  for (index_t i = 0; i < volume(batch); ++i) multiply<T, E>(ctx, matrix_at(as, i), matrix_at(bs, i), matrix_at(c.view(), i));
  return c;
}

template <class T, std::size_t Rank>
tensor_view<T, 2> as_row(tensor_view<T, Rank> x) noexcept { return {x.data, {1, x.shape[0]}, {x.shape[0], x.stride[0]}}; }

}  // namespace detail

/// The matrix product of the last two axes; axes before them are a batch, and broadcast. A vector on the left is a row, one
/// on the right a column, and the result lacks that axis. Shapes: (..., N, K) and (..., K, M) -> (..., N, M).
/// float or double; b may be bf16 or f16 beside a of float, and is then widened on the way. Views of any strides: operands
/// whose rows or columns lie side by side are not copied. Cost: 2 N K M flops a matrix. Throws shape_error.
template <tensor_like A, tensor_like B>
auto matmul(context& ctx, const A& a, const B& b) {
  using T = element_of<A>;
  detail::require_floating<T>();
  static_assert(std::same_as<T, element_of<B>> || (std::same_as<T, float> && storage_only<element_of<B>>),
                "graft: matmul takes one element type, or float and then bf16 or f16: cast<To>(x) one of them");
  static_assert(rank_of<A> >= 1 && rank_of<B> >= 1, "graft: a number is no matrix: use * to scale");
  static_assert(rank_of<A> + rank_of<B> > 2, "graft: matmul of two vectors: use dot()");
  const auto x = detail::const_view(a);
  const auto y = detail::const_view(b);
  if constexpr (rank_of<A> == 1) {
    auto c = detail::matmul_matrices(ctx, detail::as_row(x), y);
    const auto shape = detail::without_axis(c.shape(), rank_of<B> - 2);
    return std::move(c).into_shape(shape);
  } else if constexpr (rank_of<B> == 1) {
    auto c = detail::matmul_matrices(ctx, x, detail::as_row(y).transpose());
    const auto shape = detail::without_axis(c.shape(), rank_of<A> - 1);
    return std::move(c).into_shape(shape);
  } else {
    return detail::matmul_matrices(ctx, x, y);
  }
}
/// The same on the calling thread.
template <tensor_like A, tensor_like B>
auto matmul(const A& a, const B& b) {
  context ctx;
  return matmul(ctx, a, b);
}

/// The inner product of two vectors of float or double. Throws shape_error unless their lengths are equal.
template <tensor_like A, tensor_like B>
element_of<A> dot(const A& a, const B& b) {
  using T = element_of<A>;
  detail::require_floating<T>();
  detail::require_one_type<T, element_of<B>>();
  static_assert(rank_of<A> == 1 && rank_of<B> == 1, "graft: dot() takes two vectors: use matmul()");
  const auto x = detail::const_view(a);
  const auto y = detail::const_view(b);
  if (x.shape != y.shape)
    throw_error<shape_error>("dot: the vectors have ", x.shape[0], " and ", y.shape[0], " elements");
  context ctx;
  T result{};
  detail::multiply<T, T>(ctx, detail::as_row(x), detail::as_row(y).transpose(), {&result, {1, 1}});
  return result;
}

}  // namespace graft
