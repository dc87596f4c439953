// SPDX-License-Identifier: Apache-2.0
// One pass over any number of arrays with a function of vectors; the functions of operations and optimisers by name; the
// activation functions with their derivatives.
// Read next: kernel/norm.hpp, tensor/map.hpp for views of any shape.
#pragma once
#include <algorithm>
#include <numbers>

#include "graft/core/context.hpp"
#include "graft/simd/simd.hpp"

namespace graft::kernel {

/// Elements one task covers: enough to be worth handing to another thread.
inline constexpr index_t map_grain = 8192;

/// out[i] = f(in[i]...) + beta * out[i] for contiguous arrays of n elements. f takes and returns vectors; the lanes past
/// the end of the arrays are zeros. With beta = 0 the old contents are not read. out may be one of the inputs.
template <class T, class Arch = simd::default_arch, class F, class... In>
void map(context& ctx, index_t n, T* out, T beta, F f, const In*... in) {
  constexpr index_t w = simd::width<T, Arch>;
  ctx.executor().parallel_for(n, map_grain, [&](index_t first, index_t last) {
    const simd::batch<T, Arch> keep(beta);
    index_t i = first;
    if (beta == T(0)) {
      for (; i + w <= last; i += w) simd::store(out + i, f(simd::load<T, Arch>(in + i)...));
    } else {
      for (; i + w <= last; i += w)
        simd::store(out + i, simd::fma(keep, simd::load<T, Arch>(out + i), f(simd::load<T, Arch>(in + i)...)));
    }
    if (const index_t rest = last - i; rest != 0) {
      auto v = f(simd::load_partial<T, Arch>(in + i, rest)...);
      if (beta != T(0)) v = simd::fma(keep, simd::load_partial<T, Arch>(out + i, rest), v);
      simd::store_partial(out + i, v, rest);
    }
  });
}

/// y(n, c) += bias(c), rows of y `ldy` apart.
template <class T, class Arch = simd::default_arch>
void add_bias(context& ctx, index_t rows, index_t columns, T* y, index_t ldy, const T* bias) {
  constexpr index_t w = simd::width<T, Arch>;
  ctx.executor().parallel_for(rows, 1 + map_grain / (columns + 1), [&](index_t first, index_t last) {
    for (index_t r = first; r < last; ++r) {
      T* row = y + r * ldy;
      index_t c = 0;
      for (; c + w <= columns; c += w)
        simd::store(row + c, simd::load<T, Arch>(row + c) + simd::load<T, Arch>(bias + c));
      if (const index_t rest = columns - c; rest != 0)
        simd::store_partial(row + c, simd::load_partial<T, Arch>(row + c, rest) + simd::load_partial<T, Arch>(bias + c, rest), rest);
    }
  });
}

/// out(c) = sum over n of f(n, c) + beta * out(c), where f(n, c, lanes) gives the vector of terms that starts at column c.
/// Tasks split the columns, so every sum runs over the rows in order.
template <class T, class Arch = simd::default_arch, class F>
void sum_rows(context& ctx, index_t rows, index_t columns, T* out, T beta, F f) {
  using batch = simd::batch<T, Arch>;
  constexpr index_t w = simd::width<T, Arch>;
  constexpr int vectors = 4;  // side by side, so that whole stretches of a row are used while they are at hand
  ctx.executor().parallel_for(columns, vectors * w, [&](index_t first, index_t last) {
    batch sum[vectors];
    for (int j = 0; j < vectors; ++j) sum[j] = batch(T(0));
    for (index_t n = 0; n < rows; ++n)
      for (int j = 0; j < vectors; ++j)
        if (const index_t c = first + j * w; c < last) sum[j] += f(n, c, std::min(w, last - c));
    for (int j = 0; j < vectors; ++j) {
      const index_t c = first + j * w;
      if (c >= last) break;
      const index_t lanes = std::min(w, last - c);
      if (beta != T(0)) sum[j] = simd::fma(batch(beta), simd::load_first<T, Arch>(out + c, lanes), sum[j]);
      simd::store_first(out + c, sum[j], lanes);
    }
  });
}

namespace detail {
/// A constant in every lane of V, or V itself when that is a plain number.
template <class V>
GRAFT_INLINE V constant(double c) {
  if constexpr (simd::any_batch<V>) return V(static_cast<typename V::value_type>(c));
  else return static_cast<V>(c);
}
}  // namespace detail

// Activations. Each gives value(x) and derivative(x), for vectors and for plain numbers.

struct relu_function {
  template <class V>
  GRAFT_INLINE static V value(V x) { return simd::max(x, V(0)); }
  template <class V>
  GRAFT_INLINE static V derivative(V x) { return simd::select(x > V(0), V(1), V(0)); }
};

/// x * sigmoid(x). Source: Elfwing et al. 2017. The exponential is a power of two, which takes less time; what rounding its exponent adds to
/// the relative error, up to |x| 2^-24, is felt only where the sigmoid vanishes.
struct silu_function {
  template <class V>
  GRAFT_INLINE static V sigmoid(V x) { return V(1) / (V(1) + simd::exp2(detail::constant<V>(-std::numbers::log2e) * x)); }
  template <class V>
  GRAFT_INLINE static V value(V x) { return x * sigmoid(x); }
  template <class V>
  GRAFT_INLINE static V derivative(V x) {
    const V s = sigmoid(x);
    return s * (V(1) + x * (V(1) - s));
  }
};

/// x * Phi(x) with the normal distribution's Phi. Source: Hendrycks and Gimpel 2016.
struct gelu_erf_function {
  template <class V>
  GRAFT_INLINE static V phi(V x) { return simd::fma(detail::constant<V>(0.5), simd::erf(x * detail::constant<V>(0.70710678118654752)), detail::constant<V>(0.5)); }
  template <class V>
  GRAFT_INLINE static V value(V x) { return x * phi(x); }
  template <class V>
  GRAFT_INLINE static V derivative(V x) {
    return phi(x) + x * detail::constant<V>(0.39894228040143268) * simd::exp2(detail::constant<V>(-0.5 * std::numbers::log2e) * x * x);
  }
};

/// 0.5 x (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3), written as x * sigmoid(2u).
struct gelu_tanh_function {
  template <class V>
  GRAFT_INLINE static V twice_u(V x) { return detail::constant<V>(1.5957691216057308) * (x + detail::constant<V>(0.044715) * x * x * x); }
  template <class V>
  GRAFT_INLINE static V value(V x) { return x * silu_function::sigmoid(twice_u(x)); }
  template <class V>
  GRAFT_INLINE static V derivative(V x) {
    const V s = silu_function::sigmoid(twice_u(x));
    return s + x * s * (V(1) - s) * detail::constant<V>(1.5957691216057308) * (V(1) + detail::constant<V>(3 * 0.044715) * x * x);
  }
};

struct tanh_function {
  template <class V>
  GRAFT_INLINE static V value(V x) { return simd::tanh(x); }
  template <class V>
  GRAFT_INLINE static V derivative(V x) {
    const V t = simd::tanh(x);
    return V(1) - t * t;
  }
};

// Functions for map. What operations are made of has a name here, so that graft::precompiled can hold it; a lambda is compiled
// where it stands.

struct plus {
  template <class V>
  GRAFT_INLINE V operator()(V a, V b) const { return a + b; }
};

struct times {
  template <class V>
  GRAFT_INLINE V operator()(V a, V b) const { return a * b; }
};

template <class T>
struct times_constant {
  T factor;
  template <class V>
  GRAFT_INLINE V operator()(V a) const { return a * V(factor); }
};

/// An activation, its gradient from that of the result, and the same two where the result is multiplied by a second operand.
template <class Function>
struct value_of {
  template <class V>
  GRAFT_INLINE V operator()(V x) const { return Function::value(x); }
};
template <class Function>
struct gradient_of {
  template <class V>
  GRAFT_INLINE V operator()(V dy, V x) const { return dy * Function::derivative(x); }
};
template <class Function>
struct gated_value_of {
  template <class V>
  GRAFT_INLINE V operator()(V gate, V up) const { return Function::value(gate) * up; }
};
template <class Function>
struct gated_gradient_of {
  template <class V>
  GRAFT_INLINE V operator()(V dy, V gate, V up) const { return dy * up * Function::derivative(gate); }
};

}  // namespace graft::kernel
