// SPDX-License-Identifier: Apache-2.0
// Sums, means, extremes and the like, over one axis or over everything. Read next: tensor/softmax.hpp.
//
// `f(x, axis)` gives a tensor without that axis, `f(x)` a number. Negative axes count from the end: -1 is the last. Put the
// axis back with insert_axis() to combine a result with x. Floating-point numbers are added in double and rounded once,
// integers in 64 bits. A NaN among the elements makes the result NaN; max, min, argmax and argmin find the first NaN.
// Over an empty axis a sum is 0 and logsumexp is -infinity; everything else throws shape_error. All run on the calling
// thread, over eight partial results whose order follows from the shape and the strides alone.
#pragma once
#include <cstdint>

#include "graft/tensor/detail/reduction.hpp"

namespace graft {

namespace detail {

/// The type in which results about T come where T itself would not do.
template <class T>
using real_of = std::conditional_t<std::floating_point<T>, T, double>;

/// The axis, which must not be empty.
template <class T, std::size_t Rank>
std::size_t filled_axis(std::string_view operation, tensor_view<T, Rank> x, index_t axis) {
  const std::size_t a = checked_axis(operation, axis, Rank);
  if (x.shape[a] == 0) throw_error<shape_error>(operation, ": axis ", a, " of ", to_string(x.shape), " is empty");
  return a;
}
template <class T, std::size_t Rank>
tensor_view<T, Rank> filled(std::string_view operation, tensor_view<T, Rank> x) {
  if (x.size() == 0) throw_error<shape_error>(operation, ": a tensor of shape ", to_string(x.shape), " is empty");
  return x;
}

template <tensor_like X>
using sum_result = std::conditional_t<std::floating_point<element_of<X>>, element_of<X>, std::int64_t>;
template <tensor_like X>
using maximum_state = extreme_state<element_of<X>, larger>;
template <tensor_like X>
using minimum_state = extreme_state<element_of<X>, smaller>;

}  // namespace detail

/// The sum. Of integers, std::int64_t.
template <tensor_like X>
auto sum(const X& x, index_t axis) {
  using state = detail::sum_state<element_of<X>>;
  return detail::reduced<state>(detail::const_view(x), detail::checked_axis("sum", axis, rank_of<X>),
                                [](const state& s) { return static_cast<detail::sum_result<X>>(s.total); });
}
template <tensor_like X>
auto sum(const X& x) {
  return static_cast<detail::sum_result<X>>(detail::reduced<detail::sum_state<element_of<X>>>(detail::const_view(x)).total);
}

/// The arithmetic mean. Of integers, double.
template <tensor_like X>
auto mean(const X& x, index_t axis) {
  using state = detail::sum_state<element_of<X>>;
  const auto v = detail::const_view(x);
  const std::size_t a = detail::filled_axis("mean", v, axis);
  return detail::reduced<state>(v, a, [n = static_cast<double>(v.shape[a])](const state& s) {
    return static_cast<detail::real_of<element_of<X>>>(static_cast<double>(s.total) / n);
  });
}
template <tensor_like X>
auto mean(const X& x) {
  const auto v = detail::filled("mean", detail::const_view(x));
  const auto s = detail::reduced<detail::sum_state<element_of<X>>>(v);
  return static_cast<detail::real_of<element_of<X>>>(static_cast<double>(s.total) / static_cast<double>(v.size()));
}

struct variance_options {
  index_t correction = 0;  ///< the squared deviations are divided by n - correction: 1 gives the unbiased estimate
};

/// The mean squared deviation from the mean. Of integers, double. With n = correction the result is NaN.
template <tensor_like X>
auto variance(const X& x, index_t axis, variance_options o = {}) {
  using state = detail::moments_state<element_of<X>>;
  const auto v = detail::const_view(x);
  return detail::reduced<state>(v, detail::filled_axis("variance", v, axis), [o](const state& s) {
    return static_cast<detail::real_of<element_of<X>>>(s.squares / (s.count - static_cast<double>(o.correction)));
  });
}
template <tensor_like X>
auto variance(const X& x, variance_options o = {}) {
  const auto s = detail::reduced<detail::moments_state<element_of<X>>>(detail::filled("variance", detail::const_view(x)));
  return static_cast<detail::real_of<element_of<X>>>(s.squares / (s.count - static_cast<double>(o.correction)));
}

/// The largest and the smallest element.
template <tensor_like X>
auto max(const X& x, index_t axis) {
  const auto v = detail::const_view(x);
  return detail::reduced<detail::maximum_state<X>>(v, detail::filled_axis("max", v, axis), [](const auto& s) { return s.value; });
}
template <tensor_like X>
auto max(const X& x) {
  return detail::reduced<detail::maximum_state<X>>(detail::filled("max", detail::const_view(x))).value;
}
template <tensor_like X>
auto min(const X& x, index_t axis) {
  const auto v = detail::const_view(x);
  return detail::reduced<detail::minimum_state<X>>(v, detail::filled_axis("min", v, axis), [](const auto& s) { return s.value; });
}
template <tensor_like X>
auto min(const X& x) {
  return detail::reduced<detail::minimum_state<X>>(detail::filled("min", detail::const_view(x))).value;
}

/// Where the first of the largest, or smallest, elements stands: along the axis (std::int64_t), or in row-major order.
template <tensor_like X>
auto argmax(const X& x, index_t axis) {
  const auto v = detail::const_view(x);
  return detail::reduced<detail::maximum_state<X>>(v, detail::filled_axis("argmax", v, axis),
                                                   [](const auto& s) { return std::int64_t{s.at}; });
}
template <tensor_like X>
index_t argmax(const X& x) {
  return detail::reduced<detail::maximum_state<X>>(detail::filled("argmax", detail::const_view(x))).at;
}
template <tensor_like X>
auto argmin(const X& x, index_t axis) {
  const auto v = detail::const_view(x);
  return detail::reduced<detail::minimum_state<X>>(v, detail::filled_axis("argmin", v, axis),
                                                   [](const auto& s) { return std::int64_t{s.at}; });
}
template <tensor_like X>
index_t argmin(const X& x) {
  return detail::reduced<detail::minimum_state<X>>(detail::filled("argmin", detail::const_view(x))).at;
}

/// log(sum of exp(x)), for any size of x without overflow. Of integers, double.
template <tensor_like X>
auto logsumexp(const X& x, index_t axis) {
  using state = detail::exponentials_state<element_of<X>>;
  return detail::reduced<state>(detail::const_view(x), detail::checked_axis("logsumexp", axis, rank_of<X>),
                                [](const state& s) { return static_cast<detail::real_of<element_of<X>>>(s.result()); });
}
template <tensor_like X>
auto logsumexp(const X& x) {
  return static_cast<detail::real_of<element_of<X>>>(
      detail::reduced<detail::exponentials_state<element_of<X>>>(detail::const_view(x)).result());
}

}  // namespace graft
