// SPDX-License-Identifier: Apache-2.0
// Rotations of n dimensions from n(n-1)/2 free numbers, by Cayley's transform or a pyramid of plane rotations, with their
// gradients; and a rotation taken apart into plane rotations again. Read next: kernel/compound.hpp, which enlarges them.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>

#include "graft/core/tensor.hpp"
#include "graft/simd/simd.hpp"

namespace graft::kernel {

/// Free numbers of a rotation of n dimensions.
constexpr index_t rotation_parameters(index_t n) noexcept { return n * (n - 1) / 2; }

/// x_q' = c x_q - s x_(q+1), x_(q+1)' = s x_q + c x_(q+1): a rotation in the plane of two neighbouring coordinates.
struct plane_rotation {
  index_t first;  // q
  double cosine, sine;
};

namespace detail {

/// y += alpha x
template <class Arch>
void add_multiple(index_t n, double alpha, const double* x, double* y) {
  using batch = simd::batch<double, Arch>;
  constexpr index_t w = simd::width<double, Arch>;
  index_t i = 0;
  for (; i + w <= n; i += w) simd::store(y + i, simd::fma(batch(alpha), simd::load<double, Arch>(x + i), simd::load<double, Arch>(y + i)));
  for (; i < n; ++i) y[i] += alpha * x[i];
}

/// Turns the rows x and y of n elements as the coordinates q and q + 1.
template <class Arch>
void turn_rows(index_t n, double cosine, double sine, double* x, double* y) {
  using batch = simd::batch<double, Arch>;
  constexpr index_t w = simd::width<double, Arch>;
  index_t i = 0;
  for (const batch c(cosine), s(sine); i + w <= n; i += w) {
    const batch u = simd::load<double, Arch>(x + i), v = simd::load<double, Arch>(y + i);
    simd::store(x + i, c * u - s * v);
    simd::store(y + i, s * u + c * v);
  }
  for (; i < n; ++i) {
    const double u = x[i], v = y[i];
    x[i] = cosine * u - sine * v;
    y[i] = sine * u + cosine * v;
  }
}

inline void set_identity(index_t n, double* a) {
  std::fill_n(a, n * n, 0.0);
  for (index_t i = 0; i < n; ++i) a[i * n + i] = 1;
}

/// x = m^-1 x by elimination with partial pivoting; m is used up.
template <class Arch>
void solve_in_place(index_t n, double* m, double* x) {
  for (index_t k = 0; k < n; ++k) {
    index_t pivot = k;
    for (index_t i = k + 1; i < n; ++i)
      if (std::abs(m[i * n + k]) > std::abs(m[pivot * n + k])) pivot = i;
    if (pivot != k) {
      std::swap_ranges(m + k * n + k, m + (k + 1) * n, m + pivot * n + k);
      std::swap_ranges(x + k * n, x + (k + 1) * n, x + pivot * n);
    }
    for (index_t i = k + 1; i < n; ++i) {
      const double f = m[i * n + k] / m[k * n + k];
      if (f == 0) continue;
      add_multiple<Arch>(n - k - 1, -f, m + k * n + k + 1, m + i * n + k + 1);
      add_multiple<Arch>(n, -f, x + k * n, x + i * n);
    }
  }
  for (index_t k = n; k-- > 0;) {
    for (index_t i = k + 1; i < n; ++i) add_multiple<Arch>(n, -m[k * n + i], x + i * n, x + k * n);
    for (index_t j = 0; j < n; ++j) x[k * n + j] /= m[k * n + k];
  }
}

}  // namespace detail

/// A = (I + S) (I - S)^-1, where p is the strict upper triangle of the skew matrix S, row by row. All rotations without the
/// eigenvalue -1; p = 0 gives the identity. Shapes: p (n(n-1)/2), a (n, n); room for n^2. Cost: 8/3 n^3 flops.
template <class T, class Arch = simd::default_arch>
void cayley(index_t n, const T* p, double* a, double* room) {
  detail::set_identity(n, a);
  detail::set_identity(n, room);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = i + 1; j < n; ++j) {
      const auto s = static_cast<double>(*p++);
      a[i * n + j] = room[j * n + i] = s;
      a[j * n + i] = room[i * n + j] = -s;
    }
  detail::solve_in_place<Arch>(n, room, a);  // the two factors commute
}

