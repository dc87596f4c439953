// SPDX-License-Identifier: Apache-2.0
// New tensors: constant, counted, random, converted or copied. From nested braces: tensor<T, Rank>::of.
// Read next: tensor/arithmetic.hpp.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "graft/core/random.hpp"
#include "graft/tensor/broadcast.hpp"

namespace graft {

namespace detail {

template <std::size_t Rank>
extents<Rank> to_extents(const index_t (&shape)[Rank]) {
  extents<Rank> e;
  std::copy_n(shape, Rank, e.begin());
  return e;
}

template <class T, std::size_t Rank, class Draw>
tensor<T, Rank> drawn(extents<Rank> shape, Draw draw) {
  static_assert(std::floating_point<T>, "graft: random numbers are drawn as float or double: use cast<To>() on them");
  tensor<T, Rank> t(shape);
  for (T& v : t.span()) v = static_cast<T>(draw());
  return t;
}

/// Rounds towards zero; what lies outside the range of To becomes its nearest end, and NaN becomes 0.
template <class To, class From>
To saturated(From v) noexcept {
  if (!(v == v)) return 0;
  if (v <= static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
  if (v >= static_cast<From>(std::numeric_limits<To>::max())) return std::numeric_limits<To>::max();
  return static_cast<To>(v);
}

template <class To, class From>
To cast_element(From v) noexcept {
  if constexpr (storage_only<From> && std::integral<To>) return saturated<To>(to_float(v));
  else if constexpr (std::floating_point<From> && std::integral<To>) return saturated<To>(v);
  else return convert<To>(v);
}

}  // namespace detail

/// Zeros: `zeros<float>(2, 3)`, or `zeros<float>(x.shape())`. Throws shape_error on a negative or impossible extent.
template <class T, std::convertible_to<index_t>... I>
tensor<T, sizeof...(I)> zeros(I... shape) { return tensor<T, sizeof...(I)>::zeros({static_cast<index_t>(shape)...}); }
template <class T, std::size_t Rank>
tensor<T, Rank> zeros(extents<Rank> shape) { return tensor<T, Rank>::zeros(shape); }

/// One value everywhere: `full({2, 3}, 1.5f)`, or `full(x.shape(), 1.5f)`.
template <class T, std::size_t Rank>
tensor<T, Rank> full(const index_t (&shape)[Rank], T value) { return tensor<T, Rank>::full(detail::to_extents(shape), value); }
template <class T, std::size_t Rank>
tensor<T, Rank> full(extents<Rank> shape, T value) { return tensor<T, Rank>::full(shape, value); }

/// first, first + step, ... before last. Throws option_error for a step of 0 or NaN, or more numbers than there can be.
template <class T>
tensor<T, 1> arange(std::type_identity_t<T> first, std::type_identity_t<T> last, std::type_identity_t<T> step = 1) {
  static_assert(std::is_arithmetic_v<T>, "graft: bf16 and f16 only store numbers: cast<bf16>(arange<float>(...))");
  const double begin = static_cast<double>(first), by = static_cast<double>(step);
  const double length = (static_cast<double>(last) - begin) / by;
  if (by == 0 || !(length < 0x1p62))
    throw_error<option_error>("arange: from ", first, " to ", last, " in steps of ", step, " has no end");
  if constexpr (std::integral<T>) {  // exactly, where a double cannot, and without overflow
    using wide = std::uint64_t;
    const bool up = step > T(0);
    const wide stride = up ? static_cast<wide>(step) : wide(0) - static_cast<wide>(step);
    const wide distance = static_cast<wide>(up ? last : first) - static_cast<wide>(up ? first : last);
    tensor<T, 1> t({(up ? first < last : last < first) ? static_cast<index_t>((distance - 1) / stride + 1) : 0});
    for (index_t i = 0; i < t.size(); ++i)
      t(i) = static_cast<T>(static_cast<wide>(first) + static_cast<wide>(i) * static_cast<wide>(step));
    return t;
  } else {
    tensor<T, 1> t({length > 0 ? static_cast<index_t>(std::ceil(length)) : 0});
    for (index_t i = 0; i < t.size(); ++i) t(i) = static_cast<T>(begin + static_cast<double>(i) * by);
    return t;
  }
}
/// 0, 1, ... last - 1.
template <class T>
tensor<T, 1> arange(std::type_identity_t<T> last) { return arange<T>(T(0), last); }

/// `count` numbers at equal distances, first and last included. One number is `first`. Throws option_error for count < 0.
template <class T>
tensor<T, 1> linspace(std::type_identity_t<T> first, std::type_identity_t<T> last, index_t count) {
  static_assert(std::floating_point<T>, "graft: linspace makes float or double: use arange for integers");
  if (count < 0) throw_error<option_error>("linspace: ", count, " numbers were asked for");
  tensor<T, 1> t({count});
  const double from = static_cast<double>(first), step = count < 2 ? 0 : (static_cast<double>(last) - from) / static_cast<double>(count - 1);
  for (index_t i = 0; i < count; ++i) t(i) = static_cast<T>(from + static_cast<double>(i) * step);
  if (count > 1) t(count - 1) = last;
  return t;
}

/// The identity matrix.
template <class T>
tensor<T, 2> eye(index_t n) {
  auto t = tensor<T, 2>::zeros({n, n});
  for (index_t i = 0; i < n; ++i) t(i, i) = convert<T>(1.0f);
  return t;
}

/// Independent numbers from a stream, which moves on: `random_uniform<float>(random, {2, 3})`. Uniform in [low, high).
template <class T, std::size_t Rank>
tensor<T, Rank> random_uniform(random_stream& random, extents<Rank> shape, double low = 0, double high = 1) {
  return detail::drawn<T>(shape, [&] { return random.uniform(low, high); });
}
template <class T, std::size_t Rank>
tensor<T, Rank> random_uniform(random_stream& random, const index_t (&shape)[Rank], double low = 0, double high = 1) {
  return random_uniform<T>(random, detail::to_extents(shape), low, high);
}
/// The same, normally distributed.
template <class T, std::size_t Rank>
tensor<T, Rank> random_normal(random_stream& random, extents<Rank> shape, double mean = 0, double deviation = 1) {
  return detail::drawn<T>(shape, [&] { return mean + deviation * random.normal(); });
}
template <class T, std::size_t Rank>
tensor<T, Rank> random_normal(random_stream& random, const index_t (&shape)[Rank], double mean = 0, double deviation = 1) {
  return random_normal<T>(random, detail::to_extents(shape), mean, deviation);
}

/// A copy in another element type, bf16 and f16 included. Floating-point numbers become integers by dropping the fraction;
/// what lies outside the integer's range becomes its nearest end, and NaN becomes 0. Integers wrap around.
template <class To, tensor_like X>
tensor<To, rank_of<X>> cast(const X& x) {
  const auto from = detail::const_view(x);
  tensor<To, rank_of<X>> t(from.shape);
  detail::zip_elements(t.view(), from, [](To& to, const auto& v) { to = detail::cast_element<To>(v); });
  return t;
}

/// Copies x into a tensor or view that is there already, broadcast to its shape. They may overlap. Throws shape_error.
template <tensor_like Out, tensor_like X>
void copy_into(Out&& out, const X& x) {
  detail::require_one_type<element_of<Out>, element_of<X>>();
  const auto to = detail::mutable_view(out);
  const detail::undisturbed from(to, detail::broadcast_to("copy_into", detail::const_view(x), to.shape));
  detail::zip_elements(to, from.view, [](auto& a, const auto& b) { a = b; });
}

/// Sets every element of a tensor or view.
template <tensor_like Out>
void fill(Out&& out, std::type_identity_t<element_of<Out>> value) {
  copy_into(out, tensor_view<const element_of<Out>, 0>(&value, {}));
}

}  // namespace graft
