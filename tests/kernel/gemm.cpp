// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/gemm.hpp"

#include <array>

#include "graft/core/thread_pool.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;
using test::random_tensor;

namespace {

enum class form { nt, nn, tn };

/// The product in double, element by element.
template <class T>
tensor<T, 2> plain_product(form f, const tensor<T, 2>& a, const tensor<T, 2>& b, const tensor<T, 2>& c, kernel::product_scale s) {
  tensor<T, 2> result(c.shape());
  const index_t depth = f == form::tn ? a.shape()[0] : a.shape()[1];
  for (index_t i = 0; i < c.shape()[0]; ++i)
    for (index_t j = 0; j < c.shape()[1]; ++j) {
      double sum = 0;
      for (index_t k = 0; k < depth; ++k)
        sum += static_cast<double>(f == form::tn ? a(k, i) : a(i, k)) * static_cast<double>(f == form::nt ? b(j, k) : b(k, j));
      result(i, j) = static_cast<T>(s.alpha * sum + (s.beta == 0 ? 0 : s.beta * static_cast<double>(c(i, j))));
    }
  return result;
}

template <class T>
void run(form f, context& ctx, const tensor<T, 2>& a, const tensor<T, 2>& b, tensor<T, 2>& c, kernel::product_scale s) {
  if (f == form::nt) kernel::matmul_nt<T>(ctx, a, b.view(), c, s);
  if (f == form::nn) kernel::matmul_nn<T>(ctx, a, b.view(), c, s);
  if (f == form::tn) kernel::matmul_tn<T>(ctx, a, b, c, s);
}

template <class T>
auto operands(form f, index_t n, index_t m, index_t k) {
  return std::pair(random_tensor<T, 2>(f == form::tn ? extents<2>{k, n} : extents<2>{n, k}, 1),
                   random_tensor<T, 2>(f == form::nt ? extents<2>{m, k} : extents<2>{k, m}, 2));
}

}  // namespace

TEMPLATE_TEST_CASE("products of every form and shape agree with the plain sum", "", float, double) {
  context ctx;
  for (form f : {form::nt, form::nn, form::tn})
    for (index_t n : {1, 2, 3, 5, 8, 9, 17, 33, 65, 100})
      for (index_t m : {1, 4, 7, 8, 9, 16, 31, 48, 50, 145})
        for (index_t k : {1, 3, 16, 31, 64, 400, 800})
          for (const kernel::product_scale s : {kernel::product_scale{1, 0}, {1.5, 1}, {-0.5, 0.25}}) {
            const auto [a, b] = operands<TestType>(f, n, m, k);
            auto c = random_tensor<TestType, 2>({n, m}, 3);
            const auto expected = plain_product(f, a, b, c, s);
            run(f, ctx, a, b, c, s);
            INFO("form " << static_cast<int>(f) << " n " << n << " m " << m << " k " << k << " beta " << s.beta);
            REQUIRE(test::near(c, expected, test::tolerance<TestType>(k)));
          }
}

TEMPLATE_TEST_CASE("many rows, and few whose results are a page wide, agree with the plain sum", "", float, double) {
  context ctx;
  const kernel::product_scale s{1, 0.5};
  for (const auto& [n, m, k] : {std::array<index_t, 3>{260, 100, 300}, {260, 65, 2500}, {100, 1030, 300}}) {
    const auto [a, b] = operands<TestType>(form::nn, n, m, k);
    auto c = random_tensor<TestType, 2>({n, m}, 3);
    const auto expected = plain_product(form::nn, a, b, c, s);
    run(form::nn, ctx, a, b, c, s);
    INFO("n " << n << " m " << m << " k " << k);
    CHECK(test::near(c, expected, test::tolerance<TestType>(k)));
  }
}

TEMPLATE_TEST_CASE("a low-rank term adds the plain product of its factors, on every path and at every rank", "", float, double) {
  using T = TestType;
  context ctx;
  for (form f : {form::nt, form::nn})
    for (index_t n : {1, 8, 9, 40, 100})
      for (index_t m : {7, 31, 145})
        for (index_t k : {31, 800})
          for (index_t rank : {1, 8, 17, 64, 65})
            for (const kernel::product_scale s : {kernel::product_scale{1, 0}, {-0.5, 0.25}}) {
              const auto [a, b] = operands<T>(f, n, m, k);
              const auto left = random_tensor<T, 2>({n, rank}, 4);
              const auto right = random_tensor<T, 2>(f == form::nt ? extents<2>{m, rank} : extents<2>{rank, m}, 5);
              auto c = random_tensor<T, 2>({n, m}, 3);
              const auto expected = plain_product(f, left, right, plain_product(f, a, b, c, s), {s.alpha, 1});
              const kernel::low_rank_term<T> term{left, right};
              if (f == form::nt) kernel::matmul_nt<T>(ctx, a, b.view(), c, s, term);
              else kernel::matmul_nn<T>(ctx, a, b.view(), c, s, term);
              INFO("form " << static_cast<int>(f) << " n " << n << " m " << m << " k " << k << " rank " << rank << " beta " << s.beta);
              REQUIRE(test::near(c, expected, test::tolerance<T>(k)));
            }
}

