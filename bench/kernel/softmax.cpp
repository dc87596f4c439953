// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/softmax.hpp"

#include "support/report.hpp"

namespace {

using namespace bench;

template <class T>
void plain_softmax(index_t rows, index_t columns, T* x) {
  for (index_t n = 0; n < rows; ++n, x += columns) {
    const T most = *std::max_element(x, x + columns);
    T sum = 0;
    for (index_t c = 0; c < columns; ++c) sum += x[c] = std::exp(x[c] - most);
    for (index_t c = 0; c < columns; ++c) x[c] /= sum;
  }
}

template <class T>
void plain_cross_entropy(index_t rows, index_t columns, T* logits, const std::int32_t* labels, T factor, T* loss) {
  for (index_t n = 0; n < rows; ++n, logits += columns) {
    const T most = *std::max_element(logits, logits + columns);
    T sum = 0;
    for (index_t c = 0; c < columns; ++c) sum += std::exp(logits[c] - most);
    loss[n] = most + std::log(sum) - logits[labels[n]];
    for (index_t c = 0; c < columns; ++c) logits[c] = factor * std::exp(logits[c] - most) / sum;
    logits[labels[n]] -= factor;
  }
}

/// In place: every call normalises what the last one left, which costs the same.
void softmax(benchmark::State& s) {
  const activation_shape shape = activation_of(s);
  const index_t rows = shape.rows, columns = shape.columns;
  graft::context ctx;
  auto x = random_tensor<float, 2>({rows, columns}, 1), plain = x.clone();
  auto expected = random_tensor<double, 2>({rows, columns}, 1);
  graft::kernel::softmax_rows<float>(ctx, rows, columns, x.data(), columns);
  plain_softmax(rows, columns, expected.data());
  if (!verify(s, x, expected)) return;
  measure(s, {.bytes = 2 * float_bytes * static_cast<double>(rows * columns)},
          [&] { graft::kernel::softmax_rows<float>(ctx, rows, columns, x.data(), columns); },
          {{"plain", [&] { plain_softmax(rows, columns, plain.data()); }}});
}
BENCHMARK(softmax)->Apply(every_activation);

/// The rows of one chunk of the fused loss, at the vocabulary of SmolLM.
void cross_entropy_rows(benchmark::State& s) {
  constexpr index_t rows = 128, columns = 49152;
  graft::context ctx;
  auto x = random_tensor<float, 2>({rows, columns}, 1), plain = x.clone();
  auto expected = random_tensor<double, 2>({rows, columns}, 1);
  std::vector<std::int32_t> labels(rows, 7);
  std::vector<float> loss(rows), plain_loss(rows);
  std::vector<double> expected_loss(rows);
  graft::kernel::cross_entropy_rows<float>(ctx, rows, columns, x.data(), labels.data(), 1.0f, loss.data());
  plain_cross_entropy(rows, columns, expected.data(), labels.data(), 1.0, expected_loss.data());
  if (!verify(s, x, expected) || !verify<float, double>(s, loss, expected_loss, 1e-5)) return;
  measure(s, {.bytes = 2 * float_bytes * rows * columns},
          [&] { graft::kernel::cross_entropy_rows<float>(ctx, rows, columns, x.data(), labels.data(), 1.0f, loss.data()); },
          {{"plain", [&] { plain_cross_entropy(rows, columns, plain.data(), labels.data(), 1.0f, plain_loss.data()); }}});
}
BENCHMARK(cross_entropy_rows);

}  // namespace
