// SPDX-License-Identifier: Apache-2.0
#include "graft/ops/sequence_rows.hpp"

#include <vector>

#include "graft/ops/elementwise.hpp"
#include "graft/ops/reduce.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"

using namespace graft;

namespace {
const std::vector<index_t> ends{0, 0, 3, 4, 4};  // the first and the last sequence have no rows
}

TEST_CASE("rows put before every sequence, and dropped again") {
  const auto first = test::random_tensor<double, 2>({2, 3}, 1), x = test::random_tensor<double, 2>({4, 3}, 2);
  context ctx;
  tape<double> t(ctx);
  const auto y = prepend_rows(t, t.constant(first.view()), t.constant(x.view()), ends);
  CHECK(y.shape() == extents<2>{12, 3});
  const int from_x[] = {-1, -2, -1, -2, 0, 1, 2, -1, -2, 3, -1, -2};  // -1, -2: the rows put there
  for (index_t r = 0; r < 12; ++r)
    for (index_t c = 0; c < 3; ++c) CHECK(y.value(r, c) == (from_x[r] < 0 ? first(-from_x[r] - 1, c) : x(from_x[r], c)));
  CHECK(test::equal_bits(tensor_view<const double, 2>(drop_first_rows(t, y, 2, ends).value), x.view()));
  CHECK(t.nodes() == 0);
}

TEST_CASE("gradients of rows before sequences are the sum over these, by central differences") {
  test::leaves all;
  auto &first = all.matrix(2, 3), &x = all.matrix(4, 3), &weights = all.matrix(12, 3), &after = all.matrix(4, 3);
  context ctx;
  const double error = all.gradient_error(ctx, [&](tape<double>& t) {
    const auto f = t.leaf(first), long_rows = multiply(t, prepend_rows(t, f, t.leaf(x), ends), t.leaf(weights));
    const auto again = prepend_rows(t, f, multiply(t, drop_first_rows(t, long_rows, 2, ends), t.leaf(after)), ends);
    return sum(t, multiply(t, again, long_rows));  // long_rows has two users: gradients are added to what is there
  });
  CHECK(error < 1e-8);
}

TEST_CASE("rows of another width, and offsets of another array, are refused") {
  const auto first = test::random_tensor<double, 2>({2, 3}, 1), x = test::random_tensor<double, 2>({4, 3}, 2), wide = test::random_tensor<double, 2>({4, 5}, 2);
  context ctx;
  tape<double> t(ctx);
  const auto f = t.constant(first.view());
  CHECK_THROWS_WITH(prepend_rows(t, f, t.constant(wide.view()), ends), "prepend_rows: the rows to put before are (2, 3), x is (4, 5)");
  CHECK_THROWS_WITH(prepend_rows(t, f, f, ends), "prepend_rows: x is (2, 3), the sequences end at row 4");
  CHECK_THROWS_WITH(drop_first_rows(t, t.constant(x.view()), 1, ends),
                    "drop_first_rows: x is (4, 3), 4 sequences of 4 rows together should have 1 more rows each");
}
