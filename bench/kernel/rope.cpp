// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/rope.hpp"

#include <numeric>

#include "support/report.hpp"

namespace {

using namespace bench;

/// Positions count up from zero, so row n of the tables belongs to row n of x.
template <class T>
void plain_rotation(index_t rows, index_t heads, index_t head_size, const T* x, const T* cosine, const T* sine, T* y) {
  const index_t half = head_size / 2;
  for (index_t n = 0; n < rows; ++n)
    for (index_t h = 0; h < heads; ++h, x += head_size, y += head_size)
      for (index_t i = 0; i < half; ++i) {
        const T c = cosine[n * half + i], s = sine[n * half + i], a = x[i], b = x[half + i];
        y[i] = a * c - b * s;
        y[half + i] = b * c + a * s;
      }
}

template <class T>
tensor<T, 2> table(index_t rows, index_t half, double (*f)(double)) {
  tensor<T, 2> t({rows, half});
  for (index_t n = 0; n < rows; ++n)
    for (index_t i = 0; i < half; ++i) t(n, i) = static_cast<T>(f(static_cast<double>(n) * std::pow(1e4, -static_cast<double>(i) / static_cast<double>(half))));
  return t;
}

void rope(benchmark::State& s) {
  const attention_shape shape = attention_of(s);
  const index_t rows = shape.sequence, heads = shape.heads, d = shape.head_size;
  graft::context ctx;
  const auto x = random_tensor<float, 2>({rows, heads * d}, 1);
  const auto x_d = random_tensor<double, 2>({rows, heads * d}, 1);
  const auto cosine = table<float>(rows, d / 2, std::cos), sine = table<float>(rows, d / 2, std::sin);
  const auto cosine_d = table<double>(rows, d / 2, std::cos), sine_d = table<double>(rows, d / 2, std::sin);
  tensor<float, 2> y(x.shape());
  tensor<double, 2> expected(x.shape());
  std::vector<std::int32_t> positions(static_cast<std::size_t>(rows));
  std::iota(positions.begin(), positions.end(), 0);
  const auto run = [&] {
    graft::kernel::rotate_positions<float>(ctx, rows, heads, d, x.data(), positions.data(), cosine.data(), sine.data(), false, y.data(), 0.0f);
  };
  run();
  plain_rotation(rows, heads, d, x_d.data(), cosine_d.data(), sine_d.data(), expected.data());
  if (!verify(s, y, expected)) return;
  measure(s, {.bytes = float_bytes * static_cast<double>(2 * x.size() + 2 * cosine.size())}, run,
          {{"plain", [&] { plain_rotation(rows, heads, d, x.data(), cosine.data(), sine.data(), y.data()); }}});
}
BENCHMARK(rope)->Apply(every_attention);

}  // namespace
