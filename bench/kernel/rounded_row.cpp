// SPDX-License-Identifier: Apache-2.0
// What it takes to keep activations in 16 bits: rounding them to blocks, and widening these, of one layer's size and of more than caches hold.
#include "graft/kernel/rounded_row.hpp"

#include <vector>

#include "support/report.hpp"

namespace {

using namespace bench;
namespace kernel = graft::kernel;

struct example {
  tensor<float, 2> x, y;
  std::vector<kernel::rounded_block> blocks;
  graft::context ctx;

  explicit example(activation_shape shape)
      : x(random_tensor<float, 2>({shape.rows, shape.columns}, 1)), y(x.shape()), blocks(static_cast<std::size_t>(kernel::rounded_blocks(x.size()))) {}

  void round() { kernel::round_to_blocks<float>(ctx, x.size(), x.data(), blocks.data()); }
  void widen() { kernel::values_of_blocks<float>(ctx, x.size(), blocks.data(), y.data()); }
  double bytes() const { return float_bytes * static_cast<double>(x.size()) + static_cast<double>(blocks.size() * sizeof(kernel::rounded_block)); }
};

template <void (example::*Run)()>
void rounding(benchmark::State& s) {
  example e(activation_of(s));
  e.round();
  e.widen();
  if (!verify(s, e.y, e.x, 1 / 65000.0)) return;
  measure(s, {.bytes = e.bytes()}, [&] { (e.*Run)(); });
}
BENCHMARK(rounding<&example::round>)->Name("round_to_blocks")->Apply(every_activation);
BENCHMARK(rounding<&example::widen>)->Name("values_of_blocks")->Apply(every_activation);

}  // namespace
