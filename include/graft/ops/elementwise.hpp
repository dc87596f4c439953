// SPDX-License-Identifier: Apache-2.0
// Differentiable element-wise operations: sums, products, activations, dropout. Read next: kernel/elementwise.hpp.
#pragma once
#include <cmath>
#include <string_view>
#include <utility>

#include "graft/autograd/tape.hpp"
#include "graft/kernel/elementwise.hpp"

namespace graft {

namespace detail {

template <std::size_t R>
void check_same_shape(std::string_view op, const extents<R>& a, const extents<R>& b) {
  if (a != b) throw_error<shape_error>(op, ": the operands have shapes ", to_string(a), " and ", to_string(b));
}

/// y = Function::value(x), retaining x, from which y can be had again.
template <class Function, class T, std::size_t R>
var<T, R> activation(tape<T>& t, std::string_view name, const var<T, R>& x) {
  auto y = t.template empty<R>(x.shape());
  const index_t n = x.value.size();
  kernel::map<T>(t.ctx(), n, y.value.data, T(0), kernel::value_of<Function>{}, x.value.data);
  const auto xr = t.retain_if(x.needs_grad(), x);
  const auto backward = [xr, xi = x.id, n](tensor_view<const T, R> dy, tape<T>& g) {
    const auto xs = g.value(xr);
    const auto to = g.grad(xi, xs.shape);
    kernel::map<T>(g.ctx(), n, to.view.data, to.beta, kernel::gradient_of<Function>{}, dy.data, xs.data);
  };
  const auto again = [xr, n](tensor_view<T, R> value, tape<T>& g) {
    kernel::map<T>(g.ctx(), n, value.data, T(0), kernel::value_of<Function>{}, g.value(xr).data);
  };
  t.record({name, static_cast<std::uint64_t>(n)}, y, x.needs_grad(), backward, again, t.is_kept(xr));
  return y;
}

}  // namespace detail

/// x + y, of equal shapes. Saves nothing; the gradient is handed on without a copy.
template <class T, std::size_t R>
var<T, R> add(tape<T>& t, const var<T, R>& x, const var<T, R>& y) {
  detail::check_same_shape("add", x.shape(), y.shape());
  auto z = t.template empty<R>(x.shape());
  const index_t n = x.value.size();
  kernel::map<T>(t.ctx(), n, z.value.data, T(0), kernel::plus{}, x.value.data, y.value.data);
  t.record({"add", static_cast<std::uint64_t>(n)}, z, x.needs_grad() || y.needs_grad(),
           [xi = x.id, yi = y.id](tensor_view<const T, R> dz, tape<T>& g) {
             if (xi != no_node) g.pass_grad(xi, dz);
             if (yi != no_node) g.pass_grad(yi, dz);
           });
  return z;
}

/// x - y, of equal shapes. Saves nothing.
template <class T, std::size_t R>
var<T, R> subtract(tape<T>& t, const var<T, R>& x, const var<T, R>& y) {
  return add(t, x, scale(t, y, -1.0));
}

/// x * y, element by element. Retains each operand the other's gradient needs.
template <class T, std::size_t R>
var<T, R> multiply(tape<T>& t, const var<T, R>& x, const var<T, R>& y) {
  detail::check_same_shape("multiply", x.shape(), y.shape());
  auto z = t.template empty<R>(x.shape());
  const index_t n = x.value.size();
  kernel::map<T>(t.ctx(), n, z.value.data, T(0), kernel::times{}, x.value.data, y.value.data);
  const auto xr = t.retain_if(y.needs_grad(), x), yr = t.retain_if(x.needs_grad(), y);
  t.record({"multiply", static_cast<std::uint64_t>(n)}, z, x.needs_grad() || y.needs_grad(),
           [xr, yr, xi = x.id, yi = y.id, n](tensor_view<const T, R> dz, tape<T>& g) {
             if (xi != no_node) {
               const auto to = g.grad(xi, dz.shape);
               kernel::map<T>(g.ctx(), n, to.view.data, to.beta, kernel::times{}, dz.data, g.value(yr).data);
             }
             if (yi != no_node) {
               const auto to = g.grad(yi, dz.shape);
               kernel::map<T>(g.ctx(), n, to.view.data, to.beta, kernel::times{}, dz.data, g.value(xr).data);
             }
           });
  return z;
}

/// x times a number. Saves nothing.
template <class T, std::size_t R>
var<T, R> scale(tape<T>& t, const var<T, R>& x, double factor) {
  auto y = t.template empty<R>(x.shape());
  const index_t n = x.value.size();
  const kernel::times_constant<T> times{static_cast<T>(factor)};
  kernel::map<T>(t.ctx(), n, y.value.data, T(0), times, x.value.data);
  t.record({"scale", static_cast<std::uint64_t>(n)}, y, x.needs_grad(), [xi = x.id, n, times](tensor_view<const T, R> dy, tape<T>& g) {
    const auto to = g.grad(xi, dy.shape);
    kernel::map<T>(g.ctx(), n, to.view.data, to.beta, times, dy.data);
  });
  return y;
}

/// Column c of x times gain(c). Shapes: x (N, C), gain (C). Retains x if gain needs a gradient.
template <class T>
var<T, 2> scale(tape<T>& t, const var<T, 2>& x, const var<T, 1>& gain) {
  const index_t n = x.shape()[0], c = x.shape()[1];
  if (gain.shape()[0] != c)
    throw_error<shape_error>("scale: x is ", to_string(x.shape()), ", the gain has ", gain.shape()[0], " entries");
  auto y = t.template empty<2>(x.shape());
  const auto rows = [n, c](context& ctx, T* out, T beta, const T* in, const T* by) {
    for (index_t i = 0; i < n; ++i)
      kernel::map<T>(ctx, c, out + i * c, beta, kernel::times{}, in + i * c, by);
  };
  rows(t.ctx(), y.value.data, T(0), x.value.data, gain.value.data);
  const auto retained_x = t.retain_if(gain.needs_grad(), x);
  const auto gs = t.save_if(x.needs_grad(), gain);
  t.record({"scale", static_cast<std::uint64_t>(n * c)}, y, x.needs_grad() || gain.needs_grad(),
           [=, xi = x.id, gi = gain.id](tensor_view<const T, 2> dy, tape<T>& g) {
             if (xi != no_node) {
               const auto to = g.grad(xi, dy.shape);
               rows(g.ctx(), to.view.data, to.beta, dy.data, gs.data);
             }
             if (gi != no_node) {
               const auto to = g.grad(gi, extents<1>{c});
               const auto xs = g.value(retained_x);
               kernel::sum_rows<T>(g.ctx(), n, c, to.view.data, to.beta, [dy, xs, c](index_t r, index_t j, index_t lanes) {
                 return simd::load_first<T>(dy.data + r * c + j, lanes) * simd::load_first<T>(xs.data + r * c + j, lanes);
               });
             }
           });
  return y;
}

template <class T, std::size_t R>
var<T, R> relu(tape<T>& t, const var<T, R>& x) { return detail::activation<kernel::relu_function>(t, "relu", x); }
/// x * sigmoid(x). Retains x.
template <class T, std::size_t R>
var<T, R> silu(tape<T>& t, const var<T, R>& x) { return detail::activation<kernel::silu_function>(t, "silu", x); }
/// x * Phi(x), exactly. Retains x.
template <class T, std::size_t R>
var<T, R> gelu(tape<T>& t, const var<T, R>& x) { return detail::activation<kernel::gelu_erf_function>(t, "gelu", x); }
/// The tanh form of GELU, as GPT-2 and Gemma use it. Retains x.
template <class T, std::size_t R>
var<T, R> gelu_tanh(tape<T>& t, const var<T, R>& x) { return detail::activation<kernel::gelu_tanh_function>(t, "gelu_tanh", x); }
template <class T, std::size_t R>
var<T, R> tanh(tape<T>& t, const var<T, R>& x) { return detail::activation<kernel::tanh_function>(t, "tanh", x); }

/// silu(gate) * up, in one pass. Retains gate and up, from which it can be had again.
template <class T, std::size_t R>
var<T, R> swiglu(tape<T>& t, const var<T, R>& gate, const var<T, R>& up) {
  using silu = kernel::silu_function;
  detail::check_same_shape("swiglu", gate.shape(), up.shape());
  auto y = t.template empty<R>(gate.shape());
  const index_t n = gate.value.size();
  kernel::map<T>(t.ctx(), n, y.value.data, T(0), kernel::gated_value_of<silu>{}, gate.value.data, up.value.data);
  const bool needs = gate.needs_grad() || up.needs_grad();
  const auto gr = t.retain_if(needs, gate), ur = t.retain_if(gate.needs_grad(), up);
  const auto backward = [gr, ur, gi = gate.id, ui = up.id, n](tensor_view<const T, R> dy, tape<T>& g) {
    const auto gs = g.value(gr);
    if (gi != no_node) {
      const auto to = g.grad(gi, dy.shape);
      kernel::map<T>(g.ctx(), n, to.view.data, to.beta, kernel::gated_gradient_of<silu>{}, dy.data, gs.data, g.value(ur).data);
    }
    if (ui != no_node) {
      const auto to = g.grad(ui, dy.shape);
      kernel::map<T>(g.ctx(), n, to.view.data, to.beta, kernel::gated_value_of<silu>{}, gs.data, dy.data);
    }
  };
  const auto again = [gr, ur, n](tensor_view<T, R> product, tape<T>& g) {
    kernel::map<T>(g.ctx(), n, product.data, T(0), kernel::gated_value_of<silu>{}, g.value(gr).data, g.value(ur).data);
  };
  t.record({"swiglu", 5 * static_cast<std::uint64_t>(n)}, y, needs, backward, again, gate.needs_grad() && t.is_kept(gr) && t.is_kept(ur));
  return y;
}

/// While the batch trains: zeroes each element with the given rate and divides the others by 1 - rate. The mask is a
/// function of (seed, step, stream, position), so nothing is saved and a checkpointed block repeats it. Else x itself.
template <class T, std::size_t R>
var<T, R> dropout(tape<T>& t, const var<T, R>& x, double rate, std::uint64_t stream) {
  if (rate == 0 || !t.batch.training) return x;
  const random_stream random(t.ctx().seed, mix(stream, t.batch.random_key()));
  const index_t n = x.value.size();
  const auto masked = [random, rate, n](context& ctx, const T* from, T* to, T beta) {
    const T keep = static_cast<T>(1 / (1 - rate));
    const auto limit = static_cast<std::uint32_t>(rate * 0x1p32);
    ctx.executor().parallel_for(n, kernel::map_grain, [&](index_t first, index_t last) {
      for (index_t i = first; i < last; i += 4) {  // the grain is a multiple of the four words of a block
        const auto words = random.block(static_cast<std::uint64_t>(i / 4));
        for (index_t j = i; j < std::min(i + 4, last); ++j) {
          const T v = words[static_cast<std::size_t>(j - i)] < limit ? T(0) : keep * from[j];
          to[j] = beta == T(0) ? v : beta * to[j] + v;
        }
      }
    });
  };
  auto y = t.template empty<R>(x.shape());
  masked(t.ctx(), x.value.data, y.value.data, T(0));
  t.record({"dropout", static_cast<std::uint64_t>(n)}, y, x.needs_grad(), [masked, xi = x.id](tensor_view<const T, R> dy, tape<T>& g) {
    const auto to = g.grad(xi, dy.shape);
    masked(g.ctx(), dy.data, to.view.data, to.beta);
  });
  return y;
}

}  // namespace graft
