// SPDX-License-Identifier: Apache-2.0
// Comparisons: element by element into masks of 0 and 1, and of whole tensors. Read next: tensor/reduce.hpp.
#pragma once
#include <cmath>
#include <limits>

#include "graft/tensor/arithmetic.hpp"

namespace graft {

/// Masks: std::uint8_t, 1 where the comparison holds. Shapes broadcast; either side may be a number. A NaN is unequal to
/// everything.
template <class A, class B>
  requires detail::operands<A, B>
auto less(const A& a, const B& b) { return detail::combine("less", [](auto x, auto y) { return x < y; }, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto less_equal(const A& a, const B& b) { return detail::combine("less_equal", [](auto x, auto y) { return x <= y; }, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto greater(const A& a, const B& b) { return detail::combine("greater", [](auto x, auto y) { return x > y; }, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto greater_equal(const A& a, const B& b) { return detail::combine("greater_equal", [](auto x, auto y) { return x >= y; }, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto equal(const A& a, const B& b) { return detail::combine("equal", [](auto x, auto y) { return x == y; }, a, b); }
template <class A, class B>
  requires detail::operands<A, B>
auto not_equal(const A& a, const B& b) { return detail::combine("not_equal", [](auto x, auto y) { return x != y; }, a, b); }

/// a where the mask is not 0, b elsewhere; either may be a number. Shapes broadcast. Throws shape_error.
template <tensor_like M, class A, class B>
  requires detail::operands<A, B>
auto where(const M& mask, const A& a, const B& b) {
  static_assert(std::integral<element_of<M>>, "graft: a mask holds integers, as less() and its like make them");
  return detail::with_operands(a, b, [&](auto x, auto y) {
    context ctx;
    return detail::map_as(ctx, "where", [](auto m, auto v, auto w) { return m != 0 ? v : w; }, detail::const_view(mask), x, y);
  });
}

/// Whether every, and whether any, element differs from 0. Of no elements: true, and false. sum(mask) counts them.
template <tensor_like X>
bool all(const X& x) {
  bool result = true;
  detail::zip_elements(detail::const_view(x), detail::const_view(x), [&](const auto& v, const auto&) { result = result && v != 0; });
  return result;
}
template <tensor_like X>
bool any(const X& x) {
  bool result = false;
  detail::zip_elements(detail::const_view(x), detail::const_view(x), [&](const auto& v, const auto&) { result = result || v != 0; });
  return result;
}

/// Whether shapes and elements are equal. A NaN is unequal to everything.
template <tensor_like A, tensor_like B>
bool all_equal(const A& a, const B& b) {
  detail::require_one_type<element_of<A>, element_of<B>>();
  const auto x = detail::const_view(a);
  const auto y = detail::const_view(b);
  if constexpr (rank_of<A> == rank_of<B>) {
    bool same = x.shape == y.shape;
    if (same) detail::zip_elements(x, y, [&](const auto& v, const auto& w) { same = same && v == w; });
    return same;
  } else {
    return false;
  }
}

namespace detail {
/// Calls f(double, double) for pairs of elements of equal shapes, of any types. Throws shape_error.
template <tensor_like A, tensor_like B, class F>
void for_each_pair(std::string_view operation, const A& a, const B& b, F f) {
  static_assert(rank_of<A> == rank_of<B>, "graft: tensors of different rank are compared");
  const auto x = const_view(a);
  const auto y = const_view(b);
  if (x.shape != y.shape)
    throw_error<shape_error>(operation, ": the shapes differ: ", to_string(x.shape), " and ", to_string(y.shape));
  zip_elements(x, y, [&](const auto& v, const auto& w) { f(convert<double>(v), convert<double>(w)); });
}
}  // namespace detail

struct closeness {
  double relative = 1e-5;  ///< share of the second tensor's element that may differ; >= 0
  double absolute = 1e-8;  ///< what may differ in any case; >= 0
};

/// Whether |a - b| <= absolute + relative |b| for every pair of elements, computed in double; element types may differ.
/// Equal infinities are close, a NaN is close to nothing. Throws shape_error unless the shapes are equal.
template <tensor_like A, tensor_like B>
bool all_close(const A& a, const B& b, closeness within = {}) {
  bool close = true;
  detail::for_each_pair("all_close", a, b, [&](double v, double w) {
    const bool finite = std::abs(w) <= std::numeric_limits<double>::max();
    close = close && (v == w || (finite && std::abs(v - w) <= within.absolute + within.relative * std::abs(w)));
  });
  return close;
}

/// The largest |a - b|, computed in double; element types may differ. 0 for no elements and for equal infinities; NaN as
/// soon as there is one on either side. Throws shape_error unless the shapes are equal.
template <tensor_like A, tensor_like B>
double max_abs_difference(const A& a, const B& b) {
  double most = 0;
  detail::for_each_pair("max_abs_difference", a, b, [&](double v, double w) {
    const double d = v == w ? 0 : std::abs(v - w);
    if (!(d <= most) && most == most) most = d;
  });
  return most;
}

}  // namespace graft
