// SPDX-License-Identifier: Apache-2.0
// Products with weights in a storage type, next to the same values stored as floats: 256 tokens with one weight, and a
// single token, whole or rounded to 16 bits, with weights that come from memory. A new storage type is one line at the end.
#include <string>
#include <vector>

#include "graft/core/frozen_array.hpp"
#include "graft/kernel/gemm.hpp"
#include "graft/nn/storage.hpp"
#include "graft/precompiled.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;
constexpr linear_shape layer = one_layer;

/// `count` weights in the type, and as floats of the very same values.
struct weights {
  std::vector<graft::frozen_array> stored, floats;
  weights(graft::dtype type, index_t count) {
    for (index_t l = 0; l < count; ++l) {
      stored.push_back(graft::convert_array(graft::frozen_array(random_tensor<float, 2>({layer.out, layer.in}, static_cast<std::uint64_t>(l))), type));
      floats.emplace_back(stored.back().to_tensor<float, 2>());
    }
  }
  double bytes() const {
    double sum = 0;
    for (const auto& w : stored) sum += static_cast<double>(w.bytes().size());
    return sum;
  }
};

void product(benchmark::State& s, graft::dtype type, bool forward, index_t tokens, index_t count, graft::product_precision precision = {}) {
  graft::context ctx;
  ctx.products = precision;
  const weights w(type, count);
  const auto x = random_tensor<float, 2>({tokens, forward ? layer.in : layer.out}, 99);
  tensor<float, 2> y({tokens, forward ? layer.out : layer.in});
  const auto run = [&](const std::vector<graft::frozen_array>& all) {
    for (const auto& one : all) {
      if (forward) graft::kernel::matmul_nt<float>(ctx, x, one.matrix(), y);
      else graft::kernel::matmul_nn<float>(ctx, x, one.matrix(), y);
    }
  };
  run({w.floats.begin(), w.floats.begin() + 1});
  const auto expected = y.clone();
  run({w.stored.begin(), w.stored.begin() + 1});
  if (!verify(s, y, expected, precision == graft::product_precision::full ? 1e-5 : 1e-4)) return;
  const double values = static_cast<double>(count * layer.out * layer.in);
  measure(s, {.flops = 2 * static_cast<double>(tokens) * values, .bytes = w.bytes(), .only_reads = true}, [&] { run(w.stored); }, {{"floats", [&] { run(w.floats); }}});
}

const bool registered = [] {
  for (const graft::dtype type : {graft::dtype::bf16, graft::dtype::f16, graft::dtype::q8_0, graft::dtype::q4_0, graft::dtype::nf4}) {
    const std::string name = "stored/" + std::string(graft::name_of(type));
    benchmark::RegisterBenchmark((name + "/nt/tokens:256").c_str(), [type](benchmark::State& s) { product(s, type, true, 256, 1); });
    benchmark::RegisterBenchmark((name + "/nn/tokens:256").c_str(), [type](benchmark::State& s) { product(s, type, false, 256, 1); });
    benchmark::RegisterBenchmark((name + "/nt/tokens:1").c_str(), [type](benchmark::State& s) { product(s, type, true, 1, 48); });
    if (type == graft::dtype::q8_0 || type == graft::dtype::q4_0)
      benchmark::RegisterBenchmark((name + "/nt/tokens:1/int16").c_str(),
                                   [type](benchmark::State& s) { product(s, type, true, 1, 48, graft::product_precision::int16); });
  }
  return true;
}();

}  // namespace
