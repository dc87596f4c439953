// SPDX-License-Identifier: Apache-2.0
// Rows of vectors times a compound matrix C_k(A), forward and backward, by whichever route is the fastest for the size.
// Read next: ops/compound.hpp.
#pragma once
#include "graft/kernel/compound_apply.hpp"

namespace graft::kernel {

/// Whether a route is chosen for C_k(A) x, for its transpose, or for the transpose and the gradient of A.
enum class compound_pass { forward, transposed, gradient };

/// The fastest route for C_k of an (n, n) matrix on so many rows, in float, as bench/kernel/compound.cpp measured it with vectors of
/// 512 bits. Building C_k costs as much as thousands of rows through the gates, so dense wins only where C_k is small, or
/// A itself; the gates work on as many rows at once as two vectors have lanes, so the sandwich wins where rows are few.
constexpr compound_route fastest_route(index_t n, index_t k, index_t rows, compound_pass pass) noexcept {
  const bool gradient = pass == compound_pass::gradient;
  if (k == 1) return n <= 8 && rows >= 64 ? compound_route::gates : compound_route::dense;
  if (k == 2) {
    if (12 * rows <= (gradient ? 9 : 8) * n || (gradient && n >= 40)) return compound_route::sandwich;
    if (n >= 5 && n <= (gradient ? 10 : 16) && 10 * rows >= (gradient ? 20 : 7) * n * n * n) return compound_route::dense;
    return compound_route::gates;
  }
  const index_t size = binomial(n, k);
  return size > 8 && size <= 64 && rows >= (gradient ? 50 : 30) * size ? compound_route::dense : compound_route::gates;
}

namespace detail {

/// A matrix of T in memory of the pool.
template <class T>
struct pooled_matrix {
  buffer_handle room;
  tensor_view<T, 2> view;
  pooled_matrix(context& ctx, index_t rows, index_t columns)
      : room(ctx.pool().take(static_cast<std::size_t>(rows * columns) * sizeof(T))), view(reinterpret_cast<T*>(room.data()), {rows, columns}) {}
};

/// C_(k-1)(A), by way of all the smaller ones; A itself for k = 2, nothing for k = 1.
class compound_before {
 public:
  compound_before(context& ctx, const subset_tables& subsets, index_t k, const double* a) : data_(a) {
    for (index_t level = 2; level < k; ++level) {
      buffer_handle next = ctx.pool().take(static_cast<std::size_t>(subsets.count(level) * subsets.count(level)) * sizeof(double));
      compound_matrix(ctx, subsets, level, a, data_, reinterpret_cast<double*>(next.data()));
      room_ = std::move(next);
      data_ = reinterpret_cast<const double*>(room_.data());
    }
  }
  const double* data() const noexcept { return data_; }

 private:
  buffer_handle room_;
  const double* data_;
};

template <class T>
pooled_matrix<T> built_compound(context& ctx, const subset_tables& subsets, index_t k, const double* a, const compound_before& before) {
  pooled_matrix<T> c(ctx, subsets.count(k), subsets.count(k));
  compound_matrix(ctx, subsets, k, a, before.data(), c.view.data);
  return c;
}

/// A or its transpose in the type of the rows.
template <class T>
pooled_matrix<T> rounded(context& ctx, index_t n, const double* a, bool transposed) {
  pooled_matrix<T> m(ctx, n, n);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = 0; j < n; ++j) m.view(i, j) = static_cast<T>(transposed ? a[j * n + i] : a[i * n + j]);
  return m;
}

template <class Arch>
pooled_matrix<plane_rotation> taken_apart(context& ctx, index_t n, const double* a) {
  pooled_matrix<plane_rotation> turns(ctx, 1, std::max<index_t>(1, rotation_parameters(n)));
  const pooled_matrix<double> room(ctx, n, n);
  plane_rotations<Arch>(n, a, turns.view.data, room.view.data);
  return turns;
}

}  // namespace detail

/// y = C_k(A) x, row by row, + beta y. Whatever the route needs of A is made once. Shapes: a (n, n), a rotation; x and y
/// (N, C(n,k)), rows may lie apart. The sandwich is for k = 2.
template <class T, class Arch = simd::default_arch>
void compound_product(context& ctx, const subset_tables& subsets, index_t k, const double* a, compound_route route, tensor_view<const T, 2> x,
                      tensor_view<T, 2> y, T beta) {
  const index_t n = subsets.n();
  if (route == compound_route::automatic) route = fastest_route(n, k, x.shape[0], compound_pass::forward);
  GRAFT_ASSERT(route != compound_route::sandwich || k == 2);
  if (route == compound_route::gates) {
    const auto turns = detail::taken_apart<Arch>(ctx, n, a);
    return compound_gates<T, Arch>(ctx, subsets, k, turns.view.data, x, y, beta);
  }
  if (route == compound_route::sandwich) return compound_sandwich<T, Arch>(ctx, detail::rounded<T>(ctx, n, a, false).view, x, y, beta);
  const detail::compound_before before(ctx, subsets, k, a);
  matmul_nt<T, Arch>(ctx, x, detail::built_compound<T>(ctx, subsets, k, a, before).view, y, {1, static_cast<double>(beta)});
}

/// dx = C_k(A)^T dy + beta dx, when dx is not empty, and da (n, n) += a gradient of A, when da is not null. Through the gates that
/// gradient is right only for directions in which A stays orthogonal, which are all there are. x is not read without da.
template <class T, class Arch = simd::default_arch>
void compound_product_gradient(context& ctx, const subset_tables& subsets, index_t k, const double* a, compound_route route,
                               tensor_view<const T, 2> x, tensor_view<const T, 2> dy, tensor_view<T, 2> dx, T beta, double* da) {
  const index_t n = subsets.n(), size = subsets.count(k);
  if (dy.shape[0] == 0) return;
  if (route == compound_route::automatic)
    route = fastest_route(n, k, dy.shape[0], da == nullptr ? compound_pass::transposed : compound_pass::gradient);
  GRAFT_ASSERT(route != compound_route::sandwich || k == 2);
  if (route == compound_route::gates) {
    const auto turns = detail::taken_apart<Arch>(ctx, n, a);
    return compound_gates_gradient<T, Arch>(ctx, subsets, k, turns.view.data, a, x, dy, dx, beta, da);
  }
  if (route == compound_route::sandwich)
    return compound_sandwich<T, Arch>(ctx, detail::rounded<T>(ctx, n, a, true).view, dy, dx, beta, x, da);
  const detail::compound_before before(ctx, subsets, k, a);
  if (dx.data != nullptr)
    matmul_nn<T, Arch>(ctx, dy, detail::built_compound<T>(ctx, subsets, k, a, before).view, dx, {1, static_cast<double>(beta)});
  if (da == nullptr) return;
  const detail::pooled_matrix<T> dc(ctx, size, size);
  matmul_tn<T, Arch>(ctx, dy, x, dc.view);
  compound_matrix_gradient(ctx, subsets, k, before.data(), dc.view.data, da);
}

}  // namespace graft::kernel
