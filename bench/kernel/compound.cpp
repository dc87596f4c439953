// SPDX-License-Identifier: Apache-2.0
// Rows through a compound matrix, by every route, against the automatic choice: the ratios vs_dense, vs_gates and vs_sandwich say
// how many times slower each would have been. What a route makes of A is in its time.
#include "graft/kernel/compound_product.hpp"

#include "support/report.hpp"

namespace {

using namespace bench;
using graft::kernel::compound_pass;
using graft::kernel::compound_route;
using graft::tensor_view;

struct compound_case {
  index_t n, k, rows, size;
  graft::kernel::subset_tables subsets;
  std::vector<double> a;
  tensor<float, 2> x, dy, out;
  std::vector<double> da;
  graft::context ctx;

  explicit compound_case(const benchmark::State& s)
      : n(s.range(0)), k(s.range(1)), rows(s.range(2)), size(graft::kernel::binomial(n, k)), subsets(n, k), a(static_cast<std::size_t>(n * n)),
        x(random_tensor<float, 2>({rows, size}, 1)), dy(random_tensor<float, 2>({rows, size}, 2)), out({rows, size}), da(a.size()) {
    const auto p = random_tensor<double, 1>({graft::kernel::rotation_parameters(n)}, 3);
    std::vector<double> room(a.size());
    graft::kernel::cayley(n, p.data(), a.data(), room.data());
  }
  void run(compound_route route, compound_pass pass) {
    if (pass == compound_pass::forward) return graft::kernel::compound_product<float>(ctx, subsets, k, a.data(), route, x.view(), out.view(), 0.0f);
    std::fill(da.begin(), da.end(), 0.0);
    graft::kernel::compound_product_gradient<float>(ctx, subsets, k, a.data(), route, x.view(), dy.view(), out.view(), 0.0f,
                                                    pass == compound_pass::gradient ? da.data() : nullptr);
  }

  /// det A[I, J] by elimination, for row subset i and column subset j.
  double minor(index_t i, index_t j) const {
    std::vector<double> m(static_cast<std::size_t>(k * k));
    for (index_t r = 0; r < k; ++r)
      for (index_t c = 0; c < k; ++c) m[static_cast<std::size_t>(r * k + c)] = a[static_cast<std::size_t>(subsets.members(k, i)[r] * n + subsets.members(k, j)[c])];
    if (k == 1) return m[0];
    if (k == 2) return m[0] * m[3] - m[1] * m[2];
    return m[0] * (m[4] * m[8] - m[5] * m[7]) - m[1] * (m[3] * m[8] - m[5] * m[6]) + m[2] * (m[3] * m[7] - m[4] * m[6]);
  }
  /// The plain result on the first rows: sums over minors.
  tensor<double, 2> plain(index_t first_rows, bool transposed) const {
    tensor<double, 2> y = tensor<double, 2>::zeros({first_rows, size});
    const auto& from = transposed ? dy : x;
    for (index_t i = 0; i < size; ++i)
      for (index_t j = 0; j < size; ++j) {
        const double c = transposed ? minor(j, i) : minor(i, j);
        for (index_t r = 0; r < first_rows; ++r) y(r, i) += c * static_cast<double>(from(r, j));
      }
    return y;
  }
};

void routes(benchmark::State& s, compound_pass pass) {
  compound_case c(s);
  const index_t checked = std::min<index_t>(c.rows, 3);
  const auto reference = c.plain(checked, pass != compound_pass::forward);
  std::vector<std::pair<std::string, compound_route>> ways = {{"dense", compound_route::dense}, {"gates", compound_route::gates}};
  if (c.k == 2) ways.emplace_back("sandwich", compound_route::sandwich);
  std::vector<contender> contenders;
  for (const auto& [name, way] : ways) {
    c.run(way, pass);
    if (!verify<float, double>(s, c.out.span().first(reference.span().size()), reference.span(), 1e-5)) return;
    contenders.push_back({name, [&c, way = way, pass] { c.run(way, pass); }});
  }
  const double n = static_cast<double>(c.n), pairs = static_cast<double>(graft::kernel::binomial(c.n - 2, c.k - 1));
  measure(s, {.flops = 3 * n * (n - 1) * pairs * static_cast<double>(c.rows), .bytes = 2 * float_bytes * static_cast<double>(c.rows * c.size)},
          [&] { c.run(compound_route::automatic, pass); }, contenders, {7, 0.003});
}
void compound(benchmark::State& s) { routes(s, compound_pass::forward); }
void compound_gradient(benchmark::State& s) { routes(s, compound_pass::gradient); }

/// Base matrices of published settings, orders 1 to 3, from one row (generation) to a training batch.
void every_compound(benchmark::internal::Benchmark* b) {
  b->ArgNames({"n", "k", "rows"});
  constexpr index_t sizes[][2] = {{13, 1}, {44, 1}, {96, 1}, {13, 2}, {22, 2}, {44, 2}, {8, 3}, {11, 3}, {16, 3}};
  for (const auto& [n, k] : sizes)
    for (const index_t rows : {1, 16, 256, 2048}) b->Args({n, k, rows});
}
BENCHMARK(compound)->Apply(every_compound);
BENCHMARK(compound_gradient)->Apply(every_compound);

}  // namespace
