// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/embedding.hpp"

#include <cstring>

#include "graft/core/random.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;
constexpr index_t vocabulary = 49152, width = 576, rows = 2048;

std::vector<std::int32_t> random_ids() {
  graft::random_stream random(1);
  std::vector<std::int32_t> ids(rows);
  for (auto& id : ids) id = static_cast<std::int32_t>(random.below(vocabulary));
  return ids;
}

/// Rows of a float table; the baseline is one memcpy a row.
void gather_rows(benchmark::State& s) {
  graft::context ctx;
  const auto table = random_tensor<float, 2>({vocabulary, width}, 1);
  const auto ids = random_ids();
  tensor<float, 2> y({rows, width}), expected({rows, width});
  const auto run = [&] { graft::kernel::gather_rows<float>(ctx, table.view(), ids.data(), rows, y.data(), 0.0f); };
  const auto plain = [&](tensor<float, 2>& to) {
    for (index_t n = 0; n < rows; ++n) std::memcpy(&to(n, 0), &table(ids[static_cast<std::size_t>(n)], 0), width * sizeof(float));
  };
  run();
  plain(expected);
  if (!verify(s, y, expected, 0)) return;
  measure(s, {.bytes = 2 * float_bytes * rows * width}, run, {{"memcpy", [&] { plain(y); }}});
}
BENCHMARK(gather_rows);

/// The gradient of an embedding that is trained: clears the table, then adds.
void scatter_rows(benchmark::State& s) {
  graft::context ctx;
  const auto dy = random_tensor<float, 2>({rows, width}, 1);
  const auto ids = random_ids();
  tensor<float, 2> table({vocabulary, width}), expected({vocabulary, width});
  const auto run = [&] { graft::kernel::scatter_rows<float>(ctx, dy.data(), ids.data(), rows, table, 0.0f); };
  const auto plain = [&](tensor<float, 2>& to) {
    std::memset(to.data(), 0, static_cast<std::size_t>(to.size()) * sizeof(float));
    for (index_t n = 0; n < rows; ++n)
      for (index_t c = 0; c < width; ++c) to(ids[static_cast<std::size_t>(n)], c) += dy(n, c);
  };
  run();
  plain(expected);
  if (!verify(s, table, expected, 0)) return;
  measure(s, {.bytes = float_bytes * static_cast<double>(table.size() + 3 * dy.size())}, run, {{"plain", [&] { plain(table); }}});
}
BENCHMARK(scatter_rows);

}  // namespace
