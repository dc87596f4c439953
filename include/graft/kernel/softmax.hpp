// SPDX-License-Identifier: Apache-2.0
// Softmax over rows, in place, and the loss on top of it. Read next: ops/loss.hpp.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

#include "graft/kernel/norm.hpp"

namespace graft::kernel {

/// Labels that take part in no loss, as published training code marks them.
inline constexpr std::int32_t ignored_label = -100;

namespace detail {

template <class T, class Arch>
GRAFT_INLINE T row_maximum(const T* row, index_t columns) {
  constexpr index_t w = simd::width<T, Arch>;
  T m = -std::numeric_limits<T>::infinity();
  if (columns < w) {
    for (index_t c = 0; c < columns; ++c) m = simd::max(m, row[c]);
    return m;
  }
  simd::batch<T, Arch> most(m);
  for (index_t c = 0; c + w <= columns; c += w) most = simd::max(most, simd::load<T, Arch>(row + c));
  return simd::maximum(simd::max(most, simd::load<T, Arch>(row + columns - w)));  // the last may meet some twice
}

/// row[c] = exp(scale row[c] - shift) for c < columns, taken as a power of two; returns their sum.
template <class T, class Arch>
GRAFT_INLINE T row_exponentials(T* row, index_t columns, T scale, T shift) {
  using batch = simd::batch<T, Arch>;
  const batch by(scale), less(-shift), binary(std::numbers::log2e_v<T>);
  batch sum(T(0));
  for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
    const batch e = simd::exp2(binary * simd::fma(by, simd::load_first<T, Arch>(row + c, lanes), less));
    simd::store_first(row + c, e, lanes);
    sum += simd::keep_first(e, lanes);
  });
  return simd::sum(sum);
}

template <class T, class Arch>
GRAFT_INLINE void row_scale(T* row, index_t columns, T factor) {
  const simd::batch<T, Arch> by(factor);
  for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
    simd::store_first(row + c, simd::load_first<T, Arch>(row + c, lanes) * by, lanes);
  });
}

}  // namespace detail

/// Turns every row of x (N, C) into its softmax. Rows are contiguous, `ld` apart. A row of which every entry is -inf
/// becomes NaN, as its definition has it.
template <class T, class Arch = simd::default_arch>
void softmax_rows(context& ctx, index_t rows, index_t columns, T* x, index_t ld) {
  ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
    for (index_t n = first; n < last; ++n) {
      T* row = x + n * ld;
      const T most = detail::row_maximum<T, Arch>(row, columns);
      detail::row_scale<T, Arch>(row, columns, T(1) / detail::row_exponentials<T, Arch>(row, columns, T(1), most));
    }
  });
}

/// dx = y (dy - sum over c of y dy) + beta dx, from the softmax y.
template <class T, class Arch = simd::default_arch>
void softmax_backward(context& ctx, index_t rows, index_t columns, const T* y, const T* dy, T* dx, T beta) {
  using batch = simd::batch<T, Arch>;
  ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
    for (index_t n = first; n < last; ++n) {
      const T *yr = y + n * columns, *dyr = dy + n * columns;
      T* dxr = dx + n * columns;
      batch dot(T(0));
      detail::for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
        dot = simd::fma(simd::load_first<T, Arch>(yr + c, lanes), simd::load_first<T, Arch>(dyr + c, lanes), dot);
      });
      const batch mean(simd::sum(dot));
      detail::for_each_vector<T, Arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
        batch v = simd::load_first<T, Arch>(yr + c, lanes) * (simd::load_first<T, Arch>(dyr + c, lanes) - mean);
        if (beta != T(0)) v = simd::fma(batch(beta), simd::load_first<T, Arch>(dxr + c, lanes), v);
        simd::store_first(dxr + c, v, lanes);
      });
    }
  });
}

/// loss(n) = log sum exp logits(n, .) - logits(n, label(n)), and the logits become `factor` times the loss's gradient.
/// Rows with an ignored label get loss 0 and gradient 0. Logits (N, V) contiguous; labels below V.
template <class T, class Arch = simd::default_arch>
void cross_entropy_rows(context& ctx, index_t rows, index_t columns, T* logits, const std::int32_t* labels, T factor,
                        T* loss) {
  ctx.executor().parallel_for(rows, detail::row_grain(columns), [&](index_t first, index_t last) {
    for (index_t n = first; n < last; ++n) {
      T* row = logits + n * columns;
      if (labels[n] == ignored_label) {
        std::fill_n(row, columns, T(0));
        loss[n] = 0;
        continue;
      }
      const T most = detail::row_maximum<T, Arch>(row, columns), target = row[labels[n]];
      const T sum = detail::row_exponentials<T, Arch>(row, columns, T(1), most);
      loss[n] = most + std::log(sum) - target;
      detail::row_scale<T, Arch>(row, columns, factor / sum);
      row[labels[n]] -= factor;
    }
  });
}

}  // namespace graft::kernel
