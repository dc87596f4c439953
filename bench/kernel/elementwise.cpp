// SPDX-License-Identifier: Apache-2.0
// The gate of a SwiGLU block as its operation computes it, with two streams in and one out, and GELU with one in, one out.
#include "graft/kernel/elementwise.hpp"

#include "support/report.hpp"

namespace {

using namespace bench;

template <class T>
void plain_swiglu(index_t n, const T* gate, const T* up, T* y) {
  for (index_t i = 0; i < n; ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

void swiglu(benchmark::State& s) {
  const activation_shape shape = activation_of(s);
  const index_t rows = shape.rows, columns = shape.columns;
  graft::context ctx;
  const auto gate = random_tensor<float, 2>({rows, columns}, 1), up = random_tensor<float, 2>({rows, columns}, 2);
  const auto gate_d = random_tensor<double, 2>({rows, columns}, 1), up_d = random_tensor<double, 2>({rows, columns}, 2);
  tensor<float, 2> y({rows, columns});
  tensor<double, 2> expected({rows, columns});
  const auto run = [&] {
    graft::kernel::map<float>(ctx, y.size(), y.data(), 0.0f, graft::kernel::gated_value_of<graft::kernel::silu_function>{}, gate.data(), up.data());
  };
  run();
  plain_swiglu(y.size(), gate_d.data(), up_d.data(), expected.data());
  if (!verify(s, y, expected)) return;
  measure(s, {.bytes = 3 * float_bytes * static_cast<double>(y.size())}, run,
          {{"plain", [&] { plain_swiglu(y.size(), gate.data(), up.data(), y.data()); }}});
}
BENCHMARK(swiglu)->Apply(every_activation);

template <class T>
void plain_gelu(index_t n, const T* x, T* y) {
  for (index_t i = 0; i < n; ++i) y[i] = x[i] * (1 + std::erf(x[i] * T(0.70710678118654752))) / 2;
}

void gelu_erf(benchmark::State& s) {
  const activation_shape shape = activation_of(s);
  const index_t rows = shape.rows, columns = shape.columns;
  graft::context ctx;
  const auto x = random_tensor<float, 2>({rows, columns}, 1);
  const auto x_d = random_tensor<double, 2>({rows, columns}, 1);
  tensor<float, 2> y({rows, columns});
  tensor<double, 2> expected({rows, columns});
  const auto run = [&] {
    graft::kernel::map<float>(ctx, y.size(), y.data(), 0.0f, [](auto v) { return graft::kernel::gelu_erf_function::value(v); }, x.data());
  };
  run();
  plain_gelu(y.size(), x_d.data(), expected.data());
  if (!verify(s, y, expected)) return;
  measure(s, {.bytes = 2 * float_bytes * static_cast<double>(y.size())}, run, {{"plain", [&] { plain_gelu(y.size(), x.data(), y.data()); }}});
}
BENCHMARK(gelu_erf)->Apply(every_activation);

}  // namespace
