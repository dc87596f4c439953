// SPDX-License-Identifier: Apache-2.0
// Row normalisations, forward and backward: root mean square, and mean with variance. Read next: ops/norm.hpp.
#pragma once
#include <algorithm>
#include <cmath>

#include "graft/kernel/elementwise.hpp"
#include "graft/simd/stream.hpp"

namespace graft::kernel {

namespace detail {

/// Calls f(column, lanes) for every vector of a row.
template <class T, class Arch, class F>
GRAFT_INLINE void for_each_vector(index_t columns, F f) {
  constexpr index_t w = simd::width<T, Arch>;
  index_t c = 0;
  for (; c + w <= columns; c += w) f(c, w);
  if (c < columns) f(c, columns - c);
}

/// The sum over a row, lane by lane: add(sum, column, lanes) gives the sum with a vector's terms. Four sums take turns, so that none waits
/// for the one before.
template <class T, class Arch, class Add>
GRAFT_INLINE simd::batch<T, Arch> sum_over_row(index_t columns, Add add) {
  constexpr index_t w = simd::width<T, Arch>;
  simd::batch<T, Arch> sums[4];
  for (auto& sum : sums) sum = simd::batch<T, Arch>(T(0));
  index_t c = 0;
  for (; c + 4 * w <= columns; c += 4 * w) {
    GRAFT_UNROLL
    for (int i = 0; i < 4; ++i) sums[i] = add(sums[i], c + i * w, w);
  }
  for (; c < columns; c += w) sums[0] = add(sums[0], c, std::min(w, columns - c));
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/// Asks for the next row while one is written: of what lies `columns` behind the elements given.
template <class... From>
GRAFT_INLINE void ask_for_next_row(index_t columns, const From*... from) noexcept { (simd::prefetch_far(from + columns), ...); }

inline index_t row_grain(index_t columns) noexcept { return 1 + map_grain / (columns + 1); }

}  // namespace detail

/// y(n, c) = x(n, c) gain(c) / sqrt(mean over c of x^2 + eps); scale(n) is what x was multiplied with.
/// Shapes: x, y (N, C) contiguous, gain (C), scale (N).
template <class T, class Arch = simd::default_arch>
void rms_norm(context& ctx, index_t rows, index_t columns, const T* x, const T* gain, double eps, T* y, T* scale) {
  using batch = simd::batch<T, Arch>;
  ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
    const simd::result_writer<T, Arch> put(y, rows * columns, columns);
    for (index_t n = first; n < last; ++n) {
      const T* from = x + n * columns;
      T* to = y + n * columns;
      const batch square = detail::sum_over_row<T, Arch>(columns, [&](batch sum, index_t c, index_t lanes) GRAFT_INLINED {
        const batch v = simd::load_first<T, Arch>(from + c, lanes);
        return simd::fma(v, v, sum);
      });
      scale[n] = T(1) / std::sqrt(simd::sum(square) / static_cast<T>(columns) + static_cast<T>(eps));
      const batch by(scale[n]);
      detail::for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
        detail::ask_for_next_row(columns, from + c);
        put(to + c, simd::load_first<T, Arch>(from + c, lanes) * by * simd::load_first<T, Arch>(gain + c, lanes), lanes);
      });
    }
  });
}

/// dx = scale (g - x scale^2 mean(g x)) + beta dx with g = dy gain.
template <class T, class Arch = simd::default_arch>
void rms_norm_backward(context& ctx, index_t rows, index_t columns, const T* x, const T* gain, const T* scale, const T* dy,
                       T* dx, T beta) {
  using batch = simd::batch<T, Arch>;
  ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
    const simd::result_writer<T, Arch> put(dx, beta == T(0) ? rows * columns : 0, columns);
    for (index_t n = first; n < last; ++n) {
      const T *xr = x + n * columns, *dyr = dy + n * columns;
      T* dxr = dx + n * columns;
      const batch dot = detail::sum_over_row<T, Arch>(columns, [&](batch sum, index_t c, index_t lanes) GRAFT_INLINED {
        const batch g = simd::load_first<T, Arch>(dyr + c, lanes) * simd::load_first<T, Arch>(gain + c, lanes);
        return simd::fma(g, simd::load_first<T, Arch>(xr + c, lanes), sum);
      });
      const T s = scale[n];
      const batch by(s), along(-s * s * s * simd::sum(dot) / static_cast<T>(columns));
      detail::for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
        const batch g = simd::load_first<T, Arch>(dyr + c, lanes) * simd::load_first<T, Arch>(gain + c, lanes);
        detail::ask_for_next_row(columns, xr + c, dyr + c);
        batch v = simd::fma(by, g, along * simd::load_first<T, Arch>(xr + c, lanes));
        if (beta != T(0)) v = simd::fma(batch(beta), simd::load_first<T, Arch>(dxr + c, lanes), v);
        put(dxr + c, v, lanes);
      });
    }
  });
}

/// dgain(c) = sum over n of dy(n, c) x(n, c) scale(n) + beta dgain(c).
template <class T, class Arch = simd::default_arch>
void rms_norm_gain_backward(context& ctx, index_t rows, index_t columns, const T* x, const T* scale, const T* dy, T* dgain,
                            T beta) {
  sum_rows<T, Arch>(ctx, rows, columns, dgain, beta, [=](index_t n, index_t c, index_t lanes) {
    return simd::load_first<T, Arch>(dy + n * columns + c, lanes) * simd::load_first<T, Arch>(x + n * columns + c, lanes) *
           simd::batch<T, Arch>(scale[n]);
  });
}