TEST_CASE("a low-rank term beside 16-bit weights and on several threads gives the same bits as beside their widened values on one") {
  thread_pool pool(3);
  context serial, parallel(pool);
  const auto wide = random_tensor<float, 2>({250, 500}, 5);
  tensor<bf16, 2> narrow({250, 500});
  tensor<float, 2> rounded({250, 500});
  for (index_t i = 0; i < wide.size(); ++i) rounded.data()[i] = convert<float>(narrow.data()[i] = convert<bf16>(wide.data()[i]));
  const auto x = random_tensor<float, 2>({130, 500}, 6), h = random_tensor<float, 2>({130, 8}, 7), b = random_tensor<float, 2>({250, 8}, 8);
  tensor<float, 2> y({130, 250}), expected({130, 250});
  kernel::matmul_nt<float>(serial, x, rounded.view(), expected, {}, {h, b});
  kernel::matmul_nt<float>(parallel, x, narrow.view(), y, {}, {h, b});
  CHECK(test::equal_bits(y, expected));
}

TEST_CASE("with beta zero the old contents of the result are not read") {
  context ctx;
  for (form f : {form::nt, form::nn, form::tn})
    for (index_t n : {1, 4, 20, 70}) {
      const auto [a, b] = operands<float>(f, n, 50, 60);
      auto c = tensor<float, 2>::full({n, 50}, std::numeric_limits<float>::quiet_NaN());
      const auto expected = plain_product(f, a, b, tensor<float, 2>::zeros({n, 50}), {});
      run(f, ctx, a, b, c, {});
      CHECK(test::near(c, expected, test::tolerance<float>(60)));
    }
}

TEMPLATE_TEST_CASE("16-bit weights multiply as their widened values do, bit for bit", "", bf16, f16) {
  context ctx;
  for (const auto& [n, m, k] : {std::array<index_t, 3>{1, 70, 90}, {8, 70, 90}, {20, 70, 90}, {100, 70, 90}, {100, 300, 1030}}) {
    const auto wide = random_tensor<float, 2>({m, k}, 5);
    tensor<TestType, 2> narrow({m, k});
    tensor<float, 2> rounded({m, k});
    for (index_t i = 0; i < wide.size(); ++i) {
      narrow.data()[i] = convert<TestType>(wide.data()[i]);
      rounded.data()[i] = convert<float>(narrow.data()[i]);
    }
    const auto x = random_tensor<float, 2>({n, k}, 6), g = random_tensor<float, 2>({n, m}, 7);
    tensor<float, 2> y({n, m}), y2({n, m}), dx({n, k}), dx2({n, k});
    kernel::matmul_nt<float>(ctx, x, narrow.view(), y);
    kernel::matmul_nt<float>(ctx, x, rounded.view(), y2);
    kernel::matmul_nn<float>(ctx, g, narrow.view(), dx);
    kernel::matmul_nn<float>(ctx, g, rounded.view(), dx2);
    CHECK(test::equal_bits(y, y2));
    CHECK(test::equal_bits(dx, dx2));
  }
  const tensor<std::int32_t, 2> integers = tensor<std::int32_t, 2>::zeros({4, 4});
  tensor<float, 2> y({4, 4});
  CHECK_THROWS_AS(kernel::matmul_nt<float>(ctx, tensor<float, 2>::zeros({4, 4}), integers.view(), y), dtype_error);
}

