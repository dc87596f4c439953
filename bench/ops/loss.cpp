// SPDX-License-Identifier: Apache-2.0
// The output layer with its loss and gradient, chunk by chunk, next to the same with whole logits, in our products and in
// those of oneDNN.
#include "graft/ops/loss.hpp"

#include "graft/precompiled.hpp"
#include "support/peers.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;
namespace kernel = graft::kernel;

constexpr index_t vocabulary = 49152, width = 576;

void linear_cross_entropy(benchmark::State& s) {
  const index_t rows = s.range(0);
  graft::context ctx;
  auto x = random_tensor<float, 2>({rows, width}, 1);
  const auto w = random_tensor<float, 2>({vocabulary, width}, 2);
  std::vector<std::int32_t> labels(static_cast<std::size_t>(rows));
  for (index_t n = 0; n < rows; ++n) labels[static_cast<std::size_t>(n)] = static_cast<std::int32_t>(n * 97 % vocabulary);

  tensor<float, 2> dx({rows, width});
  graft::gradient_slot<float> slot{dx.data()};
  float loss = 0;
  const auto run = [&] {
    graft::tape<float> t(ctx, graft::recording::on);
    slot.written = false;
    const auto l = graft::linear_cross_entropy(t, t.leaf(graft::tensor_view<const float, 2>(x.view()), &slot), w.view(), labels);
    loss = *l.value.data;
    t.backward(l);
  };
  tensor<float, 2> logits({rows, vocabulary}), plain_dx({rows, width});
  std::vector<float> losses(static_cast<std::size_t>(rows));
  float plain_loss = 0;
  const auto unfused = [&](const auto& forward, const auto& backward) {
    forward();
    kernel::cross_entropy_rows<float>(ctx, rows, vocabulary, logits.data(), labels.data(), 1 / static_cast<float>(rows), losses.data());
    backward();
    plain_loss = graft::detail::mean_loss(losses.data(), rows, rows);
  };
  const auto whole = [&] {
    unfused([&] { kernel::matmul_nt<float>(ctx, x, w.view(), logits); }, [&] { kernel::matmul_nn<float>(ctx, logits, w.view(), plain_dx); });
  };
  run();
  whole();
  if (!verify(s, dx, plain_dx, 1e-4) || !verify<float, float>(s, {&loss, 1}, {&plain_loss, 1}, 1e-5)) return;
  std::vector<contender> others{{"whole", whole}};
  const auto forward = product_peers({rows, vocabulary, width, false, true, x.data(), w.data(), logits.data()});
  const auto backward = product_peers({rows, width, vocabulary, false, false, logits.data(), w.data(), plain_dx.data()});
  for (std::size_t i = 0; i < forward.size(); ++i)
    if (forward[i].name.starts_with("oneDNN"))
      others.push_back({forward[i].name, [&, i] { unfused(forward[i].run, backward[i].run); }});
  measure(s, {.flops = 4.0 * static_cast<double>(rows * vocabulary * width)}, run, std::move(others));
  s.counters["pool_MiB"] = static_cast<double>(ctx.pool().peak_bytes()) / 1048576;
  s.counters["whole_MiB"] = static_cast<double>(logits.size()) * float_bytes / 1048576;
}
BENCHMARK(linear_cross_entropy)->Arg(256)->Arg(1024)->ArgName("tokens");

}  // namespace
