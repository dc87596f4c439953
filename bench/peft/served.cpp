// SPDX-License-Identifier: Apache-2.0
// The seven linear layers of a block of SmolLM-135M on 16 rows, each row by one of several adapters of rank 8. The peers are the
// same layers with all rows by one adapter, which is a plain LoRA, and without any. Target: at 8 adapters vs_one_adapter is 0.67 or more.
#include "graft/peft/served.hpp"

#include <vector>

#include "graft/precompiled.hpp"
#include "support/report.hpp"

namespace {

using namespace bench;
constexpr index_t rows = 16, rank = 8;
constexpr linear_shape block[] = {{576, 576, "q"}, {192, 576, "k"}, {192, 576, "v"}, {576, 576, "o"}, {1536, 576, "gate"}, {1536, 576, "up"}, {576, 1536, "down"}};
constexpr double scale = 2;

struct projections {
  using value_type = float;
  std::vector<graft::adapted_linear<float>> layers;

  projections() {
    for (const auto& l : block) {
      layers.emplace_back(l.in, l.out);
      layers.back().weight.assign(graft::frozen_array(random_tensor<float, 2>({l.out, l.in}, layers.size())));
    }
  }
  static void visit(auto& self, auto& v) { v("layers", self.layers); }
};

/// Random factors that follow from the adapter's number, shared with whoever verifies them.
struct factors {
  std::vector<tensor<float, 2>> a, b;

  explicit factors(index_t k) {
    for (const auto& l : block) {
      const auto seed = static_cast<std::uint64_t>(100 * k) + a.size();
      a.push_back(random_tensor<float, 2>({rank, l.in}, 1000 + seed));
      b.push_back(random_tensor<float, 2>({l.out, rank}, 2000 + seed));
    }
  }
};

struct example {
  graft::context ctx;
  projections model, base;
  std::vector<std::shared_ptr<const factors>> adapters;
  std::vector<index_t> offsets, mixed, alike;
  tensor<float, 2> x[2] = {random_tensor<float, 2>({rows, 576}, 7), random_tensor<float, 2>({rows, 1536}, 8)};

  explicit example(index_t count) {
    auto bank = graft::serve(model, graft::all_linear());
    for (index_t k = 0; k < count; ++k) {
      adapters.push_back(std::make_shared<const factors>(k));
      graft::served_adapter<float> made{{}, adapters.back()};
      for (std::size_t i = 0; i < std::size(block); ++i)
        made.layers.push_back({graft::concat("layers.", i), adapters.back()->a[i].view(), adapters.back()->b[i].view(), scale});
      bank = bank->with(graft::concat(k), made);
    }
    graft::use(model, bank);
    for (index_t r = 0; r < rows; ++r) {
      offsets.push_back(r);
      mixed.push_back(r % count);  // an adapter's rows are far from one another
      alike.push_back(0);
    }
    offsets.push_back(rows);
  }

  const tensor<float, 2>& input(std::size_t layer) const { return x[block[layer].in == 576 ? 0 : 1]; }
  void run(projections& m, std::span<const index_t> routes) {
    graft::tape<float> t(ctx, graft::recording::off, {.sequence_offsets = offsets, .routes = routes});
    for (std::size_t i = 0; i < std::size(block); ++i) m.layers[i](t, t.constant(input(i)));
  }

  /// Every layer, against plain sums in double.
  bool verified(benchmark::State& s) {
    for (std::size_t i = 0; i < std::size(block); ++i) {
      graft::tape<float> t(ctx, graft::recording::off, {.sequence_offsets = offsets, .routes = mixed});
      const auto y = model.layers[i](t, t.constant(input(i)));
      auto expected = tensor<double, 2>::zeros({rows, block[i].out});
      const auto w = model.layers[i].weight.view();
      for (index_t r = 0; r < rows; ++r) {
        const auto& f = *adapters[static_cast<std::size_t>(mixed[static_cast<std::size_t>(r)])];
        const auto dot = [&](const auto& m, index_t row) {
          double sum = 0;
          for (index_t k = 0; k < block[i].in; ++k) sum += static_cast<double>(m(row, k)) * static_cast<double>(input(i)(r, k));
          return sum;
        };
        for (index_t o = 0; o < block[i].out; ++o) expected(r, o) = dot(w, o);
        for (index_t h = 0; h < rank; ++h) {
          const double along = scale * dot(f.a[i], h);
          for (index_t o = 0; o < block[i].out; ++o) expected(r, o) += along * static_cast<double>(f.b[i](o, h));
        }
      }
      if (!verify<float, double>(s, {y.value.data, static_cast<std::size_t>(y.value.size())}, expected.span(), 1e-5)) return false;
    }
    return true;
  }
};

void served_block(benchmark::State& s) {
  example e(s.range(0));
  if (!e.verified(s)) return;
  double flops = 0;
  for (const auto& l : block) flops += 2.0 * static_cast<double>(rows * (l.in * l.out + rank * (l.in + l.out)));
  measure(s, {.flops = flops}, [&] { e.run(e.model, e.mixed); },
          {{"one_adapter", [&] { e.run(e.model, e.alike); }}, {"base_alone", [&] { e.run(e.base, {}); }}}, {15, 0.02});
}
BENCHMARK(served_block)->ArgName("adapters")->Arg(2)->Arg(4)->Arg(8)->Arg(16);

}  // namespace
