// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/norm.hpp"

#include "support/report.hpp"

namespace {

using namespace bench;

template <class T>
void plain_rms_norm(index_t rows, index_t columns, const T* x, const T* gain, T* y) {
  for (index_t n = 0; n < rows; ++n, x += columns, y += columns) {
    T square = 0;
    for (index_t c = 0; c < columns; ++c) square += x[c] * x[c];
    const T scale = 1 / std::sqrt(square / static_cast<T>(columns) + T(1e-5));
    for (index_t c = 0; c < columns; ++c) y[c] = x[c] * scale * gain[c];
  }
}

template <class T>
void plain_rms_norm_backward(index_t rows, index_t columns, const T* x, const T* gain, const T* dy, T* dx) {
  for (index_t n = 0; n < rows; ++n, x += columns, dy += columns, dx += columns) {
    T square = 0, dot = 0;
    for (index_t c = 0; c < columns; ++c) square += x[c] * x[c];
    const T scale = 1 / std::sqrt(square / static_cast<T>(columns) + T(1e-5));
    for (index_t c = 0; c < columns; ++c) dot += dy[c] * gain[c] * x[c];
    for (index_t c = 0; c < columns; ++c) dx[c] = scale * (dy[c] * gain[c] - x[c] * scale * scale * dot / static_cast<T>(columns));
  }
}

template <class T>
void plain_layer_norm(index_t rows, index_t columns, const T* x, const T* gain, const T* bias, T* y) {
  for (index_t n = 0; n < rows; ++n, x += columns, y += columns) {
    T mean = 0, square = 0;
    for (index_t c = 0; c < columns; ++c) mean += x[c];
    mean /= static_cast<T>(columns);
    for (index_t c = 0; c < columns; ++c) square += (x[c] - mean) * (x[c] - mean);
    const T scale = 1 / std::sqrt(square / static_cast<T>(columns) + T(1e-5));
    for (index_t c = 0; c < columns; ++c) y[c] = (x[c] - mean) * scale * gain[c] + bias[c];
  }
}

/// Inputs of a norm in both types, and what it writes.
template <class T>
struct arrays {
  tensor<T, 2> x, dy, out;
  tensor<T, 1> gain, bias, mean, scale;
  explicit arrays(activation_shape a)
      : x(random_tensor<T, 2>({a.rows, a.columns}, 1)), dy(random_tensor<T, 2>({a.rows, a.columns}, 2)), out({a.rows, a.columns}),
        gain(random_tensor<T, 1>({a.columns}, 3)), bias(random_tensor<T, 1>({a.columns}, 4)), mean({a.rows}), scale({a.rows}) {}
};

void rms_norm(benchmark::State& s) {
  const auto shape = activation_of(s);
  const index_t rows = shape.rows, columns = shape.columns;
  graft::context ctx;
  arrays<float> f(shape);
  arrays<double> d(shape);
  const auto run = [&] { graft::kernel::rms_norm<float>(ctx, rows, columns, f.x.data(), f.gain.data(), 1e-5, f.out.data(), f.scale.data()); };
  run();
  plain_rms_norm(rows, columns, d.x.data(), d.gain.data(), d.out.data());
  if (!verify(s, f.out, d.out)) return;
  measure(s, {.bytes = 2 * float_bytes * static_cast<double>(rows * columns)}, run,
          {{"plain", [&] { plain_rms_norm(rows, columns, f.x.data(), f.gain.data(), f.out.data()); }}});
}
BENCHMARK(rms_norm)->Apply(every_activation);

void rms_norm_backward(benchmark::State& s) {
  const auto shape = activation_of(s);
  const index_t rows = shape.rows, columns = shape.columns;
  graft::context ctx;
  arrays<float> f(shape);
  arrays<double> d(shape);
  graft::kernel::rms_norm<float>(ctx, rows, columns, f.x.data(), f.gain.data(), 1e-5, f.out.data(), f.scale.data());
  const auto run = [&] {
    graft::kernel::rms_norm_backward<float>(ctx, rows, columns, f.x.data(), f.gain.data(), f.scale.data(), f.dy.data(), f.out.data(), 0.0f);
  };
  run();
  plain_rms_norm_backward(rows, columns, d.x.data(), d.gain.data(), d.dy.data(), d.out.data());
  if (!verify(s, f.out, d.out)) return;
  measure(s, {.bytes = 3 * float_bytes * static_cast<double>(rows * columns)}, run,
          {{"plain", [&] { plain_rms_norm_backward(rows, columns, f.x.data(), f.gain.data(), f.dy.data(), f.out.data()); }}});
}
BENCHMARK(rms_norm_backward)->Apply(every_activation);

void layer_norm(benchmark::State& s) {
  const auto shape = activation_of(s);
  const index_t rows = shape.rows, columns = shape.columns;
  graft::context ctx;
  arrays<float> f(shape);
  arrays<double> d(shape);
  const auto run = [&] {
    graft::kernel::layer_norm<float>(ctx, rows, columns, f.x.data(), f.gain.data(), f.bias.data(), 1e-5, f.out.data(), f.mean.data(), f.scale.data());
  };
  run();
  plain_layer_norm(rows, columns, d.x.data(), d.gain.data(), d.bias.data(), d.out.data());
  if (!verify(s, f.out, d.out)) return;
  measure(s, {.bytes = 2 * float_bytes * static_cast<double>(rows * columns)}, run,
          {{"plain", [&] { plain_layer_norm(rows, columns, f.x.data(), f.gain.data(), f.bias.data(), f.out.data()); }}});
}
BENCHMARK(layer_norm)->Apply(every_activation);

}  // namespace
