// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/dot.hpp"

#include "support/blocks.hpp"
#include "support/kernels.hpp"

using namespace graft;

namespace {

template <class T, class E>
void agrees(index_t depth, index_t rows, index_t few) {
  const auto values = test::random_tensor<float, 2>({rows, depth}, 1);
  tensor<E, 2> s({rows, depth});
  for (index_t i = 0; i < s.size(); ++i) s.data()[i] = convert<E>(values.data()[i]);
  const auto f = test::random_tensor<T, 2>({few, depth}, 2), start = test::random_tensor<T, 2>({few, rows}, 3);
  for (const T beta : {T(0), T(0.5)}) {
    const auto got = test::on_any_threads([&](context& ctx) {
      auto out = start.clone();
      if (beta == T(0)) std::fill_n(out.data(), out.size(), std::numeric_limits<T>::quiet_NaN());  // must not be read
      kernel::dot_product<T>(ctx, std::as_const(s).view(), f.view(), out.view().transpose(), T(1.5), beta);
      return out;
    });
    const auto expected = test::filled<double>(few, rows, [&](index_t v, index_t r) {
      return 1.5 * test::plain_sum(depth, [&](index_t k) { return static_cast<double>(convert<float>(s(r, k))) * static_cast<double>(f(v, k)); }) +
             static_cast<double>(beta) * static_cast<double>(start(v, r));
    });
    INFO("depth " << depth << " rows " << rows << " vectors " << few);
    CHECK(test::near(got, expected, test::tolerance<T>(depth)));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("products with few vectors agree with the plain sum", "", float, double) {
  for (const index_t depth : test::sizes_around_width<TestType>())
    for (const index_t rows : {1, 7, 8, 9, 25})
      for (const index_t few : {1, 2, 3, 4, 5, 8}) agrees<TestType, TestType>(depth, rows, few);
  agrees<TestType, TestType>(64, 2000, 3);  // several tasks
  agrees<TestType, TestType>(600, 500, 5);  // larger than a second-level cache
}

TEST_CASE("products with few vectors take half-precision rows") {
  for (const index_t depth : test::sizes_around_width<float>()) {
    agrees<float, bf16>(depth, 9, 3);
    agrees<float, f16>(depth, 9, 8);
  }
  agrees<float, bf16>(64, 2000, 1);
}

TEMPLATE_LIST_TEST_CASE("products with few vectors take rows in blocks", "", test::every_block_format) {
  for (const extents<2> shape : {extents<2>{9, 1}, {9, 31}, {25, 33}, {8, 64}, {2000, 100}, {3000, 801}}) {
    const auto s = test::random_blocks<TestType>(shape, 1);
    const auto values = s.template to_tensor<double, 2>();
    for (const index_t few : {1, 2, 3, 5, 8}) {
      const auto f = test::random_tensor<float, 2>({few, shape[1]}, 2);
      const auto got = test::on_any_threads([&](context& ctx) {
        tensor<float, 2> out({few, shape[0]});
        kernel::dot_product<float>(ctx, block_matrix<TestType>(s.matrix()), f.view(), out.view().transpose(), 1.5f, 0.0f);
        return out;
      });
      const auto expected = test::filled<double>(few, shape[0], [&](index_t v, index_t r) {
        return 1.5 * test::plain_sum(shape[1], [&](index_t k) { return values(r, k) * static_cast<double>(f(v, k)); });
      });
      INFO("rows " << shape[0] << " depth " << shape[1] << " vectors " << few);
      CHECK(test::near(got, expected, test::tolerance<float>(shape[1])));
    }
  }
}

TEMPLATE_TEST_CASE("vectors rounded to 16 bits meet rows in blocks, where a context asks for it", "", q8_0_block, q4_0_block) {
  for (const extents<2> shape : {extents<2>{9, 1}, {9, 31}, {25, 33}, {8, 64}, {2000, 100}, {3000, 801}}) {
    const auto s = test::random_blocks<TestType>(shape, 1);
    const auto values = s.template to_tensor<double, 2>();
    const auto product = [&](context& ctx, const tensor<float, 2>& f) {
      tensor<float, 2> out({f.shape()[0], shape[0]});
      kernel::dot_product<float>(ctx, block_matrix<TestType>(s.matrix()), f.view(), out.view().transpose(), 1.5f, 0.0f);
      return out;
    };
    for (const index_t few : {1, 2, 3, 5, 8}) {
      auto f = test::random_tensor<float, 2>({few, shape[1]}, 2);
      for (index_t k = 0; k < shape[1]; k += 7) f(few - 1, k) *= 1e3f;  // blocks of all sizes
      const auto whole = [&] {
        context ctx;
        return product(ctx, f);
      }();
      for (const auto asked : {product_precision::int16, product_precision::bf16}) {
        const auto got = test::on_any_threads([&](context& ctx) {
          ctx.products = asked;
          return product(ctx, f);
        });
        INFO("rows " << shape[0] << " depth " << shape[1] << " vectors " << few);
        // A number is off by half a step at most, 1 / 65534 of the largest of its 32.
        bool within = true;
        for (index_t v = 0; v < few; ++v)
          for (index_t r = 0; r < shape[0]; ++r) {
            double bound = 0, size = 0;
            for (index_t k = 0; k < shape[1]; k += 32) {
              double largest = 0, weights = 0;
              for (index_t i = k; i < std::min(k + 32, shape[1]); ++i) {
                largest = std::max(largest, std::abs(static_cast<double>(f(v, i))));
                weights += std::abs(values(r, i));
              }
              bound += weights * largest / 65534;
              size += weights * largest;
            }
            const double difference = std::abs(static_cast<double>(got(v, r)) - static_cast<double>(whole(v, r)));
            within = within && difference <= 1.5 * (bound + size * test::tolerance<float>(shape[1]));
          }
        CHECK(within);
        if (simd::multiplies_int16<TestType, simd::default_arch> && shape[1] > 100) CHECK_FALSE(test::equal_bits(got, whole));
      }
    }
  }
}

TEST_CASE("rounding to 16 bits keeps zeros, and what is not finite is seen") {
  const auto s = test::random_blocks<q8_0_block>({3, 96}, 1);
  const auto product = [&](const tensor<float, 2>& f) {
    context ctx;
    ctx.products = product_precision::int16;
    tensor<float, 2> out({1, 3});
    kernel::dot_product<float>(ctx, block_matrix<q8_0_block>(s.matrix()), f.view(), out.view().transpose(), 1.0f, 0.0f);
    return out;
  };
  auto f = tensor<float, 2>::zeros({1, 96});
  const auto nothing = product(f);
  for (const float y : nothing.span()) CHECK(y == 0);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    f(0, 40) = bad;
    const auto seen = product(f);
    for (const float y : seen.span()) CHECK_FALSE(std::isfinite(y));
  }
  f(0, 40) = std::numeric_limits<float>::denorm_min();
  const auto tiny = product(f);
  for (const float y : tiny.span()) CHECK(std::abs(y) < 1e-37f);
}
