// SPDX-License-Identifier: Apache-2.0
// The register tile alone, over panels that stay in the second-level cache: what every large product could reach.
#include "graft/kernel/tile.hpp"

#include "support/report.hpp"

namespace {

using namespace bench;
namespace kernel = graft::kernel;
using shape = kernel::tile_shape<float>;

void tile(benchmark::State& s) {
  constexpr index_t rows = 16 * shape::rows, columns = 3 * shape::columns, depth = 384;
  const auto a = random_tensor<float, 2>({rows, depth}, 1);
  const auto b = random_tensor<float, 2>({depth, columns}, 2);  // three panels side by side, copied apart below
  tensor<float, 3> panels({columns / shape::columns, depth, shape::columns});
  for (index_t k = 0; k < depth; ++k)
    for (index_t j = 0; j < columns; ++j) panels(j / shape::columns, k, j % shape::columns) = b(k, j);
  tensor<float, 2> c({rows, columns});
  const auto run = [&] {
    for (index_t p = 0; p < columns / shape::columns; ++p)
      for (index_t i = 0; i < rows; i += shape::rows)
        kernel::run_tile<shape::rows, shape::vectors, kernel::broadcast::from_rows, kernel::store::straight, float>(
            depth, &a(i, 0), depth, &panels(p, 0, 0), shape::columns, {&c(i, p * shape::columns), columns, 1.0f, 0.0f, shape::columns});
  };
  run();
  auto expected = tensor<double, 2>::zeros({rows, columns});
  for (index_t i = 0; i < rows; ++i)
    for (index_t k = 0; k < depth; ++k)
      for (index_t j = 0; j < columns; ++j) expected(i, j) += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
  if (!verify(s, c, expected, graft::test::tolerance<float>(depth))) return;
  measure(s, {.flops = 2.0 * static_cast<double>(rows * columns * depth)}, run);
}
BENCHMARK(tile);

}  // namespace
