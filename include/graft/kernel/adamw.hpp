// SPDX-License-Identifier: Apache-2.0
// One fused pass of the AdamW update. Read next: optim/adamw.hpp.
#pragma once
#include "graft/kernel/elementwise.hpp"

namespace graft::kernel {

/// The numbers of one step, bias corrections already folded in.
struct adamw_step {
  double rate;        // lr / (1 - beta1^t)
  double beta1, beta2;
  double eps;
  double root_scale;  // 1 / sqrt(1 - beta2^t)
  double shrink;      // 1 - lr * weight_decay
};

/// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  w = shrink w - rate m / (root_scale sqrt(v) + eps).
/// Reads and writes 28 bytes a float parameter.
template <class T, class Arch = simd::default_arch>
void adamw(context& ctx, index_t n, T* w, const T* g, T* m, T* v, const adamw_step& step) {
  using batch = simd::batch<T, Arch>;
  constexpr index_t width = simd::width<T, Arch>;
  const batch b1(static_cast<T>(step.beta1)), c1(static_cast<T>(1 - step.beta1)), b2(static_cast<T>(step.beta2)),
      c2(static_cast<T>(1 - step.beta2)), eps(static_cast<T>(step.eps)), root(static_cast<T>(step.root_scale)),
      rate(static_cast<T>(step.rate)), shrink(static_cast<T>(step.shrink));
  ctx.executor().parallel_for(n, map_grain, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; i += width) {
      const index_t lanes = std::min(width, last - i);
      const batch gv = simd::load_first<T, Arch>(g + i, lanes);
      const batch mv = simd::fma(b1, simd::load_first<T, Arch>(m + i, lanes), c1 * gv);
      const batch vv = simd::fma(b2, simd::load_first<T, Arch>(v + i, lanes), c2 * gv * gv);
      const batch wv = simd::load_first<T, Arch>(w + i, lanes);
      simd::store_first(m + i, mv, lanes);
      simd::store_first(v + i, vv, lanes);
      simd::store_first(w + i, shrink * wv - rate * mv / (root * simd::sqrt(vv) + eps), lanes);
    }
  });
}

}  // namespace graft::kernel
