// SPDX-License-Identifier: Apache-2.0
// Sorting along an axis, and the largest few. Read next: tensor/print.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>

#include "graft/tensor/operand.hpp"

namespace graft {

struct sort_options {
  bool descending = false;  ///< largest first
};

template <class T, std::size_t Rank>
struct top_k_result {
  tensor<T, Rank> values;
  tensor<std::int64_t, Rank> indices;
};

namespace detail {

/// The order of sorting: a NaN counts as larger than every number.
template <class T>
bool sorts_before(T a, T b) noexcept { return a < b || (b != b && a == a); }

/// Calls f(line, n) for every line along an axis of a copy of x; the copy, each line changed by f.
template <tensor_like X, class F>
auto with_lines(std::string_view operation, const X& x, index_t axis, F f) {
  constexpr std::size_t rank = rank_of<X>;
  require_arithmetic<element_of<X>>();
  const std::size_t a = checked_axis(operation, axis, rank);
  auto lines = const_view(x).permute(axis_last<rank>(a)).clone();
  const index_t n = lines.shape()[rank - 1];
  auto result = f(lines, n);
  return a + 1 == rank ? std::move(result) : result.permute(axis_back<rank>(a)).clone();
}

/// Positions 0 ... n - 1 of a line in the order of its values; equal ones keep theirs. Only the first k need be in order.
template <class T>
void order_line(const T* line, std::int64_t* positions, index_t n, index_t k, sort_options o) {
  std::iota(positions, positions + n, std::int64_t{0});
  const auto before = [&](std::int64_t i, std::int64_t j) {
    const T a = o.descending ? line[j] : line[i], b = o.descending ? line[i] : line[j];
    return sorts_before(a, b) || (!sorts_before(b, a) && i < j);
  };
  if (k == n) std::sort(positions, positions + n, before);
  else std::partial_sort(positions, positions + k, positions + n, before);
}

}  // namespace detail

/// A copy with every line along an axis in ascending order. A NaN counts as larger than every number.
/// Cost: n log n a line; any axis but the last costs a transposed copy more.
template <tensor_like X>
auto sort(const X& x, index_t axis = -1, sort_options o = {}) {
  return detail::with_lines("sort", x, axis, [o](auto& lines, index_t n) {
    using T = element_of<X>;
    for (index_t first = 0; first < lines.size(); first += n) {
      T* const line = lines.data() + first;
      if (o.descending) std::sort(line, line + n, [](T a, T b) { return detail::sorts_before(b, a); });
      else std::sort(line, line + n, detail::sorts_before<T>);
    }
    return std::move(lines);
  });
}

/// The positions, along the axis, that sort() would take the elements from; equal elements keep their order.
template <tensor_like X>
auto argsort(const X& x, index_t axis = -1, sort_options o = {}) {
  return detail::with_lines("argsort", x, axis, [o](auto& lines, index_t n) {
    tensor<std::int64_t, rank_of<X>> positions(lines.shape());
    for (index_t first = 0; first < lines.size(); first += n)
      detail::order_line(lines.data() + first, positions.data() + first, n, n, o);
    return positions;
  });
}

/// The k largest elements of every line along the last axis, largest first, and where they stood. Among equal ones the
/// first comes first; a NaN counts as larger than every number. Throws shape_error unless 0 <= k <= the extent.
template <tensor_like X>
auto top_k(const X& x, index_t k) {
  using T = element_of<X>;
  constexpr std::size_t rank = rank_of<X>;
  static_assert(rank > 0, "graft: a number of rank 0 has no axis to choose from");
  detail::require_arithmetic<T>();
  const auto lines = detail::const_view(x).clone();
  auto shape = lines.shape();
  const index_t n = shape[rank - 1];
  if (k < 0 || k > n) throw_error<shape_error>("top_k: ", k, " of the ", n, " elements of the last axis of ", to_string(shape));
  shape[rank - 1] = k;
  top_k_result<T, rank> best{tensor<T, rank>(shape), tensor<std::int64_t, rank>(shape)};
  tensor<std::int64_t, 1> positions({n});
  for (index_t r = 0; r * k < best.values.size(); ++r) {
    const T* const line = lines.data() + r * n;
    detail::order_line(line, positions.data(), n, k, {.descending = true});
    for (index_t i = 0; i < k; ++i) {
      best.indices.data()[r * k + i] = positions(i);
      best.values.data()[r * k + i] = line[positions(i)];
    }
  }
  return best;
}

}  // namespace graft
