// SPDX-License-Identifier: Apache-2.0
// What the remaining operations refuse, each with the sizes it met.
#include "graft/ops/attention.hpp"
#include "graft/ops/embedding.hpp"
#include "graft/ops/low_rank.hpp"
#include "graft/ops/norm.hpp"
#include "graft/ops/reduce.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

struct operands {
  context ctx;
  tape<float> t{ctx};
  tensor<float, 2> zeros = tensor<float, 2>::zeros({32, 32});
  var<float, 2> matrix(index_t n, index_t c) { return t.constant(tensor_view<const float, 2>(zeros.data(), {n, c})); }
  var<float, 1> vector(index_t n) { return t.constant(tensor_view<const float, 1>(zeros.data(), {n})); }
};

}  // namespace

TEST_CASE("linear maps name both operands when their columns differ") {
  operands o;
  CHECK_THROWS_WITH(linear(o.t, o.matrix(2, 3), o.matrix(5, 4)), "linear: x has 3 columns, weight has 4 (x is (2, 3), weight is (5, 4))");
  CHECK_THROWS_WITH(add_bias(o.t, o.matrix(2, 3), o.vector(4)), "add_bias: x has 3 columns, bias has 4 (x is (2, 3), bias is (4))");
  CHECK_THROWS_WITH(add_low_rank(o.t, o.matrix(2, 6), o.matrix(2, 3), o.matrix(1, 4), o.matrix(6, 1), 1),
                    "add_low_rank: x has 3 columns, a has 4 (x is (2, 3), a is (1, 4))");
  CHECK_THROWS_WITH(add_low_rank(o.t, o.matrix(2, 6), o.matrix(2, 4), o.matrix(1, 4), o.matrix(6, 2), 1),
                    "add_low_rank: b has 2 columns, a transposed has 1 (b is (6, 2), a transposed is (4, 1))");
  CHECK_THROWS_WITH(add_low_rank(o.t, o.matrix(2, 6), o.matrix(2, 4), o.matrix(1, 4), o.matrix(5, 1), 1),
                    "add_low_rank: y has 6 columns, b transposed has 5 (y is (2, 6), b transposed is (1, 5))");
  const matrix_ref w(tensor_view<const float, 2>(o.zeros.data(), {6, 4}));
  CHECK_THROWS_WITH(linear_low_rank(o.t, o.matrix(2, 3), w, o.matrix(2, 3), o.matrix(1, 3), o.matrix(6, 1), 1),
                    "linear_low_rank: x has 3 columns, weight has 4 (x is (2, 3), weight is (6, 4))");
  CHECK_THROWS_WITH(linear_low_rank(o.t, o.matrix(2, 4), w, o.matrix(3, 4), o.matrix(1, 4), o.matrix(6, 1), 1),
                    "linear_low_rank: x is (2, 4), d is (3, 4)");
  CHECK_THROWS_WITH(linear_low_rank(o.t, o.matrix(2, 4), w, o.matrix(2, 4), o.matrix(1, 4), o.matrix(5, 1), 1),
                    "linear_low_rank: b transposed has 5 columns, weight transposed has 6 (b transposed is (1, 5), weight transposed is (4, 6))");
}

TEST_CASE("norms, look-ups and means name what does not fit") {
  operands o;
  CHECK_THROWS_WITH(rms_norm(o.t, o.matrix(2, 3), o.vector(4)), "rms_norm: x is (2, 3), the gain has 4 entries");
  CHECK_THROWS_WITH(layer_norm(o.t, o.matrix(2, 3), o.vector(3), o.vector(4)), "layer_norm: x is (2, 3), the gain has 4 entries");
  const std::vector<std::int32_t> ids{0, 5};
  CHECK_THROWS_WITH(embedding(o.t, o.matrix(5, 3), ids), "embedding: number 5 at position 1, but the table has 5 rows");
  CHECK_THROWS_AS(take_rows(o.t, o.matrix(5, 3), ids), shape_error);
  const std::vector<index_t> empty_one{0, 2, 2, 5}, short_one{0, 4};
  CHECK_THROWS_WITH(mean_rows(o.t, o.matrix(5, 3), empty_one), "mean_rows: sequence 1 is empty");
  CHECK_THROWS_WITH(mean_rows(o.t, o.matrix(5, 3), short_one), "mean_rows: x is (5, 3), the sequences end at row 4");
  CHECK_THROWS_WITH(mean_squared_error(o.t, o.matrix(2, 3), tensor_view<const float, 2>(o.zeros.data(), {3, 2})),
                    "mean_squared_error: x is (2, 3), the target is (3, 2)");
  CHECK_THROWS_AS(reshape(o.t, o.matrix(2, 3), extents<1>{5}), shape_error);
}

TEST_CASE("attention and rotary positions name their layout") {
  operands o;
  const std::vector<index_t> rows{0, 2};
  const kernel::attention_layout at{4, 2, 3, 1.0, true, rows, rows};
  CHECK_NOTHROW(attention(o.t, at, o.matrix(2, 12), o.matrix(2, 6), o.matrix(2, 6)));
  CHECK_THROWS_WITH(attention(o.t, at, o.matrix(2, 12), o.matrix(2, 12), o.matrix(2, 12)),
                    "attention: q is (2, 12), k is (2, 12), v is (2, 12); the layout has 4 query heads and 2 key heads of size 3 and 2 query rows");
  CHECK_THROWS_AS(attention(o.t, at, o.matrix(3, 12), o.matrix(2, 6), o.matrix(2, 6)), shape_error);
  const std::vector<std::int32_t> positions{0, 1};
  const auto table = std::as_const(o.zeros).view();
  CHECK_THROWS_WITH(rotate_positions<float>(o.t, o.matrix(2, 12), 6, positions, table, table),
                    "rotate_positions: x is (2, 12), there are 2 positions, heads of 6 and tables of (32, 32)");
}

TEST_CASE("means and sums are what they say") {
  context ctx;
  tape<double> t(ctx);
  const auto a = tensor<double, 2>::of({{1, 2}, {3, 4}, {8, 9}});
  const auto x = t.constant(a.view());
  const std::vector<index_t> offsets{0, 2, 3};
  const auto means = mean_rows(t, x, offsets);
  CHECK(test::near(tensor_view<const double, 2>(means.value), tensor<double, 2>::of({{2, 3}, {8, 9}}).view(), 0));
  CHECK(*sum(t, x).value.data == 27);
  CHECK(*mean(t, x).value.data == Approx(4.5));
  const auto target = tensor<double, 2>::of({{1, 2}, {3, 4}, {8, 6}});
  CHECK(*mean_squared_error(t, x, target.view()).value.data == Approx(1.5));
  const std::vector<std::int32_t> rows{2, 0};
  const auto taken = take_rows(t, x, rows);
  CHECK(test::near(tensor_view<const double, 2>(taken.value), tensor<double, 2>::of({{8, 9}, {1, 2}}).view(), 0));
}
