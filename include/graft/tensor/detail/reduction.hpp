// SPDX-License-Identifier: Apache-2.0
// How reductions run: states that gather elements, and the walks that feed them. Read next: tensor/reduce.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "graft/tensor/operand.hpp"

namespace graft::detail {

// A state gathers elements one by one with add(value, position), and takes in what another gathered with merge().

template <class T>
struct sum_state {
  using number = std::conditional_t<std::floating_point<T>, double, std::int64_t>;
  number total = 0;
  void add(T v, index_t) { take(static_cast<number>(v)); }
  void merge(const sum_state& o) { take(o.total); }

 private:
  void take(number v) {
    if constexpr (std::floating_point<T>) total += v;
    else __builtin_add_overflow(total, v, &total);  // wraps around
  }
};

/// Count, mean and sum of squared deviations. Source: Welford 1962; merging: Chan, Golub and LeVeque 1979.
template <class T>
struct moments_state {
  double count = 0, mean = 0, squares = 0;
  void add(T value, index_t) {
    const double v = static_cast<double>(value), d = v - mean;
    mean += d / ++count;
    squares += d * (v - mean);
  }
  void merge(const moments_state& o) {
    if (o.count == 0) return;
    const double d = o.mean - mean, all = count + o.count;
    mean += d * (o.count / all);
    squares += o.squares + d * d * (count / all) * o.count;
    count = all;
  }
};

struct larger {
  template <class T>
  static bool beats(T v, T w) { return v > w || (v != v && w == w); }
};
struct smaller {
  template <class T>
  static bool beats(T v, T w) { return v < w || (v != v && w == w); }
};

/// The winner and its position: the first among equals.
template <class T, class Rule>
struct extreme_state {
  T value{};
  index_t at = -1;
  void add(T v, index_t i) {
    if (at < 0 || Rule::beats(v, value)) value = v, at = i;
  }
  void merge(const extreme_state& o) {
    if (o.at < 0) return;
    if (at < 0 || Rule::beats(o.value, value) || (o.at < at && !Rule::beats(value, o.value))) *this = o;
  }
};

/// The largest element, and the sum of exp(element - largest).
template <class T>
struct exponentials_state {
  double most = -std::numeric_limits<double>::infinity(), sum = 0;
  void add(T v, index_t) { add_scaled(static_cast<double>(v), 1); }
  void merge(const exponentials_state& o) {
    if (o.sum != 0) add_scaled(o.most, o.sum);
  }
  double result() const { return most + std::log(sum); }

 private:
  void add_scaled(double v, double times) {
    if (v == most) sum += v < 0 && std::isinf(v) ? 0 : times;  // infinities have no difference
    else if (v < most) sum += times * std::exp(v - most);
    else sum = sum * std::exp(most - v) + times, most = v;
  }
};

/// Gathers a strided run in interleaved states, so that one addition need not wait for the last.
template <class State, class T>
void gather_run(State (&lanes)[8], const T* p, index_t n, index_t step, index_t position) {
  index_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (index_t j = 0; j < 8; ++j) lanes[j].add(p[(i + j) * step], position + i + j);
  for (index_t j = 0; i < n; ++i, ++j) lanes[j].add(p[i * step], position + i);
}
template <class State>
State merged(State (&lanes)[8]) {
  for (int half = 4; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j].merge(lanes[j + half]);
  return lanes[0];
}

/// All elements; positions count in row-major order.
template <class State, class T, std::size_t Rank>
State reduced(tensor_view<const T, Rank> x) {
  require_arithmetic<T>();
  State lanes[8];
  if (x.size() == 0) return lanes[0];
  const bool one_run = Rank == 0 || x.contiguous();
  const index_t n = one_run ? x.size() : x.shape[Rank - 1], step = one_run ? 1 : x.stride[Rank - 1];
  for (index_t position = 0; position < x.size(); position += n)
    gather_run(lanes, x.data + offset_of(position, x.shape, x.stride), n, step, position);
  return merged(lanes);
}

/// Every line along an axis; finish(state) gives the element of the result.
template <class State, class T, std::size_t Rank, class Finish>
auto reduced(tensor_view<const T, Rank> x, std::size_t axis, Finish finish) {
  static_assert(Rank > 0, "graft: a number of rank 0 has no axis to reduce");
  require_arithmetic<T>();
  tensor<std::invoke_result_t<Finish, const State&>, Rank - 1> out(without_axis(x.shape, axis));
  const index_t n = x.shape[axis], step = x.stride[axis];
  const auto stride = without_axis(x.stride, axis);
  index_t together = 1, beside = 0;  // lines that are walked in step, since their elements share cache lines
  if constexpr (Rank > 1)
    if (stride[Rank - 2] < step) together = 64, beside = stride[Rank - 2];
  index_t row = 1;
  if constexpr (Rank > 1) row = out.shape()[Rank - 2];
  for (index_t first = 0, count; first < out.size(); first += count) {
    const T* from = x.data + offset_of(first, out.shape(), stride);
    count = std::min(together, row - first % row);
    if (together == 1) {
      State lanes[8];
      gather_run(lanes, from, n, step, 0);
      out.data()[first] = finish(merged(lanes));
    } else {
      State lines[64];
      for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < count; ++j) lines[j].add(from[i * step + j * beside], i);
      for (index_t j = 0; j < count; ++j) out.data()[first + j] = finish(lines[j]);
    }
  }
  return out;
}

}  // namespace graft::detail