/// dp = beta dp + the gradient that follows from that of A. No solve: (I + S)^-1 is half of (A + I)^T, so the gradient of S is
/// (A + I)^T dA (A + I)^T / 2. Room for 2 n^2. Cost: 4 n^3 flops.
template <class T, class Arch = simd::default_arch>
void cayley_gradient(index_t n, const double* a, const double* da, T* dp, T beta, double* room) {
  double *const first = room, *const second = room + n * n;
  std::fill_n(room, 2 * n * n, 0.0);
  for (index_t k = 0; k < n; ++k)  // dA^T (A + I)
    for (index_t i = 0; i < n; ++i) {
      detail::add_multiple<Arch>(n, da[k * n + i], a + k * n, first + i * n);
      first[i * n + k] += da[k * n + i];
    }
  for (index_t i = 0; i < n; ++i)  // (A + I) times that: the transpose, twice
    for (index_t k = 0; k < n; ++k) detail::add_multiple<Arch>(n, a[i * n + k] + (i == k ? 1 : 0), first + k * n, second + i * n);
  for (index_t i = 0; i < n; ++i)
    for (index_t j = i + 1; j < n; ++j, ++dp) {
      const auto d = static_cast<T>(0.5 * (second[j * n + i] - second[i * n + j]));
      *dp = beta == T(0) ? d : beta * *dp + d;
    }
}

namespace detail {
/// f(number, q) for every rotation of a pyramid, in the order of application: (0,1) (1,2) ... (n-2,n-1), then one fewer, ...
template <class F>
void each_of_pyramid(index_t n, F f) {
  for (index_t number = 0, length = n - 1; length > 0; --length)
    for (index_t q = 0; q < length; ++q) f(number++, q);
}
}  // namespace detail

/// A = product of plane rotations by the given angles, in the order of a pyramid: all rotations. Shapes: angles (n(n-1)/2), a (n, n).
/// Cost: 3 n^3 flops.
template <class T, class Arch = simd::default_arch>
void pyramid(index_t n, const T* angles, double* a) {
  detail::set_identity(n, a);
  detail::each_of_pyramid(n, [&](index_t i, index_t q) {
    const auto angle = static_cast<double>(angles[i]);
    detail::turn_rows<Arch>(n, std::cos(angle), std::sin(angle), a + q * n, a + (q + 1) * n);
  });
}

/// dangles = beta dangles + the gradient that follows from that of A: every rotation, from the last, is undone on A and on dA.
/// Room for 2 n^2. Cost: 8 n^3 flops.
template <class T, class Arch = simd::default_arch>
void pyramid_gradient(index_t n, const T* angles, const double* a, const double* da, T* dangles, T beta, double* room) {
  double *const value = room, *const gradient = room + n * n;
  std::copy_n(a, n * n, value);
  std::copy_n(da, n * n, gradient);
  index_t i = rotation_parameters(n);
  for (index_t length = 1; length < n; ++length)
    for (index_t q = length; q-- > 0;) {
      double *const v = value + q * n, *const g = gradient + q * n;
      double sum = 0;
      for (index_t c = 0; c < n; ++c) sum += g[n + c] * v[c] - g[c] * v[n + c];
      --i;
      dangles[i] = beta == T(0) ? static_cast<T>(sum) : beta * dangles[i] + static_cast<T>(sum);
      const double cosine = std::cos(static_cast<double>(angles[i])), sine = std::sin(static_cast<double>(angles[i]));
      detail::turn_rows<Arch>(n, cosine, -sine, v, v + n);
      detail::turn_rows<Arch>(n, cosine, -sine, g, g + n);
    }
}

/// The n(n-1)/2 plane rotations whose product is A, in the order of application. A must be orthogonal with determinant 1.
/// Room for n^2. Cost: 2 n^3 flops. Method: QR by Givens rotations, from the last row up; what is left over is the identity.
template <class Arch = simd::default_arch>
void plane_rotations(index_t n, const double* a, plane_rotation* out, double* room) {
  std::copy_n(a, n * n, room);
  out += rotation_parameters(n);
  for (index_t column = 0; column + 1 < n; ++column)
    for (index_t q = n - 1; q-- > column;) {
      double *const x = room + q * n + column, *const y = x + n;
      const double r = std::sqrt(*x * *x + *y * *y), cosine = r == 0 ? 1 : *x / r, sine = r == 0 ? 0 : -*y / r;
      detail::turn_rows<Arch>(n - column, cosine, sine, x, y);
      *--out = {q, cosine, -sine};
    }
}

}  // namespace graft::kernel
