// SPDX-License-Identifier: Apache-2.0
// Products in bf16 next to those in float, and to the peaks of vectors and of matrix registers. Nothing where the processor has none.
#include "graft/kernel/bf16_operand.hpp"

#include <string>

#include "graft/kernel/gemm.hpp"
#include "graft/precompiled.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;

#if defined(GRAFT_BF16_PRODUCTS)

/// Multiply-adds of pairs in all vector registers; returns their flops.
GRAFT_FOR_BF16 double vector_burst() {
  constexpr int accumulators = 24, steps = 20000;
  float pair = 1;
  asm volatile("" : "+m"(pair));
  const __m512 by = _mm512_set1_ps(pair);
  __m512 acc[accumulators];
  GRAFT_UNROLL
  for (int i = 0; i < accumulators; ++i) acc[i] = _mm512_set1_ps(static_cast<float>(i));  // equal ones would be merged
  for (int n = 0; n < steps; ++n) {
    GRAFT_UNROLL
    for (int i = 0; i < accumulators; ++i) acc[i] = graft::simd::add_pair_products(by, by, acc[i]);
  }
  __m512 sum = _mm512_setzero_ps();
  GRAFT_UNROLL
  for (int i = 0; i < accumulators; ++i) sum = _mm512_add_ps(sum, acc[i]);
  volatile float sink = _mm512_reduce_add_ps(sum);
  (void)sink;
  return 4.0 * 16 * accumulators * steps;
}

/// The same in matrix registers.
GRAFT_FOR_BF16_MATRICES double matrix_burst() {
  constexpr int steps = 2000;
  const graft::kernel::detail::matrix_registers registers;
  alignas(64) float pairs[16 * 16] = {};
  _tile_loadd(6, pairs, 64);
  _tile_loadd(7, pairs, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int n = 0; n < steps; ++n) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
  }
  _tile_stored(0, pairs, 64);
  return 4.0 * 2 * 16 * 16 * 32 * steps;
}

void product(benchmark::State& s, linear_shape layer, bool forward) {
  constexpr index_t tokens = 256;
  graft::context full, ctx;
  ctx.products = graft::product_precision::bf16;
  const auto w = random_tensor<float, 2>({layer.out, layer.in}, 1), x = random_tensor<float, 2>({tokens, forward ? layer.in : layer.out}, 2);
  tensor<float, 2> y({tokens, forward ? layer.out : layer.in});
  const auto run = [&](graft::context& c) {
    if (forward) graft::kernel::matmul_nt<float>(c, x, w.view(), y);
    else graft::kernel::matmul_nn<float>(c, x, w.view(), y);
  };
  run(full);
  const auto expected = y.clone();
  run(ctx);
  if (!verify(s, y, expected, 1e-2)) return;
  const double flops = 2.0 * tokens * static_cast<double>(layer.out * layer.in);
  double vector_flops = 0, matrix_flops = 0;
  std::vector<contender> others = {{"floats", [&] { run(full); }}, {"vectors", [&] { vector_flops = vector_burst(); }}};
  if (graft::simd::runs_bf16_matrices()) others.push_back({"matrices", [&] { matrix_flops = matrix_burst(); }});
  measure(s, {.flops = flops}, [&] { run(ctx); }, others);
  const auto share = [&](const std::string& name, double burst) {
    for (const char* const which : {"", "_at_best"}) s.counters["of_peak_by_" + name + which] = s.counters["vs_" + name + which].value * flops / burst;
  };
  share("vectors", vector_flops);
  if (matrix_flops != 0) share("matrices", matrix_flops);
}

const bool registered = [] {
  if (!graft::kernel::multiplies_in_bf16<float>()) return false;
  for (const linear_shape& layer : linear_layers)
    for (const bool forward : {true, false}) {
      const std::string name = std::string("bf16_products/") + (forward ? "nt/" : "nn/") + std::to_string(layer.out) + "x" + std::to_string(layer.in);
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& s) { product(s, layer, forward); });
    }
  return true;
}();

#endif

}  // namespace
