// SPDX-License-Identifier: Apache-2.0
// Comparisons whose tolerance is derived, not tuned: max|difference| <= tolerance * max|reference|, per array.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <ostream>
#include <span>
#include <string>

#include "graft/core/tensor.hpp"

namespace graft::test {

/// What rounding may do to a sum of `length` products: a few units in the last place for every doubling would be typical,
/// one for every term is the bound.
template <class T>
double tolerance(index_t length) {
  return static_cast<double>(length + 4) * static_cast<double>(std::numeric_limits<T>::epsilon());
}

struct comparison {
  bool near = true;
  double difference = 0, scale = 0, bound = 0;
  explicit operator bool() const { return near; }
  friend std::ostream& operator<<(std::ostream& out, const comparison& c) {
    return out << "max difference " << c.difference << ", max reference " << c.scale << ", allowed " << c.bound;
  }
};

template <class A, class B, std::size_t Rank>
comparison near(tensor_view<A, Rank> got, tensor_view<B, Rank> reference, double relative) {
  comparison c;
  if (got.shape != reference.shape) return {false, 0, 0, 0};
  detail::zip_elements(got, reference, [&](const auto& x, const auto& y) {
    const double d = std::abs(static_cast<double>(x) - static_cast<double>(y));
    c.difference = std::isnan(d) ? std::numeric_limits<double>::infinity() : std::max(c.difference, d);
    c.scale = std::max(c.scale, std::abs(static_cast<double>(y)));
  });
  c.bound = relative * c.scale;
  c.near = c.difference <= c.bound;
  return c;
}
template <class T, class U, std::size_t Rank>
comparison near(const tensor<T, Rank>& got, const tensor<U, Rank>& reference, double relative) {
  return near(got.view(), reference.view(), relative);
}

template <class A, class B, std::size_t Rank>
bool equal_bits(tensor_view<A, Rank> a, tensor_view<B, Rank> b) {
  bool same = a.shape == b.shape;
  if (same) detail::zip_elements(a, b, [&](const auto& x, const auto& y) { same = same && __builtin_memcmp(&x, &y, sizeof x) == 0; });
  return same;
}
template <class T, std::size_t Rank>
bool equal_bits(const tensor<T, Rank>& a, const tensor<T, Rank>& b) { return equal_bits(a.view(), b.view()); }

/// A tensor of numbers in [-1, 1) that follow from the seed.
template <class T, std::size_t Rank>
tensor<T, Rank> random_tensor(extents<Rank> shape, std::uint64_t seed) {
  tensor<T, Rank> t(shape);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (T& v : t.span()) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    v = static_cast<T>(static_cast<double>(static_cast<std::int64_t>(state) >> 11) * 0x1p-52);
  }
  return t;
}

}  // namespace graft::test
