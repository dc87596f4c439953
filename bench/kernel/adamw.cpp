// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/adamw.hpp"

#include "support/report.hpp"

namespace {

using namespace bench;
constexpr graft::kernel::adamw_step one_step{.rate = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .root_scale = 1, .shrink = 0.999};

template <class T>
void plain_adamw(index_t n, T* w, const T* g, T* m, T* v) {
  const auto& o = one_step;
  for (index_t i = 0; i < n; ++i) {
    m[i] = T(o.beta1) * m[i] + T(1 - o.beta1) * g[i];
    v[i] = T(o.beta2) * v[i] + T(1 - o.beta2) * g[i] * g[i];
    w[i] = T(o.shrink) * w[i] - T(o.rate) * m[i] / (T(o.root_scale) * std::sqrt(v[i]) + T(o.eps));
  }
}

template <class T>
struct arrays {
  tensor<T, 1> w, g, m, v;
  explicit arrays(index_t n)
      : w(random_tensor<T, 1>({n}, 1)), g(random_tensor<T, 1>({n}, 2)), m(tensor<T, 1>::zeros({n})), v(tensor<T, 1>::zeros({n})) {}
};

/// As many parameters as one LoRA layer has, as a whole adapter, and as many as leave every cache.
void adamw(benchmark::State& s) {
  const index_t n = s.range(0);
  graft::context ctx;
  arrays<float> f(n);
  arrays<double> d(n);
  const auto run = [&] { graft::kernel::adamw<float>(ctx, n, f.w.data(), f.g.data(), f.m.data(), f.v.data(), one_step); };
  run();
  plain_adamw(n, d.w.data(), d.g.data(), d.m.data(), d.v.data());
  if (!verify(s, f.w, d.w) || !verify(s, f.v, d.v)) return;
  measure(s, {.bytes = 7 * float_bytes * static_cast<double>(n)}, run,
          {{"plain", [&] { plain_adamw(n, f.w.data(), f.g.data(), f.m.data(), f.v.data()); }}});
}
BENCHMARK(adamw)->Arg(9216)->Arg(2442240)->Arg(1 << 24)->ArgName("parameters");

}  // namespace
