// SPDX-License-Identifier: Apache-2.0
// Causal attention forward and backward. The baseline takes the textbook's steps, with whole score matrices, on our own
// dense products. GFLOP/s count the visible half alone, for both.
#include "graft/kernel/attention.hpp"

#include "graft/kernel/attention_backward.hpp"
#include "graft/kernel/softmax.hpp"
#include "graft/precompiled.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;
namespace kernel = graft::kernel;

struct example {
  attention_shape shape;
  std::vector<index_t> offsets;
  tensor<float, 2> q, k, v, dy, y, log_sum, dq, dk, dv;
  tensor<float, 3> p;  // (H, S, S), what the baseline keeps for backward
  tensor<float, 2> dp;

  explicit example(attention_shape a)
      : shape(a), offsets{0, a.sequence}, q(rows(a.heads, 1)), k(rows(a.kv_heads, 2)), v(rows(a.kv_heads, 3)), dy(rows(a.heads, 4)), y(q.shape()),
        log_sum({a.sequence, a.heads}), dq(q.shape()), dk(k.shape()), dv(v.shape()), p({a.heads, a.sequence, a.sequence}), dp({a.sequence, a.sequence}) {}

  tensor<float, 2> rows(index_t heads, std::uint64_t seed) const { return random_tensor<float, 2>({shape.sequence, heads * shape.head_size}, seed); }
  double scale() const { return 1 / std::sqrt(static_cast<double>(shape.head_size)); }
  kernel::attention_layout layout() const { return {shape.heads, shape.kv_heads, shape.head_size, scale(), true, offsets, offsets}; }
  graft::tensor_view<float, 2> head(const tensor<float, 2>& x, index_t h) const {
    return const_cast<tensor<float, 2>&>(x).view().slice(1, h * shape.head_size, (h + 1) * shape.head_size);
  }
  double pairs() const { return static_cast<double>(shape.heads * shape.sequence * (shape.sequence + 1) / 2); }

  void forward(graft::context& ctx) { kernel::attention<float>(ctx, layout(), q, k, v, y, log_sum.data()); }
  void backward(graft::context& ctx) {
    kernel::attention_backward<float>(ctx, layout(), q, k, v, y, log_sum.data(), dy, {dq.data(), dq.shape()[1], 0}, {dk.data(), dk.shape()[1], 0},
                                      {dv.data(), dv.shape()[1], 0});
  }

  void plain_forward(graft::context& ctx) {
    const index_t n = shape.sequence;
    for (index_t h = 0; h < shape.heads; ++h) {
      const index_t g = h / (shape.heads / shape.kv_heads);
      const auto scores = p.view().row(h);
      kernel::matmul_nt<float>(ctx, head(q, h), head(k, g), scores, {scale(), 0});
      for (index_t i = 0; i < n; ++i)
        for (index_t j = i + 1; j < n; ++j) scores(i, j) = -std::numeric_limits<float>::infinity();
      kernel::softmax_rows<float>(ctx, n, n, scores.data, n);
      kernel::matmul_nn<float>(ctx, scores, head(v, g), head(y, h));
    }
  }
  void plain_backward(graft::context& ctx) {
    const index_t n = shape.sequence, group = shape.heads / shape.kv_heads;
    for (index_t h = 0; h < shape.heads; ++h) {
      const index_t g = h / group;
      const auto probabilities = p.view().row(h);
      const kernel::product_scale add{1, h % group == 0 ? 0.0 : 1.0};
      kernel::matmul_tn<float>(ctx, probabilities, head(dy, h), head(dv, g), add);
      kernel::matmul_nt<float>(ctx, head(dy, h), head(v, g), dp);
      kernel::softmax_backward<float>(ctx, n, n, probabilities.data, dp.data(), dp.data(), 0.0f);
      kernel::matmul_nn<float>(ctx, dp, head(k, g), head(dq, h), {scale(), 0});
      kernel::matmul_tn<float>(ctx, dp, head(q, h), head(dk, g), {scale() * add.alpha, add.beta});
    }
  }
};

void attention(benchmark::State& s) {
  example e(attention_of(s));
  graft::context ctx;
  e.plain_forward(ctx);
  const auto expected = e.y.clone();
  e.forward(ctx);
  if (!verify(s, e.y, expected)) return;
  measure(s, {.flops = 4.0 * static_cast<double>(e.shape.head_size) * e.pairs()}, [&] { e.forward(ctx); }, {{"plain", [&] { e.plain_forward(ctx); }}});
}
BENCHMARK(attention)->Apply(every_attention);

void attention_backward(benchmark::State& s) {
  example e(attention_of(s));
  graft::context ctx;
  e.plain_forward(ctx);
  e.plain_backward(ctx);
  const auto dq = e.dq.clone(), dk = e.dk.clone(), dv = e.dv.clone();
  e.forward(ctx);
  e.backward(ctx);
  if (!verify(s, e.dq, dq, 1e-4) || !verify(s, e.dk, dk, 1e-4) || !verify(s, e.dv, dv, 1e-4)) return;
  measure(s, {.flops = 10.0 * static_cast<double>(e.shape.head_size) * e.pairs()}, [&] { e.backward(ctx); }, {{"plain", [&] { e.plain_backward(ctx); }}});
}
BENCHMARK(attention_backward)->Apply(every_attention);

/// The same products by bf16 pairs, next to floats. Nothing where attention stays in float.
void in_bf16(benchmark::State& s, bool forward) {
  example e(attention_of(s));
  graft::context full, ctx;
  ctx.products = graft::product_precision::bf16;
  const auto run = [&](graft::context& c) { forward ? e.forward(c) : e.backward(c); };
  e.forward(full);
  run(full);
  const auto y = e.y.clone(), dq = e.dq.clone(), dk = e.dk.clone(), dv = e.dv.clone();
  run(ctx);
  if (forward ? !verify(s, e.y, y, 2e-2) : !verify(s, e.dq, dq, 2e-2) || !verify(s, e.dk, dk, 2e-2) || !verify(s, e.dv, dv, 2e-2)) return;
  const double flops = (forward ? 4.0 : 10.0) * static_cast<double>(e.shape.head_size) * e.pairs();
  measure(s, {.flops = flops}, [&] { run(ctx); }, {{"floats", [&] { run(full); }}});
}

const bool registered = [] {
  if (!graft::kernel::multiplies_in_bf16<float>() || !graft::simd::runs_bf16_matrices()) return false;
  for (const bool forward : {true, false})
    benchmark::RegisterBenchmark(forward ? "bf16_attention" : "bf16_attention_backward", [=](benchmark::State& s) { in_bf16(s, forward); })
        ->Apply(every_attention);
  return true;
}();

}  // namespace
