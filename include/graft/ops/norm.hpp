// SPDX-License-Identifier: Apache-2.0
// Differentiable row normalisations over kernel/norm.hpp. Read next: nn/norm.hpp.
#pragma once
#include "graft/autograd/tape.hpp"
#include "graft/kernel/norm.hpp"

namespace graft {

namespace detail {

template <class T>
void check_gain(std::string_view op, const var<T, 2>& x, const var<T, 1>& gain) {
  if (gain.shape()[0] != x.shape()[1])
    throw_error<shape_error>(op, ": x is ", to_string(x.shape()), ", the gain has ", gain.shape()[0], " entries");
}

}  // namespace detail

/// y(n, c) = x(n, c) gain(c) / sqrt(mean over c of x^2 + eps).
/// Shapes: x (N, C), gain (C) -> (N, C). Cost: 4 N C flops. Saves N values, and retains x if anything needs a gradient:
/// then y can be had again.
/// Throws shape_error unless gain has C entries. Source: Zhang and Sennrich 2019.
template <class T>
var<T, 2> rms_norm(tape<T>& t, const var<T, 2>& x, const var<T, 1>& gain, double eps = 1e-5) {
  detail::check_gain("rms_norm", x, gain);
  const index_t n = x.shape()[0], c = x.shape()[1];
  auto y = t.template empty<2>(x.shape());
  auto factor = t.template empty<1>({n});
  kernel::rms_norm<T>(t.ctx(), n, c, x.value.data, gain.value.data, eps, y.value.data, factor.value.data);
  const bool needs = x.needs_grad() || gain.needs_grad();
  const auto xr = t.retain_if(needs, x);
  const auto gs = tensor_view<const T, 2>{gain.value.data, {1, c}};
  const auto fs = t.save_if(needs, factor);
  t.save_if(needs, gain);
  t.record({"rms_norm", 4 * static_cast<std::uint64_t>(n * c)}, y, needs,
           [=, xi = x.id, gi = gain.id](tensor_view<const T, 2> dy, tape<T>& g) {
             const auto xs = g.value(xr);
             if (gi != no_node) {
               const auto to = g.grad(gi, extents<1>{c});
               kernel::rms_norm_gain_backward<T>(g.ctx(), n, c, xs.data, fs.data, dy.data, to.view.data, to.beta);
             }
             if (xi != no_node) {
               const auto to = g.grad(xi, dy.shape);
               kernel::rms_norm_backward<T>(g.ctx(), n, c, xs.data, gs.data, fs.data, dy.data, to.view.data, to.beta);
             }
           },
           [=, f = factor.value.data](tensor_view<T, 2> again, tape<T>& g) {
             kernel::rms_norm<T>(g.ctx(), n, c, g.value(xr).data, gs.data, eps, again.data, f);
           },
           t.is_kept(xr));
  return y;
}

/// y(n, c) = (x(n, c) - mean) gain(c) / sqrt(variance + eps) + bias(c), mean and variance over c.
/// Shapes: x (N, C), gain and bias (C) -> (N, C). Cost: 7 N C flops. Saves 2 N values, and retains x if x or gain needs a
/// gradient: then y can be had again.
/// Throws shape_error unless gain and bias have C entries. Source: Ba et al. 2016.
template <class T>
var<T, 2> layer_norm(tape<T>& t, const var<T, 2>& x, const var<T, 1>& gain, const var<T, 1>& bias, double eps = 1e-5) {
  detail::check_gain("layer_norm", x, gain);
  detail::check_gain("layer_norm", x, bias);
  const index_t n = x.shape()[0], c = x.shape()[1];
  auto y = t.template empty<2>(x.shape());
  auto moments = t.template empty<1>({2 * n});  // means, then scales
  T *const mean = moments.value.data, *const factor = mean + n;
  kernel::layer_norm<T>(t.ctx(), n, c, x.value.data, gain.value.data, bias.value.data, eps, y.value.data, mean, factor);
  const bool statistics = x.needs_grad() || gain.needs_grad();
  const auto xr = t.retain_if(statistics, x);
  t.save_if(statistics, moments);
  t.save_if(statistics, gain);
  t.save_if(statistics, bias);
  t.record({"layer_norm", 7 * static_cast<std::uint64_t>(n * c)}, y, statistics || bias.needs_grad(),
           [=, gs = gain.value.data, xi = x.id, gi = gain.id, bi = bias.id](tensor_view<const T, 2> dy, tape<T>& g) {
             if (bi != no_node) {
               const auto to = g.grad(bi, extents<1>{c});
               kernel::bias_backward<T>(g.ctx(), n, c, dy.data, to.view.data, to.beta);
             }
             if (gi != no_node) {
               const auto to = g.grad(gi, extents<1>{c});
               kernel::layer_norm_gain_backward<T>(g.ctx(), n, c, g.value(xr).data, mean, factor, dy.data, to.view.data, to.beta);
             }
             if (xi != no_node) {
               const auto to = g.grad(xi, dy.shape);
               kernel::layer_norm_backward<T>(g.ctx(), n, c, g.value(xr).data, gs, mean, factor, dy.data, to.view.data, to.beta);
             }
           },
           [=, gs = gain.value.data, bs = bias.value.data](tensor_view<T, 2> again, tape<T>& g) {
             kernel::layer_norm<T>(g.ctx(), n, c, g.value(xr).data, gs, bs, eps, again.data, mean, factor);
           },
           statistics && t.is_kept(xr));
  return y;
}

}  // namespace graft
