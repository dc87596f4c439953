// SPDX-License-Identifier: Apache-2.0
// Differentiable low-rank terms: added to a value, or to a frozen linear map in the pass that computes it.
// Read next: nn/linear.hpp.
#pragma once
#include <algorithm>
#include <string_view>
#include <utility>

#include "graft/ops/linear.hpp"

namespace graft {

namespace detail {

/// What scale (x A^T) B^T keeps for its backward pass: x, or the way to it, if a needs a gradient, h = scale x A^T (N, R) if b does, and the factors.
template <class T>
struct low_rank_rule {
  retained<T, 2> x;
  tensor_view<const T, 2> h, a, b;
  node_id xi, ai, bi;
  index_t n, in, out, rank;
  double scale;

  low_rank_rule(tape<T>& t, const var<T, 2>& xv, const var<T, 2>& hv, const var<T, 2>& av, const var<T, 2>& bv, double s)
      : x(t.retain_if(av.needs_grad(), xv)), h(t.save_if(bv.needs_grad(), hv)), a(t.save_if(xv.needs_grad(), av)),
        b(t.save_if(xv.needs_grad() || av.needs_grad(), bv)), xi(xv.id), ai(av.id), bi(bv.id), n(xv.shape()[0]), in(av.shape()[1]),
        out(bv.shape()[0]), rank(av.shape()[0]), scale(s) {}

  bool needed() const noexcept { return xi != no_node || ai != no_node || bi != no_node; }
  std::uint64_t flops() const noexcept { return product_flops(n, rank, in + out); }

  /// Gives a and b their gradients. Returns that of x A^T, from which x's follows; empty when nothing below needs it.
  var<T, 2> backward(tensor_view<const T, 2> dz, tape<T>& g) const {
    if (bi != no_node) {
      const auto to = g.grad(bi, extents<2>{out, rank});
      kernel::matmul_tn<T>(g.ctx(), dz, h, to.view, {1, to.beta});
    }
    if (xi == no_node && ai == no_node) return {};
    auto dh = g.template empty<2>({n, rank});
    kernel::matmul_nn<T>(g.ctx(), dz, b, dh.value, {scale, 0});
    if (ai != no_node) {
      const auto to = g.grad(ai, extents<2>{rank, in});
      kernel::matmul_tn<T>(g.ctx(), dh.value, g.value(x), to.view, {1, to.beta});
    }
    return dh;
  }
  void input_gradient(const var<T, 2>& dh, tape<T>& g) const {
    if (xi == no_node) return;
    const auto to = g.grad(xi, extents<2>{n, in});
    kernel::matmul_nn<T>(g.ctx(), dh.value, a, to.view, {1, to.beta});
  }
};

/// h = scale x A^T, after the shapes of a low-rank term are known to fit.
template <class T>
var<T, 2> low_rank_projection(tape<T>& t, std::string_view op, const var<T, 2>& x, const var<T, 2>& a, const var<T, 2>& b,
                              double scale) {
  const index_t r = a.shape()[0], in = a.shape()[1];
  check_inner_extents(op, "x", x.shape(), x.shape()[1], "a", a.shape(), in);
  check_inner_extents(op, "b", b.shape(), b.shape()[1], "a transposed", extents<2>{in, r}, r);
  auto h = t.template empty<2>({x.shape()[0], r});
  kernel::matmul_nt<T>(t.ctx(), x.value, a.value, h.value, {scale, 0});
  return h;
}

}  // namespace detail

/// z = y + scale (x A^T) B^T, in y's memory when nobody else holds it; the dense product B A is never formed.
/// Shapes: y (N, out), x (N, in), a (R, in), b (out, R). Cost: 2 N R (in + out) flops. Retains x if a needs a gradient and saves
/// the N x R product if b does.
template <class T>
var<T, 2> add_low_rank(tape<T>& t, var<T, 2> y, const var<T, 2>& x, const var<T, 2>& a, const var<T, 2>& b, double scale) {
  const index_t out = b.shape()[0];
  const auto h = detail::low_rank_projection(t, "add_low_rank", x, a, b, scale);
  detail::check_inner_extents("add_low_rank", "y", y.shape(), y.shape()[1], "b transposed", extents<2>{a.shape()[0], out}, out);
  const node_id yi = y.id;
  const tensor_view<const T, 2> from = y.value;
  auto z = t.reuse(std::move(y));
  if (z.value.data != from.data) std::copy_n(from.data, from.size(), z.value.data);
  kernel::matmul_nt<T>(t.ctx(), h.value, b.value, z.value, {1, 1});

  const detail::low_rank_rule<T> rule(t, x, h, a, b, scale);
  t.record({"add_low_rank", rule.flops()}, z, yi != no_node || rule.needed(), [rule, yi](tensor_view<const T, 2> dz, tape<T>& g) {
    rule.input_gradient(rule.backward(dz, g), g);
    if (yi != no_node) g.pass_grad(yi, dz);
  });
  return z;
}

/// z = x W^T + scale (d A^T) B^T with a frozen W of any storage type, in one pass over z; so is the gradient of x where d is x.
/// d is x after dropout, or x itself. Shapes: x and d (N, in), w (out, in), a (R, in), b (out, R) -> (N, out).
/// Cost: 2 N (in out + R (in + out)) flops. Retains d if a needs a gradient, saves the N x R product if b does. W must outlive the tape.
template <class T>
var<T, 2> linear_low_rank(tape<T>& t, const var<T, 2>& x, const matrix_ref& w, const var<T, 2>& d, const var<T, 2>& a,
                          const var<T, 2>& b, double scale, result r = result::needed) {
  detail::check_inner_extents("linear_low_rank", "x", x.shape(), x.shape()[1], "weight", extents<2>{w.rows, w.cols}, w.cols);
  if (d.shape() != x.shape())
    throw_error<shape_error>("linear_low_rank: x is ", to_string(x.shape()), ", d is ", to_string(d.shape()));
  detail::check_inner_extents("linear_low_rank", "b transposed", extents<2>{b.shape()[1], b.shape()[0]}, b.shape()[0], "weight transposed",
                              extents<2>{w.cols, w.rows}, w.rows);
  const auto h = detail::low_rank_projection(t, "linear_low_rank", d, a, b, scale);
  auto z = t.template empty<2>({x.shape()[0], w.rows});
  detail::forward_product<T>(t, r, x.value, w, z.value, {h.value, b.value});

  const detail::low_rank_rule<T> rule(t, d, h, a, b, scale);
  const std::uint64_t flops = detail::forward_flops(r, x.shape()[0], w.rows, w.cols) + rule.flops();
  t.record({"linear_low_rank", flops}, z, x.needs_grad() || rule.needed(), [rule, w, xi = x.id](tensor_view<const T, 2> dz, tape<T>& g) {
    const auto dh = rule.backward(dz, g);
    const bool together = xi == rule.xi;
    if (xi != no_node) {
      const auto to = g.grad(xi, extents<2>{rule.n, rule.in});
      kernel::low_rank_term<T> term;
      if (together) term = {dh.value, rule.a};
      kernel::matmul_nn<T>(g.ctx(), dz, w, to.view, {1, to.beta}, term);
    }
    if (!together) rule.input_gradient(dh, g);
  });
  return z;
}

}  // namespace graft
