// SPDX-License-Identifier: Apache-2.0
// What a low-rank term adds to its frozen layer at 256 tokens; the peer is the same layer without it.
#include "graft/peft/lora.hpp"

#include "graft/precompiled.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;
constexpr index_t tokens = 256, rank = 8;
constexpr double scale = 2;

/// Rows of products in double: c(i, j) = sum over k of a(i, k) b(k, j).
template <class A, class B>
tensor<double, 2> plain_product(index_t m, index_t n, index_t depth, const A& a, const B& b) {
  auto c = tensor<double, 2>::zeros({m, n});
  for (index_t i = 0; i < m; ++i)
    for (index_t k = 0; k < depth; ++k)
      for (index_t j = 0; j < n; ++j) c(i, j) += static_cast<double>(a(i, k)) * static_cast<double>(b(k, j));
  return c;
}

/// A frozen layer, alone or adapted, whose input needs a gradient as it does inside a model.
struct example {
  graft::context ctx;
  tensor<float, 2> x, dx, y, dy, w;
  graft::parameter<float, 2> a, b;
  graft::gradient_slot<float> slot;

  explicit example(linear_shape l)
      : x(random_tensor<float, 2>({tokens, l.in}, 1)), dx({tokens, l.in}), y({tokens, l.out}), dy(random_tensor<float, 2>({tokens, l.out}, 5)),
        w(random_tensor<float, 2>({l.out, l.in}, 4)), a(random_tensor<float, 2>({rank, l.in}, 2)), b(random_tensor<float, 2>({l.out, rank}, 3)),
        slot{dx.data()} {}

  graft::var<float, 2> layer(graft::tape<float>& t, bool adapted) {
    const auto in = t.leaf(graft::tensor_view<const float, 2>(x.view()), &slot);
    auto out = graft::linear(t, in, graft::matrix_ref(w.view()));
    return adapted ? graft::add_low_rank(t, std::move(out), in, t.leaf(a), t.leaf(b), scale) : out;
  }
  void forward(bool adapted) {
    graft::tape<float> t(ctx, graft::recording::off);
    layer(t, adapted);
  }
  void both(bool adapted) {
    slot.written = false;
    a.clear_gradient();
    b.clear_gradient();
    graft::tape<float> t(ctx);
    const auto out = layer(t, adapted);
    t.backward(out, graft::tensor_view<const float, 2>(dy.view()));
  }

  /// Output and all gradients, against plain sums over the dense W + scale B A.
  bool verified(benchmark::State& s) {
    const index_t in = x.shape()[1], out = y.shape()[1];
    const auto av = a.view(), bv = b.view();
    auto dense = plain_product(out, in, rank, bv, av);
    for (index_t i = 0; i < out; ++i)
      for (index_t j = 0; j < in; ++j) dense(i, j) = scale * dense(i, j) + static_cast<double>(w(i, j));
    const auto turned = [](const auto& m) { return [&m](index_t i, index_t j) { return m(j, i); }; };
    const auto h = plain_product(tokens, rank, in, x, turned(av)), dh = plain_product(tokens, rank, out, dy, bv);
    auto da = plain_product(rank, in, tokens, turned(dh), x), db = plain_product(out, rank, tokens, turned(dy), h);
    for (double& v : da.span()) v *= scale;
    for (double& v : db.span()) v *= scale;
    {
      graft::tape<float> t(ctx, graft::recording::off);
      const auto got = layer(t, true);
      std::copy_n(got.value.data, got.value.size(), y.data());
    }
    both(true);
    const auto gradient = [](graft::parameter<float, 2>& p) { return std::span<const float>(p.gradient_values()); };
    return verify(s, y, plain_product(tokens, out, in, x, turned(dense))) && verify(s, dx, plain_product(tokens, in, out, dy, dense)) &&
           verify<float, double>(s, gradient(a), da.span(), 1e-5) && verify<float, double>(s, gradient(b), db.span(), 1e-5);
  }
};

void low_rank(benchmark::State& s, double passes, void (example::*run)(bool)) {
  example e({s.range(0), s.range(1), ""});
  if (!e.verified(s)) return;
  const double flops = 2.0 * static_cast<double>(tokens) * (static_cast<double>(s.range(0) * s.range(1)) * passes);
  measure(s, {.flops = flops}, [&] { (e.*run)(true); }, {{"layer_alone", [&] { (e.*run)(false); }}}, {15, 0.01});
}
void low_rank_forward(benchmark::State& s) { low_rank(s, 1, &example::forward); }
void low_rank_both(benchmark::State& s) { low_rank(s, 2, &example::both); }

void smollm_layers(benchmark::internal::Benchmark* b) {
  b->ArgNames({"out", "in"});
  for (const linear_shape& l : linear_layers)
    if (std::string(l.model).starts_with("SmolLM") && l.out < 49152) b->Args({l.out, l.in});
}
BENCHMARK(low_rank_forward)->Apply(smollm_layers);
BENCHMARK(low_rank_both)->Apply(smollm_layers);

}  // namespace