/// y(n, c) = (x(n, c) - mean(n)) scale(n) gain(c) + bias(c), scale(n) = 1 / sqrt(variance over c + eps).
/// Shapes: x, y (N, C) contiguous, gain, bias (C), mean, scale (N). The variance is taken in a second pass.
template <class T, class Arch = simd::default_arch>
void layer_norm(context& ctx, index_t rows, index_t columns, const T* x, const T* gain, const T* bias, double eps, T* y,
                T* mean, T* scale) {
  using batch = simd::batch<T, Arch>;
  ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
    const simd::result_writer<T, Arch> put(y, rows * columns, columns);
    for (index_t n = first; n < last; ++n) {
      const T* from = x + n * columns;
      T* to = y + n * columns;
      const batch sum = detail::sum_over_row<T, Arch>(
          columns, [&](batch so_far, index_t c, index_t lanes) GRAFT_INLINED { return so_far + simd::load_first<T, Arch>(from + c, lanes); });
      mean[n] = simd::sum(sum) / static_cast<T>(columns);
      const batch centre(mean[n]);
      const batch squares = detail::sum_over_row<T, Arch>(columns, [&](batch so_far, index_t c, index_t lanes) GRAFT_INLINED {
        batch d = simd::load_first<T, Arch>(from + c, lanes) - centre;
        if (lanes < simd::width<T, Arch>) d = simd::keep_first(d, lanes);
        return simd::fma(d, d, so_far);
      });
      scale[n] = T(1) / std::sqrt(simd::sum(squares) / static_cast<T>(columns) + static_cast<T>(eps));
      const batch by(scale[n]);
      detail::for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
        detail::ask_for_next_row(columns, from + c);
        const batch normal = (simd::load_first<T, Arch>(from + c, lanes) - centre) * by;
        put(to + c, simd::fma(normal, simd::load_first<T, Arch>(gain + c, lanes), simd::load_first<T, Arch>(bias + c, lanes)), lanes);
      });
    }
  });
}

/// dx = scale (g - mean(g) - h mean(g h)) + beta dx with g = dy gain and h = (x - mean) scale.
template <class T, class Arch = simd::default_arch>
void layer_norm_backward(context& ctx, index_t rows, index_t columns, const T* x, const T* gain, const T* mean,
                         const T* scale, const T* dy, T* dx, T beta) {
  using batch = simd::batch<T, Arch>;
  ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
    const simd::result_writer<T, Arch> put(dx, beta == T(0) ? rows * columns : 0, columns);
    for (index_t n = first; n < last; ++n) {
      const T *xr = x + n * columns, *dyr = dy + n * columns;
      T* dxr = dx + n * columns;
      const batch centre(mean[n]), by(scale[n]);
      batch sum(T(0)), dot(T(0));  // lanes past the end have g = 0 and add nothing
      detail::for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
        const batch g = simd::load_first<T, Arch>(dyr + c, lanes) * simd::load_first<T, Arch>(gain + c, lanes);
        sum += g;
        dot = simd::fma(g, (simd::load_first<T, Arch>(xr + c, lanes) - centre) * by, dot);
      });
      const batch mean_g(simd::sum(sum) / static_cast<T>(columns)), mean_gh(simd::sum(dot) / static_cast<T>(columns));
      detail::for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
        const batch g = simd::load_first<T, Arch>(dyr + c, lanes) * simd::load_first<T, Arch>(gain + c, lanes);
        const batch h = (simd::load_first<T, Arch>(xr + c, lanes) - centre) * by;
        detail::ask_for_next_row(columns, xr + c, dyr + c);
        batch v = by * (g - mean_g - h * mean_gh);
        if (beta != T(0)) v = simd::fma(batch(beta), simd::load_first<T, Arch>(dxr + c, lanes), v);
        put(dxr + c, v, lanes);
      });
    }
  });
}

/// dgain(c) = sum over n of dy(n, c) (x(n, c) - mean(n)) scale(n) + beta dgain(c).
template <class T, class Arch = simd::default_arch>
void layer_norm_gain_backward(context& ctx, index_t rows, index_t columns, const T* x, const T* mean, const T* scale,
                              const T* dy, T* dgain, T beta) {
  using batch = simd::batch<T, Arch>;
  sum_rows<T, Arch>(ctx, rows, columns, dgain, beta, [=](index_t n, index_t c, index_t lanes) {
    return simd::load_first<T, Arch>(dy + n * columns + c, lanes) *
           (simd::load_first<T, Arch>(x + n * columns + c, lanes) - batch(mean[n])) * batch(scale[n]);
  });
}

/// dbias(c) = sum over n of dy(n, c) + beta dbias(c): the bias gradient of any layer.
template <class T, class Arch = simd::default_arch>
void bias_backward(context& ctx, index_t rows, index_t columns, const T* dy, T* dbias, T beta) {
  sum_rows<T, Arch>(ctx, rows, columns, dbias, beta, [=](index_t n, index_t c, index_t lanes) {
    return simd::load_first<T, Arch>(dy + n * columns + c, lanes);
  });
}

}  // namespace graft::kernel
