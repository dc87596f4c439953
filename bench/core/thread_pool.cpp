// SPDX-License-Identifier: Apache-2.0
// Two threads next to one, by the clock on the wall: products and attention in cache, and a product bound by memory.
#include "graft/core/thread_pool.hpp"

#include <vector>

#include "graft/kernel/attention.hpp"
#include "graft/kernel/attention_backward.hpp"
#include "graft/kernel/gemm.hpp"
#include "graft/precompiled.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;
namespace kernel = graft::kernel;

/// Runs `work` on a context of one thread and on one of two; `y`, which it fills, must come out the same to the last bit.
template <class Work>
void two_threads(benchmark::State& s, double flops, tensor<float, 2>& y, const Work& work) {
  graft::thread_pool pool(2);
  graft::context one, two(pool);
  work(one);
  const auto expected = y.clone();
  std::fill_n(y.data(), y.size(), 0.0f);
  work(two);
  if (!verify(s, y, expected, 0)) return;
  measure(s, {.flops = flops}, [&] { work(two); }, {{"one_thread", [&] { work(one); }}}, {7, 0.01, wall_seconds});
}

void two_threads_nt(benchmark::State& s, index_t tokens, index_t weights) {
  constexpr linear_shape layer = one_layer;
  std::vector<tensor<float, 2>> all;
  for (index_t l = 0; l < weights; ++l) all.push_back(random_tensor<float, 2>({layer.out, layer.in}, static_cast<std::uint64_t>(l)));
  const auto x = random_tensor<float, 2>({tokens, layer.in}, 99);
  tensor<float, 2> y({tokens, layer.out});
  two_threads(s, 2.0 * static_cast<double>(tokens * weights * layer.out * layer.in), y, [&](graft::context& ctx) {
    for (const auto& w : all) kernel::matmul_nt<float>(ctx, x, w.view(), y);
  });
}
void two_threads_nn(benchmark::State& s) {
  constexpr linear_shape layer = one_layer;
  const auto w = random_tensor<float, 2>({layer.out, layer.in}, 1), dy = random_tensor<float, 2>({256, layer.out}, 2);
  tensor<float, 2> dx({256, layer.in});
  two_threads(s, 2.0 * static_cast<double>(256 * layer.out * layer.in), dx, [&](graft::context& ctx) { kernel::matmul_nn<float>(ctx, dy, w.view(), dx); });
}
void two_threads_attention(benchmark::State& s, bool backward) {
  const attention_shape shape = attention_layers[1];
  const index_t n = shape.sequence, heads = shape.heads, kv_heads = shape.kv_heads, d = shape.head_size;
  const std::vector<index_t> offsets{0, n};
  const kernel::attention_layout at{heads, kv_heads, d, 1 / std::sqrt(static_cast<double>(d)), true, offsets, offsets};
  const auto q = random_tensor<float, 2>({n, heads * d}, 1), k = random_tensor<float, 2>({n, kv_heads * d}, 2),
             v = random_tensor<float, 2>({n, kv_heads * d}, 3), dy = random_tensor<float, 2>({n, heads * d}, 4);
  tensor<float, 2> y(q.shape()), log_sum({n, heads}), dq(q.shape()), dk(k.shape()), dv(v.shape());
  graft::context first;
  kernel::attention<float>(first, at, q, k, v, y, log_sum.data());
  const double pairs = static_cast<double>(heads * d) * static_cast<double>(n * (n + 1) / 2);
  two_threads(s, (backward ? 10.0 : 4.0) * pairs, backward ? dq : y, [&](graft::context& ctx) {
    if (!backward) return kernel::attention<float>(ctx, at, q, k, v, y, log_sum.data());
    kernel::attention_backward<float>(ctx, at, q, k, v, y, log_sum.data(), dy, {dq.data(), dq.shape()[1], 0}, {dk.data(), dk.shape()[1], 0},
                                      {dv.data(), dv.shape()[1], 0});
  });
}
BENCHMARK_CAPTURE(two_threads_nt, in_cache, 256, 1);
BENCHMARK_CAPTURE(two_threads_nt, from_memory, 1, 24);
BENCHMARK(two_threads_nn);
BENCHMARK_CAPTURE(two_threads_attention, forward, false);
BENCHMARK_CAPTURE(two_threads_attention, backward, true);

}  // namespace
