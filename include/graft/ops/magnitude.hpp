// SPDX-License-Identifier: Apache-2.0
// Rows of a dense weight with a low-rank change, scaled to lengths of their own: what DoRA adds to LoRA.
// Read next: peft/dora.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <utility>

#include "graft/ops/low_rank.hpp"

namespace graft {

namespace kernel {

/// out(i) = the sum of squares of row i of w, in any storage type.
template <class T, class Arch = simd::default_arch>
void row_squares(context& ctx, const matrix_ref& w, T* out) {
  constexpr index_t lanes = simd::width<T, Arch>;
  detail::visit_storage<T>(w, [&](auto weights) {
    ctx.executor().parallel_for(w.rows, 1 + 8192 / (w.cols + 1), [&](index_t first, index_t last) {
      for (index_t i = first; i < last; ++i) {
        const auto row = weights.data + i * weights.stride[0];
        simd::batch<T, Arch> sum(T(0));
        for (index_t k = 0; k < w.cols; k += lanes) {
          const auto v = k + lanes <= w.cols ? simd::load_as<T, Arch>(row + k) : simd::load_partial_as<T, Arch>(row + k, w.cols - k);
          sum = simd::fma(v, v, sum);
        }
        out[i] = simd::sum(sum);
      }
    });
  });
}

}  // namespace kernel

namespace detail {

/// The lengths n of the rows of W + s B A, from products of depth R alone: |w|^2 + 2 s b.(A w) + s^2 b A A^T b^T.
template <class T>
struct updated_rows {
  var<T, 2> projected, turned;  // A W^T (R, out), and B A A^T (out, R)
  var<T, 1> norms;              // (out)

  updated_rows(tape<T>& t, const matrix_ref& w, tensor_view<const T, 2> a, tensor_view<const T, 2> b, double scale)
      : projected(t.template empty<2>({a.shape[0], w.rows})), turned(t.template empty<2>({w.rows, a.shape[0]})),
        norms(t.template empty<1>({w.rows})) {
    const index_t rank = a.shape[0];
    const T s = static_cast<T>(scale);
    auto gram = t.template empty<2>({rank, rank});
    kernel::matmul_nt<T>(t.ctx(), a, w, projected.value);
    kernel::matmul_nt<T>(t.ctx(), a, a, gram.value);
    kernel::matmul_nn<T>(t.ctx(), b, gram.value, turned.value);
    kernel::row_squares<T>(t.ctx(), w, norms.value.data);
    for (index_t i = 0; i < w.rows; ++i) {
      T square = norms.value(i);
      for (index_t r = 0; r < rank; ++r) square += b(i, r) * s * (2 * projected.value(r, i) + s * turned.value(i, r));
      norms.value(i) = std::sqrt(std::max(square, std::numeric_limits<T>::min()));
    }
  }
};

}  // namespace detail

/// g(i) = magnitude(i) / |row i of W + scale B A|, B A never formed. Shapes: w (out, in) in any storage type, magnitude (out),
/// a (R, in), b (out, R) -> (out). Cost: 2 R out in flops and one more reading of W. Gradients of a and b flow through the lengths
/// only if `through_norms`; otherwise the lengths are constants, as the method's authors advise. W must outlive the tape.
template <class T>
var<T, 1> magnitude_gain(tape<T>& t, const matrix_ref& w, const var<T, 1>& magnitude, const var<T, 2>& a, const var<T, 2>& b, double scale,
                         bool through_norms) {
  const index_t out = w.rows, rank = a.shape()[0];
  detail::check_inner_extents("magnitude_gain", "weight", extents<2>{w.rows, w.cols}, w.cols, "a", a.shape(), a.shape()[1]);
  const detail::updated_rows<T> rows(t, w, a.value, b.value, scale);
  auto g = t.template empty<1>({out});
  for (index_t i = 0; i < out; ++i) g.value(i) = magnitude.value(i) / rows.norms.value(i);
  const node_id ai = through_norms ? a.id : no_node, bi = through_norms ? b.id : no_node;
  const bool factors = ai != no_node || bi != no_node;
  const auto norms = t.save(rows.norms), ms = t.save_if(factors, magnitude);
  const auto as = t.save_if(factors, a), bs = t.save_if(factors, b);
  const auto projected = t.save_if(factors, rows.projected), turned = t.save_if(factors, rows.turned);
  t.record({"magnitude_gain", detail::product_flops(rank, out, w.cols)}, g, factors || magnitude.needs_grad(),
           [=, mi = magnitude.id](tensor_view<const T, 1> dg, tape<T>& grads) {
             if (mi != no_node) {
               const auto to = grads.grad(mi, dg.shape);
               for (index_t i = 0; i < out; ++i) to.view(i) = dg(i) / norms(i) + (to.beta == T(0) ? T(0) : to.view(i));
             }
             if (ai == no_node && bi == no_node) return;
             const T s = static_cast<T>(scale);
             auto scaled = grads.template empty<2>({rank, out});  // b(i, r) dn(i) / n(i), turned
             const auto change = [&](index_t i) { return -dg(i) * ms(i) / (norms(i) * norms(i) * norms(i)); };
             for (index_t r = 0; r < rank; ++r)
               for (index_t i = 0; i < out; ++i) scaled.value(r, i) = bs(i, r) * change(i);
             if (bi != no_node) {
               const auto to = grads.grad(bi, bs.shape);
               for (index_t i = 0; i < out; ++i)
                 for (index_t r = 0; r < rank; ++r)
                   to.view(i, r) = change(i) * s * (projected(r, i) + s * turned(i, r)) + (to.beta == T(0) ? T(0) : to.view(i, r));
             }
             if (ai != no_node) {
               auto square = grads.template empty<2>({rank, rank});
               kernel::matmul_nn<T>(grads.ctx(), scaled.value, bs, square.value);
               const auto to = grads.grad(ai, as.shape);
               kernel::matmul_nn<T>(grads.ctx(), scaled.value, w, to.view, {scale, to.beta});
               kernel::matmul_nn<T>(grads.ctx(), square.value, as, to.view, {scale * scale, 1});
             }
           });
  return g;
}

}  // namespace graft
