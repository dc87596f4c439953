// SPDX-License-Identifier: Apache-2.0
// Products of few tokens with weights that come from memory, as a model's do when it generates or is asked a short question.
#include "graft/kernel/dot.hpp"

#include <vector>

#include "graft/kernel/gemm.hpp"
#include "graft/precompiled.hpp"
#include "support/peers.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;
constexpr linear_shape layer = one_layer;
constexpr index_t layers = 24;  // 85 MB: more than caches hold

std::vector<tensor<float, 2>> weights() {
  std::vector<tensor<float, 2>> all;
  for (index_t l = 0; l < layers; ++l) all.push_back(random_tensor<float, 2>({layer.out, layer.in}, static_cast<std::uint64_t>(l)));
  return all;
}

/// y = x w^T where forward, y = x w where not, one weight after another.
void few_tokens(benchmark::State& s, bool forward) {
  graft::context ctx;
  const index_t tokens = s.range(0), in = forward ? layer.in : layer.out, out = forward ? layer.out : layer.in;
  const auto all = weights();
  const auto x = random_tensor<float, 2>({tokens, in}, 99);
  tensor<float, 2> y({tokens, out});
  const auto product = [&](const tensor<float, 2>& w) {
    if (forward) graft::kernel::matmul_nt<float>(ctx, x, w.view(), y);
    else graft::kernel::matmul_nn<float>(ctx, x, w.view(), y);
  };
  tensor<double, 2> expected = tensor<double, 2>::zeros({tokens, out});
  for (index_t n = 0; n < tokens; ++n)
    for (index_t j = 0; j < out; ++j)
      for (index_t k = 0; k < in; ++k) expected(n, j) += static_cast<double>(x(n, k)) * static_cast<double>(forward ? all[0](j, k) : all[0](k, j));
  product(all[0]);
  if (!verify(s, y, expected, graft::test::tolerance<float>(in))) return;

  std::vector<std::vector<contender>> of_layer;
  for (const auto& w : all) of_layer.push_back(product_peers({tokens, out, in, false, forward, x.data(), w.data(), y.data()}));
  std::vector<contender> peers;
  for (std::size_t p = 0; p < of_layer[0].size(); ++p)
    peers.push_back({of_layer[0][p].name, [&of_layer, p] {
                       for (const auto& l : of_layer) l[p].run();
                     }});
  const double values = static_cast<double>(layers * layer.out * layer.in);
  measure(s, {.flops = 2 * static_cast<double>(tokens) * values, .bytes = float_bytes * values, .only_reads = true}, [&] {
    for (const auto& w : all) product(w);
  }, std::move(peers));
}
void few_tokens_forward(benchmark::State& s) { few_tokens(s, true); }
void few_tokens_input_gradient(benchmark::State& s) { few_tokens(s, false); }
BENCHMARK(few_tokens_forward)->Arg(1)->Arg(8)->Arg(16)->Arg(32)->ArgName("tokens");
BENCHMARK(few_tokens_input_gradient)->Arg(8)->Arg(16)->Arg(32)->ArgName("tokens");

}  // namespace
