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
