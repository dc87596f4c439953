// SPDX-License-Identifier: Apache-2.0
// A compound matrix on many vectors without building it: as plane rotations of amplitudes, any order, or as A X A^T, order 2;
// and which way is the fastest. Read next: ops/compound.hpp.
#pragma once
#include <algorithm>

#include "graft/kernel/cayley.hpp"
#include "graft/kernel/compound.hpp"
#include "graft/kernel/gemm.hpp"

namespace graft::kernel {

/// How C_k(A) is applied: built and multiplied, by plane rotations, or as A X A^T (order 2 alone).
enum class compound_route { automatic, dense, gates, sandwich };

namespace detail {

/// Rows that one set of vectors holds, one a lane.
template <class T, class Arch>
inline constexpr index_t gate_rows = 2 * simd::width<T, Arch>;

/// y[i][j] = panel[j][i] + beta y[i][j] for `rows` rows of y: what pack_rows() does, undone.
template <class T, class Arch>
void unpack_rows(const T* panel, index_t ld, index_t rows, index_t columns, T* y, index_t row_step, T beta) {
  constexpr index_t lanes = simd::width<T, Arch>;
  using batch = simd::batch<T, Arch>;
  for (index_t i = 0; i < rows; i += lanes)
    for (index_t j = 0; j < columns; j += lanes) {
      const index_t count = std::min(lanes, columns - j);
      batch block[static_cast<std::size_t>(lanes)];
      for (index_t c = 0; c < lanes; ++c) block[c] = c < count ? simd::load<T, Arch>(panel + (j + c) * ld + i) : batch(T(0));
      simd::transpose(block);
      for (index_t r = 0; r < std::min(lanes, rows - i); ++r) {
        T* const to = y + (i + r) * row_step + j;
        simd::store_first(to, beta == T(0) ? block[r] : simd::fma(batch(beta), simd::load_first<T, Arch>(to, count), block[r]), count);
      }
    }
}

/// Turns the amplitudes v (C(n,k), gate_rows) by one plane rotation: pairs of subsets that differ in its two coordinates.
template <class T, class Arch>
void turn_amplitudes(const subset_tables& subsets, index_t k, index_t q, double cosine, double sine, T* v) {
  using batch = simd::batch<T, Arch>;
  constexpr index_t lanes = simd::width<T, Arch>, rows = gate_rows<T, Arch>;
  const batch c(static_cast<T>(cosine)), s(static_cast<T>(sine));
  const subset_tables::pair* const pairs = subsets.neighbours(k, q);
  for (index_t p = 0, count = subsets.pairs(k); p < count; ++p) {
    T *const x = v + pairs[p].first * rows, *const y = v + pairs[p].second * rows;
    for (index_t j = 0; j < rows; j += lanes) {
      const batch a = simd::load<T, Arch>(x + j), b = simd::load<T, Arch>(y + j);
      simd::store(x + j, c * a - s * b);
      simd::store(y + j, simd::fma(s, a, c * b));
    }
  }
}

template <class T, class Arch>
void turn_all(const subset_tables& subsets, index_t k, const plane_rotation* turns, T* v) {
  for (index_t i = 0, count = rotation_parameters(subsets.n()); i < count; ++i)
    turn_amplitudes<T, Arch>(subsets, k, turns[i].first, turns[i].cosine, turns[i].sine, v);
}
template <class T, class Arch>
void turn_all_back(const subset_tables& subsets, index_t k, const plane_rotation* turns, T* v) {
  for (index_t i = rotation_parameters(subsets.n()); i-- > 0;)
    turn_amplitudes<T, Arch>(subsets, k, turns[i].first, turns[i].cosine, -turns[i].sine, v);
}

/// Room that add_plane_derivatives() takes, in numbers.
template <class T, class Arch>
constexpr index_t derivative_room(index_t n) {
  return rotation_parameters(n) * simd::width<T, Arch> + n * (2 * gate_rows<T, Arch> + 1);
}

/// sums(i, j) += the derivative of a turn of x in the plane of i < j, given the gradient g of the amplitudes x. The amplitudes of
/// S with i and S with j go together, with a minus for every element of S between the two: so, for every S of k - 1, those of
/// S with each j are gathered with minus signs for the elements of S below j.
template <class T, class Arch>
void add_plane_derivatives(const subset_tables& subsets, index_t k, const T* x, const T* g, double* sums, T* room) {
  using batch = simd::batch<T, Arch>;
  constexpr index_t lanes = simd::width<T, Arch>, rows = gate_rows<T, Arch>;
  const index_t n = subsets.n(), planes = rotation_parameters(n);
  T *const sum = room, *const xs = sum + planes * lanes, *const gs = xs + n * rows;
  std::int32_t* const which = reinterpret_cast<std::int32_t*>(gs + n * rows);
  std::fill_n(sum, planes * lanes, T(0));
  for (index_t s = 0; s < subsets.count(k - 1); ++s) {
    const std::int32_t* const with = subsets.with(k, s);
    index_t count = 0;
    batch sign(T(1));
    for (index_t j = 0; j < n; ++j) {
      if (with[j] < 0) {
        sign = batch(T(0)) - sign;
        continue;
      }
      for (index_t l = 0; l < rows; l += lanes) {
        simd::store(xs + count * rows + l, sign * simd::load<T, Arch>(x + with[j] * rows + l));
        simd::store(gs + count * rows + l, sign * simd::load<T, Arch>(g + with[j] * rows + l));
      }
      which[count++] = static_cast<std::int32_t>(j);
    }
    for (index_t p = 0; p < count; ++p) {
      const index_t i = which[p];
      T* const row = sum + (i * n - i * (i + 1) / 2 - i - 1) * lanes;  // of the planes (i, j)
      const T *const xi = xs + p * rows, *const gi = gs + p * rows;
      const batch x0 = simd::load<T, Arch>(xi), x1 = simd::load<T, Arch>(xi + lanes);
      const batch g0 = batch(T(0)) - simd::load<T, Arch>(gi), g1 = batch(T(0)) - simd::load<T, Arch>(gi + lanes);
      for (index_t q = p + 1; q < count; ++q) {
        const T *const xj = xs + q * rows, *const gj = gs + q * rows;
        T* const to = row + which[q] * lanes;
        const batch a = simd::fma(g0, simd::load<T, Arch>(xj), simd::fma(x0, simd::load<T, Arch>(gj), simd::load<T, Arch>(to)));
        simd::store(to, a + simd::fma(g1, simd::load<T, Arch>(xj + lanes), x1 * simd::load<T, Arch>(gj + lanes)));
      }
    }
  }
  for (index_t p = 0; p < planes; ++p) sums[p] += static_cast<double>(simd::sum(simd::load<T, Arch>(sum + p * lanes)));
}

}  // namespace detail

/// y = C_k(A) x, row by row, + beta y. A comes as plane rotations. Shapes: x and y (N, C(n,k)), rows may lie apart.
/// Cost: 3 n (n-1) C(n-2, k-1) flops a row, and two transpositions.
template <class T, class Arch = simd::default_arch>
void compound_gates(context& ctx, const subset_tables& subsets, index_t k, const plane_rotation* turns, tensor_view<const T, 2> x,
                    tensor_view<T, 2> y, T beta) {
  constexpr index_t block = detail::gate_rows<T, Arch>;
  const index_t size = x.shape[1];
  ctx.scratch().reserve(static_cast<std::size_t>(size * block) * sizeof(T));
  ctx.executor().parallel_for(x.shape[0], block, [&](index_t begin, index_t end) {
    for (index_t r = begin; r < end; r += block) {
      const auto lease = ctx.scratch().take();
      T* const v = lease.template as<T>();
      const index_t rows = std::min(block, end - r);
      pack_rows<T, Arch>(x.data + r * x.stride[0], x.stride[0], rows, size, v, block);
      detail::turn_all<T, Arch>(subsets, k, turns, v);
      detail::unpack_rows<T, Arch>(v, block, rows, size, y.data + r * y.stride[0], y.stride[0], beta);
    }
  });
}

/// dx = C_k(A)^T dy + beta dx, when dx is not empty; and da (n, n) += a gradient of A, right for every direction in which A stays
/// orthogonal, when da is not null. The amplitudes go back through the rotations once; nothing of the forward pass is needed but
/// x. A turn of x in the plane (i, j) changes the result at a rate that x and C_k(A)^T dy alone give; A times these rates is
/// the gradient. Cost: 5 n (n-1) C(n-2, k-1) flops a row.
template <class T, class Arch = simd::default_arch>
void compound_gates_gradient(context& ctx, const subset_tables& subsets, index_t k, const plane_rotation* turns, const double* a,
                             tensor_view<const T, 2> x, tensor_view<const T, 2> dy, tensor_view<T, 2> dx, T beta, double* da) {
  constexpr index_t block = detail::gate_rows<T, Arch>, most_chunks = 32;
  const index_t size = dy.shape[1], n = subsets.n(), planes = rotation_parameters(n), rows = dy.shape[0];
  const index_t chunk = std::max<index_t>(1, (rows + most_chunks * block - 1) / (most_chunks * block)) * block;
  const index_t chunks = (rows + chunk - 1) / chunk;
  const buffer_handle held = ctx.pool().take(static_cast<std::size_t>(chunks * planes) * sizeof(double));
  double* const sums = reinterpret_cast<double*>(held.data());
  std::fill_n(sums, chunks * planes, 0.0);
  ctx.scratch().reserve(static_cast<std::size_t>(2 * size * block + detail::derivative_room<T, Arch>(n)) * sizeof(T));
  ctx.executor().parallel_for(rows, chunk, [&](index_t begin, index_t end) {
    const auto lease = ctx.scratch().take();
    T *const g = lease.template as<T>(), *const v = g + size * block, *const room = v + size * block;
    for (index_t r = begin; r < end; r += block) {
      const index_t count = std::min(block, end - r);
      pack_rows<T, Arch>(dy.data + r * dy.stride[0], dy.stride[0], count, size, g, block);
      detail::turn_all_back<T, Arch>(subsets, k, turns, g);
      if (dx.data != nullptr) detail::unpack_rows<T, Arch>(g, block, count, size, dx.data + r * dx.stride[0], dx.stride[0], beta);
      if (da == nullptr) continue;
      pack_rows<T, Arch>(x.data + r * x.stride[0], x.stride[0], count, size, v, block);
      detail::add_plane_derivatives<T, Arch>(subsets, k, v, g, sums + begin / chunk * planes, room);
    }
  });
  if (da == nullptr) return;
  for (index_t i = 0, p = 0; i < n; ++i)
    for (index_t j = i + 1; j < n; ++j, ++p) {
      double rate = 0;
      for (index_t c = 0; c < chunks; ++c) rate += sums[c * planes + p];
      for (index_t r = 0; r < n; ++r) da[r * n + i] += a[r * n + j] * rate;
    }
}

namespace detail {

/// Rows whose antisymmetric matrices are worked on at a time: what fits the second-level cache.
template <class T>
index_t sandwich_rows(index_t n) {
  return std::max<index_t>(8, (index_t{256} << 10) / (n * n * static_cast<index_t>(sizeof(T))));
}

/// Rows of n(n-1)/2 numbers as antisymmetric matrices (n, n), one after another.
template <class T>
void spread(context& ctx, index_t n, tensor_view<const T, 2> x, T* to) {
  ctx.executor().parallel_for(x.shape[0], 4, [&](index_t begin, index_t end) {
    for (index_t r = begin; r < end; ++r) {
      const T* from = x.data + r * x.stride[0];
      T* const m = to + r * n * n;
      for (index_t i = 0; i < n; ++i) {
        m[i * n + i] = 0;
        for (index_t j = i + 1; j < n; ++j) {
          const T v = *from++;
          m[i * n + j] = v;
          m[j * n + i] = -v;
        }
      }
    }
  });
}

/// Each of `count` matrices (n, n) becomes minus its transpose.
template <class T>
void turn_over(context& ctx, index_t n, index_t count, T* matrices) {
  ctx.executor().parallel_for(count, 4, [&](index_t begin, index_t end) {
    for (T *m = matrices + begin * n * n, *const last = matrices + end * n * n; m != last; m += n * n)
      for (index_t i = 0; i < n; ++i) {
        m[i * n + i] = -m[i * n + i];
        for (index_t j = i + 1; j < n; ++j) {
          const T v = m[i * n + j];
          m[i * n + j] = -m[j * n + i];
          m[j * n + i] = -v;
        }
      }
  });
}

/// y = beta y + the upper triangles of matrices (n, n).
template <class T>
void gather_upper(context& ctx, index_t n, const T* matrices, tensor_view<T, 2> y, T beta) {
  ctx.executor().parallel_for(y.shape[0], 4, [&](index_t begin, index_t end) {
    for (index_t r = begin; r < end; ++r) {
      T* to = y.data + r * y.stride[0];
      for (index_t i = 0; i < n; ++i)
        for (index_t j = i + 1; j < n; ++j, ++to) {
          const T v = matrices[(r * n + i) * n + j];
          *to = beta == T(0) ? v : beta * *to + v;
        }
    }
  });
}

}  // namespace detail

/// y = C_2(A) x, row by row, + beta y: the upper triangle of A X A^T with the row as an antisymmetric X. With `dx` for y, dy for
/// x and A^T for A it is the gradient of x; then x itself and da (n, n) give da += the gradient of A besides. Two products of
/// depth n over all rows. Shapes: x and y (N, n(n-1)/2), a (n, n). Cost: 4 n^3 flops a row; 6 n^3 with da.
template <class T, class Arch = simd::default_arch>
void compound_sandwich(context& ctx, tensor_view<const T, 2> a, tensor_view<const T, 2> x, tensor_view<T, 2> y, T beta,
                       tensor_view<const T, 2> forward_x = {}, double* da = nullptr) {
  const index_t n = a.shape[0], rows = x.shape[0], most = std::min(rows, detail::sandwich_rows<T>(n));
  const buffer_handle room = ctx.pool().take(static_cast<std::size_t>((2 * most + 1) * n * n) * sizeof(T));
  T *const spread = reinterpret_cast<T*>(room.data()), *const product = spread + most * n * n, *const sum = product + most * n * n;
  for (index_t r = 0; r < rows; r += most) {
    const index_t count = std::min(most, rows - r);
    const tensor_view<T, 2> stacked(spread, {count * n, n}), half(product, {count * n, n});
    detail::spread<T>(ctx, n, x.slice(0, r, r + count), spread);
    matmul_nt<T, Arch>(ctx, stacked, a, half);  // X A^T, of which A X is minus the transpose
    detail::turn_over<T>(ctx, n, count, product);
    if (y.data != nullptr) {
      matmul_nt<T, Arch>(ctx, half, a, stacked);
      detail::gather_upper<T>(ctx, n, spread, y.slice(0, r, r + count), beta);
    }
    if (da == nullptr) continue;
    detail::spread<T>(ctx, n, forward_x.slice(0, r, r + count), spread);
    matmul_tn<T, Arch>(ctx, half, stacked, tensor_view<T, 2>(sum, {n, n}), {1, r == 0 ? 0.0 : 1.0});
  }
  if (da != nullptr && rows != 0)
    for (index_t i = 0; i < n * n; ++i) da[i] += static_cast<double>(sum[i]);
}

}  // namespace graft::kernel