TEMPLATE_LIST_TEST_CASE("weights in blocks multiply as their decoded values do, bit for bit", "", test::every_block_format) {
  thread_pool pool(3);
  context serial, parallel(pool);
  for (const extents<2> shape : {extents<2>{70, 90}, {48, 64}, {9, 500}, {145, 33}, {200, 801}, {1, 97}, {300, 1020}}) {
    const auto blocks = test::random_blocks<TestType>(shape, 5);
    const auto decoded = blocks.template to_tensor<float, 2>();
    for (index_t n : {1, 2, 3, 5, 8, 20, 100}) {
      if (shape[0] <= 8 && n > 8) continue;  // so few plain rows change sides, and sum in another order
      const auto x = random_tensor<float, 2>({n, shape[1]}, 6), g = random_tensor<float, 2>({n, shape[0]}, 7);
      tensor<float, 2> y({n, shape[0]}), y2({n, shape[0]}), dx({n, shape[1]}), dx2({n, shape[1]});
      kernel::matmul_nt<float>(serial, x, decoded.view(), y);
      kernel::matmul_nn<float>(serial, g, decoded.view(), dx);
      for (context* ctx : {&serial, &parallel}) {
        kernel::matmul_nt<float>(*ctx, x, blocks.matrix(), y2);
        kernel::matmul_nn<float>(*ctx, g, blocks.matrix(), dx2);
        INFO("rows " << shape[0] << " columns " << shape[1] << " tokens " << n);
        CHECK(test::equal_bits(y, y2));
        CHECK(test::equal_bits(dx, dx2));
      }
    }
  }
}

TEMPLATE_TEST_CASE("products with weights in blocks agree with the plain sum over their values", "", float, double) {
  context ctx;
  for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::nf4})
    for (form f : {form::nt, form::nn})
      for (index_t n : {1, 2, 4, 7, 8, 9, 33, 65})
        for (index_t m : {7, 8, 31, 50, 145})  // one sum alone may cancel to less than its rounding
          for (index_t k : {1, 31, 32, 33, 64, 97, 400, 800}) {
            const auto [a, b] = operands<TestType>(f, n, m, k);
            const auto blocks = convert_array(frozen_array(b.clone()), type);
            auto c = random_tensor<TestType, 2>({n, m}, 3);
            const kernel::product_scale s{-0.5, k == 64 ? 0.25 : 0};
            const auto expected = plain_product(f, a, blocks.template to_tensor<TestType, 2>(), c, s);
            if (f == form::nt) kernel::matmul_nt<TestType>(ctx, a, blocks.matrix(), c, s);
            else kernel::matmul_nn<TestType>(ctx, a, blocks.matrix(), c, s);
            INFO(name_of(type) << " form " << static_cast<int>(f) << " n " << n << " m " << m << " k " << k);
            REQUIRE(test::near(c, expected, test::tolerance<TestType>(k)));
          }
}

TEST_CASE("strided operands need only contiguous rows") {
  context ctx;
  const auto big = random_tensor<float, 2>({40, 100}, 1), w = random_tensor<float, 2>({30, 100}, 2);
  const auto x = big.slice(1, 10, 60), v = w.slice(1, 20, 70);
  tensor<float, 2> out = tensor<float, 2>::zeros({40, 64}), y({40, 30});
  kernel::matmul_nt<float>(ctx, x, v, out.slice(1, 7, 37));
  kernel::matmul_nt<float>(ctx, tensor<float, 2>::copy_of(x), tensor<float, 2>::copy_of(v).view(), y);
  CHECK(test::equal_bits(out.slice(1, 7, 37), y.view()));
  CHECK(out(3, 6) == 0);
  CHECK(out(3, 37) == 0);
}

TEST_CASE("a transposed factor whose rows lie pages apart gives the bits of one whose rows are close") {
  thread_pool pool(3);
  context serial, parallel(pool);
  const auto wide = random_tensor<float, 2>({500, 1500}, 1);
  for (index_t rows : {64, 70, 301, 600})
    for (index_t columns : {50, 200}) {
      const auto a = wide.slice(1, 5, 5 + rows);
      const auto b = random_tensor<float, 2>({500, columns}, 2);
      auto expected = random_tensor<float, 2>({rows, columns}, 3);
      auto c = expected.clone(), again = expected.clone();
      kernel::matmul_tn<float>(serial, tensor<float, 2>::copy_of(a), b, expected, {0.5, 2});
      kernel::matmul_tn<float>(serial, a, b, c, {0.5, 2});
      kernel::matmul_tn<float>(parallel, a, b, again, {0.5, 2});
      CHECK(test::equal_bits(c, expected));
      CHECK(test::equal_bits(again, expected));
    }
}

TEST_CASE("any number of threads gives the same bits") {
  context serial;
  for (form f : {form::nt, form::nn, form::tn})
    for (index_t n : {1, 16, 130, 600}) {
      const auto [a, b] = operands<float>(f, n, 250, 500);
      tensor<float, 2> expected({n, 250});
      run(f, serial, a, b, expected, {});
      for (index_t threads : {2, 3, 7}) {
        thread_pool pool(threads);
        context ctx(pool);
        tensor<float, 2> c({n, 250});
        run(f, ctx, a, b, c, {});
        CHECK(test::equal_bits(c, expected));
      }
    }
}
