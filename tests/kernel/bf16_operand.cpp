// SPDX-License-Identifier: Apache-2.0
// Products in bf16, by vectors and by matrix registers: 32 rows and more may go by the second, what is left goes by the first.
#include "graft/kernel/bf16_operand.hpp"

#include <limits>

#include "graft/core/thread_pool.hpp"
#include "graft/kernel/gemm.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;
using test::random_tensor;

namespace {

struct bf16_context : context {
  explicit bf16_context(executor_ref e = {}) : context(e) { products = product_precision::bf16; }
};

using arch = simd::default_arch;
constexpr bool could_go_in_bf16 = kernel::detail::could_go_in_bf16<float, arch>;

bool goes_in_bf16() { return could_go_in_bf16 && simd::runs_bf16(); }

/// matmul_nt and matmul_nn of at least 32 rows, by pairs wherever the processor has them, and not only where it gains by them.
void matmul_nt(context& ctx, const tensor<float, 2>& x, matrix_ref w, tensor<float, 2>& y, kernel::product_scale s = {}, kernel::low_rank_term<float> term = {}) {
  if constexpr (could_go_in_bf16)
    if (goes_in_bf16())
      return kernel::detail::visit_storage<float>(w, [&](auto weights) { kernel::detail::matmul_nt_in_bf16<arch>(ctx, x, weights, y, s, term); });
  kernel::matmul_nt<float>(ctx, x, w, y, s, term);
}
void matmul_nn(context& ctx, const tensor<float, 2>& x, matrix_ref w, tensor<float, 2>& y, kernel::product_scale s = {}, kernel::low_rank_term<float> term = {}) {
  if constexpr (could_go_in_bf16)
    if (goes_in_bf16())
      return kernel::detail::visit_storage<float>(w, [&](auto weights) { kernel::detail::matmul_nn_in_bf16<arch>(ctx, x, weights, y, s, term); });
  kernel::matmul_nn<float>(ctx, x, w, y, s, term);
}

tensor<float, 2> rounded(const tensor<float, 2>& x) {
  tensor<float, 2> r(x.shape());
  for (index_t i = 0; i < x.size(); ++i) r.data()[i] = convert<float>(convert<bf16>(x.data()[i]));
  return r;
}

/// alpha (a b^T, or a b, + left right^T, or left right) + beta c in double.
tensor<double, 2> plain_product(bool nt, const tensor<float, 2>& a, const tensor<float, 2>& b, const tensor<float, 2>& left, const tensor<float, 2>& right,
                                const tensor<float, 2>& c, kernel::product_scale s) {
  tensor<double, 2> result(c.shape());
  const auto sum = [nt](const tensor<float, 2>& x, const tensor<float, 2>& w, index_t i, index_t j) {
    double total = 0;
    for (index_t k = 0; k < x.shape()[1]; ++k) total += static_cast<double>(x(i, k)) * static_cast<double>(nt ? w(j, k) : w(k, j));
    return total;
  };
  for (index_t i = 0; i < c.shape()[0]; ++i)
    for (index_t j = 0; j < c.shape()[1]; ++j)
      result(i, j) = s.alpha * (sum(a, b, i, j) + sum(left, right, i, j)) + (s.beta == 0 ? 0 : s.beta * static_cast<double>(c(i, j)));
  return result;
}

}  // namespace

TEST_CASE("products that a context wants in bf16 are those of the rounded factors, with a term in float; where the processor has none, of the factors") {
  bf16_context ctx;
  for (bool nt : {true, false})
    for (index_t n : {32, 33, 63, 65, 100})
      for (index_t m : {32, 48, 50, 145})
        for (index_t k : {32, 33, 47, 64, 97, 800, 2100})
          for (const kernel::product_scale s : {kernel::product_scale{1, 0}, {-0.5, 0.25}}) {
            const auto a = random_tensor<float, 2>({n, k}, 1), b = random_tensor<float, 2>(nt ? extents<2>{m, k} : extents<2>{k, m}, 2);
            const auto left = random_tensor<float, 2>({n, 5}, 4), right = random_tensor<float, 2>(nt ? extents<2>{m, 5} : extents<2>{5, m}, 5);
            auto c = random_tensor<float, 2>({n, m}, 3);
            const bool rounds = goes_in_bf16() || kernel::multiplies_in_bf16<float>();  // the second may be said by graft::precompiled
            const auto expected = plain_product(nt, rounds ? rounded(a) : a.clone(), rounds ? rounded(b) : b.clone(), left, right, c, s);
            if (nt) matmul_nt(ctx, a, b.view(), c, s, {left, right});
            else matmul_nn(ctx, a, b.view(), c, s, {left, right});
            INFO((nt ? "nt" : "nn") << " n " << n << " m " << m << " k " << k << " beta " << s.beta);
            REQUIRE(test::near(c, expected, test::tolerance<float>(k)));
          }
}

