// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/embedding.hpp"

#include "support/blocks.hpp"
#include "support/kernels.hpp"

using namespace graft;
using test::filled;

namespace {

std::vector<std::int32_t> some_ids(index_t n, index_t rows) {
  std::vector<std::int32_t> ids;
  for (index_t i = 0; i < n; ++i) ids.push_back(static_cast<std::int32_t>((i * i + 3 * i) % rows));
  return ids;
}

template <class T, class E>
void gathers(index_t c) {
  const index_t n = test::rows_for_threads(c), rows = 13;
  const auto ids = some_ids(n, rows);
  tensor<E, 2> table({rows, c});
  const auto values = test::random_tensor<float, 2>({rows, c}, 1), start = test::random_tensor<float, 2>({n, c}, 2);
  for (index_t i = 0; i < table.size(); ++i) table.data()[i] = convert<E>(values.data()[i]);
  for (const T beta : {T(0), T(0.5)}) {
    const auto y = test::on_any_threads([&](context& ctx) {
      auto out = filled<T>(n, c, [&](index_t r, index_t i) { return start(r, i); });
      kernel::gather_rows<T>(ctx, matrix_ref(std::as_const(table).view()), ids.data(), n, out.data(), beta);
      return out;
    });
    const auto expected = filled<double>(n, c, [&](index_t r, index_t i) {
      return static_cast<double>(convert<float>(table(ids[static_cast<std::size_t>(r)], i))) + static_cast<double>(beta) * static_cast<double>(start(r, i));
    });
    CHECK(test::near(y, expected, beta == T(0) ? 0 : test::tolerance<T>(2)));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("rows are looked up from a table of any storage type", "", float, double) {
  for (const index_t c : test::sizes_around_width<TestType>()) {
    gathers<TestType, float>(c);
    gathers<TestType, bf16>(c);
    gathers<TestType, f16>(c);
  }
}

TEMPLATE_LIST_TEST_CASE("rows are looked up from a table in blocks", "", test::every_block_format) {
  for (const index_t c : {1, 15, 16, 31, 32, 33, 64, 100, 130}) {
    const auto table = test::random_blocks<TestType>({13, c}, 1);
    const auto values = table.template to_tensor<double, 2>();
    const auto ids = some_ids(20, 13);
    context ctx;
    for (const float beta : {0.0f, 0.5f}) {
      auto y = test::random_tensor<float, 2>({20, c}, 2);
      const auto expected = filled<double>(20, c, [&](index_t r, index_t i) {
        return values(ids[static_cast<std::size_t>(r)], i) + static_cast<double>(beta) * static_cast<double>(y(r, i));
      });
      kernel::gather_rows<float>(ctx, table.matrix(), ids.data(), 20, y.data(), beta);
      CHECK(test::near(y, expected, beta == 0 ? 0 : test::tolerance<float>(2)));
    }
    tensor<double, 2> wide({20, c});
    kernel::gather_rows<double>(ctx, table.matrix(), ids.data(), 20, wide.data(), 0);
    CHECK(test::near(wide, filled<double>(20, c, [&](index_t r, index_t i) { return values(ids[static_cast<std::size_t>(r)], i); }), 0));
  }
}

TEMPLATE_TEST_CASE("gradients of rows looked up twice add up", "", float, double) {
  using T = TestType;
  const index_t n = 200;
  for (const index_t c : {index_t{1}, index_t{15}, index_t{16}, index_t{65}, index_t{200}}) {
    const index_t rows = 2 * (1 + 131072 / (c + 1)) + 3;  // more than two tasks
    auto ids = some_ids(n, 13);
    for (std::size_t i = 0; i < ids.size(); i += 2) ids[i] = static_cast<std::int32_t>(rows - 1 - ids[i]);
    for (const T beta : {T(0), T(1), T(0.5)}) {
      const auto dy = test::random_tensor<T, 2>({n, c}, 1), start = test::random_tensor<T, 2>({rows, c}, 2);
      const auto got = test::on_any_threads([&](context& ctx) {
        auto out = start.clone();
        kernel::scatter_rows<T>(ctx, dy.data(), ids.data(), n, out.view(), beta);
        return out;
      });
      auto expected = filled<double>(rows, c, [&](index_t v, index_t i) { return static_cast<double>(beta) * static_cast<double>(start(v, i)); });
      for (index_t r = 0; r < n; ++r)
        for (index_t i = 0; i < c; ++i) expected(ids[static_cast<std::size_t>(r)], i) += static_cast<double>(dy(r, i));
      CHECK(test::near(got, expected, test::tolerance<T>(n)));
    }
  }
}
