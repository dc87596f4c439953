// SPDX-License-Identifier: Apache-2.0
// + - * / between tensors, views and numbers, and the common functions of an element. Read next: tensor/compare.hpp.
//
// Shapes broadcast. Both sides have one element type, and a number takes the type of the tensor it meets. Integers wrap
// around as unsigned ones do; dividing an integer by zero throws error. Each operation is one pass on the calling thread:
// use map() to fuse several into one, or to use more threads.
#pragma once
#include <cmath>

#include "graft/tensor/map.hpp"

namespace graft {

namespace detail {

/// f on unsigned integers that are wide enough not to be promoted: signed overflow is undefined, this wraps.
template <std::integral V, class F>
constexpr V wrapped(F f, V a, V b) noexcept {
  using wide = std::common_type_t<unsigned, std::make_unsigned_t<V>>;
  return static_cast<V>(f(static_cast<wide>(a), static_cast<wide>(b)));
}

struct add_function {
  template <class V>
  V operator()(V a, V b) const {
    if constexpr (std::integral<V>) return wrapped([](auto x, auto y) { return x + y; }, a, b);
    else return a + b;
  }
};
struct subtract_function {
  template <class V>
  V operator()(V a, V b) const {
    if constexpr (std::integral<V>) return wrapped([](auto x, auto y) { return x - y; }, a, b);
    else return a - b;
  }
};
struct multiply_function {
  template <class V>
  V operator()(V a, V b) const {
    if constexpr (std::integral<V>) return wrapped([](auto x, auto y) { return x * y; }, a, b);
    else return a * b;
  }
};
struct divide_function {
  template <class V>
  V operator()(V a, V b) const {
    if constexpr (std::integral<V>) {
      if (b == 0) throw_error<error>("divide: an integer (", a, ") is divided by zero");
      if constexpr (std::is_signed_v<V>)
        if (b == -1) return subtract_function{}(V(0), a);  // the least integer has no opposite: it wraps
      return static_cast<V>(a / b);
    } else {
      return a / b;
    }
  }
};
/// A number beside a tensor of T: a tensor of rank 0.
template <class T, class S>
struct number_operand {
  static_assert(std::floating_point<T> || std::integral<S>,
                "graft: a number with a fraction meets a tensor of integers: use cast<double>(x) first");
  T value;
  operator tensor_view<const T, 0>() const noexcept { return {&value, {}}; }
};

template <class A, class B>
concept operands = (tensor_like<A> && (tensor_like<B> || std::is_arithmetic_v<B>)) || (tensor_like<B> && std::is_arithmetic_v<A>);

/// Calls f with both operands as views of one element type.
template <class A, class B, class F>
decltype(auto) with_operands(const A& a, const B& b, F f) {
  if constexpr (!tensor_like<B>) {
    require_arithmetic<element_of<A>>();
    const number_operand<element_of<A>, B> number{static_cast<element_of<A>>(b)};
    return f(const_view(a), tensor_view<const element_of<A>, 0>(number));
  } else if constexpr (!tensor_like<A>) {
    require_arithmetic<element_of<B>>();
    const number_operand<element_of<B>, A> number{static_cast<element_of<B>>(a)};
    return f(tensor_view<const element_of<B>, 0>(number), const_view(b));
  } else {
    require_one_type<element_of<A>, element_of<B>>();
    return f(const_view(a), const_view(b));
  }
}

template <class F, class A, class B>
auto combine(std::string_view operation, F f, const A& a, const B& b) {
  return with_operands(a, b, [&](auto x, auto y) {
    context ctx;
    return map_as(ctx, operation, f, x, y);
  });
}
template <class F, class A, class B>
A&& combine_into(std::string_view operation, F f, A&& a, const B& b) {
  with_operands(a, b, [&](auto x, auto y) {
    context ctx;
    map_into_as(ctx, operation, a, f, x, y);
  });
  return static_cast<A&&>(a);
}

template <class F, tensor_like X>
auto transformed(F f, const X& x) {
  require_floating<element_of<X>>();
  return map(f, x);
}

}  // namespace detail

template <class A, class B>
  requires detail::operands<A, B>
auto operator+(const A& a, const B& b) { return detail::combine("add", detail::add_function{}, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto operator-(const A& a, const B& b) { return detail::combine("subtract", detail::subtract_function{}, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto operator*(const A& a, const B& b) { return detail::combine("multiply", detail::multiply_function{}, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto operator/(const A& a, const B& b) { return detail::combine("divide", detail::divide_function{}, a, b); }

template <tensor_like X>
auto operator-(const X& x) {
  detail::require_arithmetic<element_of<X>>();
  if constexpr (std::floating_point<element_of<X>>) return x * element_of<X>(-1);  // 0 - x would lose the sign of 0
  else return element_of<X>(0) - x;
}

/// In place, through views too: `x.row(0) += 1`. b broadcasts to a's shape, and may overlap it.
template <tensor_like A, class B>
  requires detail::operands<A, B>
A&& operator+=(A&& a, const B& b) { return detail::combine_into("add", detail::add_function{}, static_cast<A&&>(a), b); }
template <tensor_like A, class B>
  requires detail::operands<A, B>
A&& operator-=(A&& a, const B& b) { return detail::combine_into("subtract", detail::subtract_function{}, static_cast<A&&>(a), b); }
template <tensor_like A, class B>
  requires detail::operands<A, B>
A&& operator*=(A&& a, const B& b) { return detail::combine_into("multiply", detail::multiply_function{}, static_cast<A&&>(a), b); }
template <tensor_like A, class B>
  requires detail::operands<A, B>
A&& operator/=(A&& a, const B& b) { return detail::combine_into("divide", detail::divide_function{}, static_cast<A&&>(a), b); }

/// The larger and the smaller of two elements. With a NaN on either side the result is one of the two.
template <class A, class B>
  requires detail::operands<A, B>
auto maximum(const A& a, const B& b) { return detail::combine("maximum", [](auto x, auto y) { return simd::max(x, y); }, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto minimum(const A& a, const B& b) { return detail::combine("minimum", [](auto x, auto y) { return simd::min(x, y); }, a, b); }

// Functions of every element, for tensors of float and double.
template <tensor_like X>
auto exp(const X& x) { return detail::transformed([](auto v) { return simd::exp(v); }, x); }
template <tensor_like X>
auto log(const X& x) { return detail::transformed([](auto v) { return simd::log(v); }, x); }
template <tensor_like X>
auto sqrt(const X& x) { return detail::transformed([](auto v) { return simd::sqrt(v); }, x); }
template <tensor_like X>
auto tanh(const X& x) { return detail::transformed([](auto v) { return simd::tanh(v); }, x); }
template <tensor_like X>
auto sin(const X& x) { return detail::transformed([](auto v) { return simd::sin(v); }, x); }
template <tensor_like X>
auto cos(const X& x) { return detail::transformed([](auto v) { return simd::cos(v); }, x); }
template <tensor_like X>
auto abs(const X& x) { return detail::transformed([](auto v) { return simd::abs(v); }, x); }

}  // namespace graft