TEST_CASE("products in bf16 have the same bits on any number of threads and from weights that were stored rounded") {
  bf16_context serial;
  for (const extents<2> shape : {extents<2>{200, 500}, {577, 96}, {96, 2500}}) {
    const auto w = random_tensor<float, 2>(shape, 5), x = random_tensor<float, 2>({130, shape[1]}, 6), g = random_tensor<float, 2>({130, shape[0]}, 7);
    tensor<bf16, 2> narrow(shape);
    for (index_t i = 0; i < w.size(); ++i) narrow.data()[i] = convert<bf16>(w.data()[i]);
    tensor<float, 2> y({130, shape[0]}), y2({130, shape[0]}), dx({130, shape[1]}), dx2({130, shape[1]});
    matmul_nt(serial, x, narrow.view(), y);
    matmul_nn(serial, g, narrow.view(), dx);
    for (int threads : {1, 2, 3, 7}) {
      thread_pool pool(threads);
      bf16_context ctx{executor_ref(pool)};
      matmul_nt(ctx, x, narrow.view(), y2);
      matmul_nn(ctx, g, narrow.view(), dx2);
      CHECK(test::equal_bits(y, y2));
      CHECK(test::equal_bits(dx, dx2));
    }
    if (!goes_in_bf16()) continue;  // floats would be taken as they are
    matmul_nt(serial, x, w.view(), y2);
    matmul_nn(serial, g, w.view(), dx2);
    CHECK(test::equal_bits(y, y2));
    CHECK(test::equal_bits(dx, dx2));
  }
}

TEMPLATE_LIST_TEST_CASE("products in bf16 take weights in blocks as their decoded values", "", test::every_block_format) {
  bf16_context ctx;
  for (const extents<2> shape : {extents<2>{70, 90}, {48, 64}, {145, 33}, {200, 801}}) {
    const auto blocks = test::random_blocks<TestType>(shape, 5);
    const auto decoded = blocks.template to_tensor<float, 2>();
    const auto x = random_tensor<float, 2>({100, shape[1]}, 6), g = random_tensor<float, 2>({100, shape[0]}, 7);
    tensor<float, 2> y({100, shape[0]}), y2({100, shape[0]}), dx({100, shape[1]}), dx2({100, shape[1]});
    matmul_nt(ctx, x, decoded.view(), y);
    matmul_nn(ctx, g, decoded.view(), dx);
    matmul_nt(ctx, x, blocks.matrix(), y2);
    matmul_nn(ctx, g, blocks.matrix(), dx2);
    CHECK(test::equal_bits(y, y2));
    CHECK(test::equal_bits(dx, dx2));
  }
}

TEST_CASE("with beta zero a product in bf16 does not read the old contents, and no NaN of an operand is lost") {
  bf16_context ctx;
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  auto x = random_tensor<float, 2>({70, 100}, 1);
  const auto w = random_tensor<float, 2>({50, 100}, 2);
  auto y = tensor<float, 2>::full({70, 50}, nan);
  matmul_nt(ctx, x, w.view(), y);
  CHECK(std::ranges::none_of(y.span(), [](float v) { return std::isnan(v); }));
  for (const index_t row : {3, 69}) {
    x(row, 99) = nan;
    matmul_nt(ctx, x, w.view(), y);
    CHECK(std::ranges::all_of(y.view().row(row).span(), [](float v) { return std::isnan(v); }));
  }
  CHECK(std::ranges::none_of(y.view().row(4).span(), [](float v) { return std::isnan(v); }));
}

TEST_CASE("large products go by pairs where a context wants it and the processor gains by them") {
  bf16_context ctx;
  context full;
  const auto x = random_tensor<float, 2>({40, 100}, 1), w = random_tensor<float, 2>({50, 100}, 2), v = random_tensor<float, 2>({100, 50}, 3);
  tensor<float, 2> y({40, 50}), expected({40, 50});
  kernel::matmul_nt<float>(ctx, x, w.view(), y);
  if (kernel::multiplies_in_bf16<float>()) matmul_nt(ctx, x, w.view(), expected);
  else kernel::matmul_nt<float>(full, x, w.view(), expected);
  CHECK(test::equal_bits(y, expected));
  kernel::matmul_nn<float>(ctx, x, v.view(), y);
  if (kernel::multiplies_in_bf16<float>()) matmul_nn(ctx, x, v.view(), expected);
  else kernel::matmul_nn<float>(full, x, v.view(), expected);
  CHECK(test::equal_bits(y, expected));
}

TEST_CASE("small products and those of double stay whatever they were") {
  bf16_context ctx;
  context full;
  const auto few = random_tensor<float, 2>({31, 100}, 1), w = random_tensor<float, 2>({50, 100}, 2);
  tensor<float, 2> y({31, 50}), expected({31, 50});
  kernel::matmul_nt<float>(ctx, few, w.view(), y);
  kernel::matmul_nt<float>(full, few, w.view(), expected);
  CHECK(test::equal_bits(y, expected));
  const auto x = random_tensor<double, 2>({70, 100}, 1), v = random_tensor<double, 2>({50, 100}, 2);
  tensor<double, 2> z({70, 50}), same({70, 50});
  kernel::matmul_nt<double>(ctx, x, v.view(), z);
  kernel::matmul_nt<double>(full, x, v.view(), same);
  CHECK(test::equal_bits(z, same));
}
