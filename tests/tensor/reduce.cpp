// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/reduce.hpp"

#include <cmath>
#include <limits>

#include "graft/tensor/shape.hpp"
#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::layouts;
using test::some;

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();

/// f(elements of a line, as double) for every line along an axis.
template <class T, std::size_t Rank, class F>
tensor<double, Rank - 1> plain(const tensor<T, Rank>& x, std::size_t axis, F f) {
  tensor<double, Rank - 1> out(detail::without_axis(x.shape(), axis));
  index_t n = 0;
  test::for_each_position(out.shape(), [&](const extents<Rank - 1>& at) {
    std::vector<double> line;
    for (index_t i = 0; i < x.shape()[axis]; ++i) {
      index_t offset = 0;
      for (std::size_t k = 0, from = 0; k < Rank; ++k) offset = offset * x.shape()[k] + (k == axis ? i : at[from++]);
      line.push_back(static_cast<double>(x.data()[offset]));
    }
    out.data()[n++] = f(line);
  });
  return out;
}

using line = std::vector<double>;
double plain_sum(const line& v) {
  double s = 0;
  for (const double x : v) s += x;
  return s;
}
double plain_mean(const line& v) { return plain_sum(v) / static_cast<double>(v.size()); }
double plain_variance(const line& v) {
  double s = 0;
  for (const double x : v) s += (x - plain_mean(v)) * (x - plain_mean(v));
  return s / static_cast<double>(v.size());
}
double plain_logsumexp(const line& v) {
  double s = 0;
  for (const double x : v) s += std::exp(x);
  return std::log(s);
}
double plain_argmax(const line& v) { return static_cast<double>(std::max_element(v.begin(), v.end()) - v.begin()); }
double plain_argmin(const line& v) { return static_cast<double>(std::min_element(v.begin(), v.end()) - v.begin()); }

template <class T, std::size_t Rank>
void check_axes(extents<Rank> shape) {
  auto t = some<T>(shape, 7);
  if (t.size() > 9) t.data()[5] = t.data()[7] = t.data()[0];  // ties
  const double near = 4 * static_cast<double>(std::numeric_limits<std::conditional_t<std::floating_point<T>, T, double>>::epsilon());
  for (const auto& l : layouts(t))
    for (std::size_t a = 0; a < Rank; ++a) {
      const auto axis = static_cast<index_t>(a);
      INFO(to_string(shape) << ", axis " << a << ", " << l.name);
      const auto small = [&](double sums) { return sums * 8 * static_cast<double>(shape[a]) * std::numeric_limits<double>::epsilon() + near; };
      CHECK(max_difference(sum(l.view, axis), plain(t, a, plain_sum)) <= small(100) * static_cast<double>(shape[a]));
      CHECK(test::near(mean(l.view, axis).view(), plain(t, a, plain_mean).view(), 1) );
      CHECK(max_difference(mean(l.view, axis), plain(t, a, plain_mean)) <= small(100) * 100);
      CHECK(max_difference(variance(l.view, axis), plain(t, a, plain_variance)) <= small(100) * 10000);
      CHECK(max_difference(max(l.view, axis), plain(t, a, [](const line& v) { return *std::max_element(v.begin(), v.end()); })) == 0);
      CHECK(max_difference(min(l.view, axis), plain(t, a, [](const line& v) { return *std::min_element(v.begin(), v.end()); })) == 0);
      CHECK(max_difference(argmax(l.view, axis), plain(t, a, plain_argmax)) == 0);
      CHECK(max_difference(argmin(l.view, axis), plain(t, a, plain_argmin)) == 0);
      CHECK(max_difference(logsumexp(l.view, axis), plain(t, a, plain_logsumexp)) <= 100 * near);
    }
}

}  // namespace
