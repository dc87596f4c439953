// SPDX-License-Identifier: Apache-2.0
// Differentiable linear maps: dense with trainable or frozen weights, and bias. Every file of ops/ reads like this one:
// validate, compute, name what is saved, give the rule back. Read next: ops/low_rank.hpp.
#pragma once
#include <algorithm>
#include <string>
#include <utility>

#include "graft/autograd/tape.hpp"
#include "graft/kernel/gemm.hpp"
#include "graft/kernel/norm.hpp"

namespace graft {

namespace detail {

inline void check_inner_extents(std::string_view op, std::string_view left, std::span<const index_t> a, index_t got,
                                std::string_view right, std::span<const index_t> b, index_t want) {
  if (got != want)
    throw_error<shape_error>(op, ": ", left, " has ", got, " columns, ", right, " has ", want, " (", left, " is ", to_string(a),
                             ", ", right, " is ", to_string(b), ")");
}
constexpr std::uint64_t product_flops(index_t n, index_t m, index_t k) noexcept {
  return 2 * static_cast<std::uint64_t>(n) * static_cast<std::uint64_t>(m) * static_cast<std::uint64_t>(k);
}

}  // namespace detail

/// Whether anyone reads what an operation computes, or only a gradient passes through it. An ignored result is zeros.
enum class result { needed, ignored };

namespace detail {

/// y = x W^T + left right^T for a result that is needed.
template <class T>
void forward_product(tape<T>& t, result r, tensor_view<const T, 2> x, const matrix_ref& w, tensor_view<T, 2> y, kernel::low_rank_term<T> term = {}) {
  if (r == result::needed) kernel::matmul_nt<T>(t.ctx(), x, w, y, {}, term);
  else std::fill_n(y.data, y.size(), T(0));
}
constexpr std::uint64_t forward_flops(result r, index_t n, index_t m, index_t k) noexcept { return r == result::needed ? product_flops(n, m, k) : 0; }

}  // namespace detail

/// y = x W^T. Shapes: x (N, in), w (out, in) -> (N, out). Cost: 2 N in out flops. Retains x if w needs a gradient.
/// Throws shape_error unless x and w have the same number of columns.
template <class T>
var<T, 2> linear(tape<T>& t, const var<T, 2>& x, const var<T, 2>& w, result r = result::needed) {
  detail::check_inner_extents("linear", "x", x.shape(), x.shape()[1], "weight", w.shape(), w.shape()[1]);
  const index_t n = x.shape()[0], out = w.shape()[0], in = w.shape()[1];
  auto y = t.template empty<2>({n, out});
  detail::forward_product<T>(t, r, x.value, w.value, y.value);
  const auto xs = t.retain_if(w.needs_grad(), x);
  const auto wv = t.save_if(x.needs_grad(), w);
  t.record({"linear", detail::forward_flops(r, n, out, in)}, y, x.needs_grad() || w.needs_grad(),
           [xs, wv, xi = x.id, wi = w.id, shape = x.shape(), w_shape = w.shape()](tensor_view<const T, 2> dy, tape<T>& g) {
             if (xi != no_node) {
               const auto to = g.grad(xi, shape);
               kernel::matmul_nn<T>(g.ctx(), dy, wv, to.view, {1, to.beta});
             }
             if (wi != no_node) {
               const auto to = g.grad(wi, w_shape);
               kernel::matmul_tn<T>(g.ctx(), dy, g.value(xs), to.view, {1, to.beta});
             }
           });
  return y;
}

/// y = x W^T with a frozen weight of any storage type, which can never need a gradient. Saves nothing. The weight must
/// outlive the tape.
template <class T>
var<T, 2> linear(tape<T>& t, const var<T, 2>& x, const matrix_ref& w, result r = result::needed) {
  detail::check_inner_extents("linear", "x", x.shape(), x.shape()[1], "weight", extents<2>{w.rows, w.cols}, w.cols);
  const index_t n = x.shape()[0];
  auto y = t.template empty<2>({n, w.rows});
  detail::forward_product<T>(t, r, x.value, w, y.value);
  t.record({"linear", detail::forward_flops(r, n, w.rows, w.cols)}, y, x.needs_grad(),
           [w, xi = x.id, shape = x.shape()](tensor_view<const T, 2> dy, tape<T>& g) {
             const auto to = g.grad(xi, shape);
             kernel::matmul_nn<T>(g.ctx(), dy, w, to.view, {1, to.beta});
           });
  return y;
}

/// y = x + b, added to every row, in x's memory when nobody else holds it. Shapes: x (N, C), b (C). Saves nothing.
template <class T>
var<T, 2> add_bias(tape<T>& t, var<T, 2> x, const var<T, 1>& b) {
  detail::check_inner_extents("add_bias", "x", x.shape(), x.shape()[1], "bias", b.shape(), b.shape()[0]);
  const index_t n = x.shape()[0], c = x.shape()[1];
  const node_id xi = x.id;
  const tensor_view<const T, 2> from = x.value;
  auto y = t.reuse(std::move(x));
  if (y.value.data != from.data) std::copy_n(from.data, from.size(), y.value.data);
  kernel::add_bias<T>(t.ctx(), n, c, y.value.data, c, b.value.data);
  t.record({"add_bias", static_cast<std::uint64_t>(n * c)}, y, xi != no_node || b.needs_grad(),
           [xi, bi = b.id, n, c](tensor_view<const T, 2> dy, tape<T>& g) {
             if (bi != no_node) {
               const auto to = g.grad(bi, extents<1>{c});
               kernel::bias_backward<T>(g.ctx(), n, c, dy.data, to.view.data, to.beta);
             }
             if (xi != no_node) g.pass_grad(xi, dy);
           });
  return y;
}

}  // namespace graft
