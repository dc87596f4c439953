// SPDX-License-Identifier: Apache-2.0
#include "graft/ops/elementwise.hpp"

#include "graft/core/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

tensor<float, 1> dropped(context& ctx, double rate, batch_info at, std::uint64_t stream = 1, index_t n = 20'000) {
  const auto x = tensor<float, 1>::full({n}, 1.0f);
  tape<float> t(ctx, recording::off, at);
  return tensor<float, 1>::copy_of(dropout(t, t.constant(x.view()), rate, stream).value);
}

}  // namespace

TEST_CASE("dropout zeroes its share while training, and keeps the mean") {
  context ctx;
  constexpr double rate = 0.3, n = 20'000;
  const auto y = dropped(ctx, rate, {.training = true});
  double zeros = 0;
  for (const float v : y.span()) {
    CHECK((v == 0 || v == Approx(1 / (1 - rate))));
    zeros += v == 0;
  }
  CHECK(std::abs(zeros - rate * n) < 5 * std::sqrt(n * rate * (1 - rate)));
  CHECK(test::equal_bits(dropped(ctx, rate, {.training = false}), tensor<float, 1>::full({20'000}, 1.0f)));
  CHECK(test::equal_bits(dropped(ctx, 0, {.training = true}), tensor<float, 1>::full({20'000}, 1.0f)));
}

TEST_CASE("a dropout mask follows from seed, step, part and stream, whatever the threads") {
  context ctx;
  const auto y = dropped(ctx, 0.5, {.training = true, .step = 3});
  thread_pool pool(3);
  context parallel(pool);
  CHECK(test::equal_bits(dropped(parallel, 0.5, {.training = true, .step = 3}), y));
  CHECK_FALSE(test::equal_bits(dropped(ctx, 0.5, {.training = true, .step = 4}), y));
  CHECK_FALSE(test::equal_bits(dropped(ctx, 0.5, {.training = true, .step = 3}, 2), y));
  CHECK_FALSE(test::equal_bits(dropped(ctx, 0.5, {.training = true, .step = 3, .part = 1}), y));
  ctx.seed = 1;
  CHECK_FALSE(test::equal_bits(dropped(ctx, 0.5, {.training = true, .step = 3}), y));
}

TEST_CASE("operands of other shapes are refused with both") {
  context ctx;
  tape<float> t(ctx);
  const auto a = tensor<float, 2>::zeros({2, 3}), b = tensor<float, 2>::zeros({3, 2});
  const auto gain = tensor<float, 1>::zeros({2});
  const auto x = t.constant(a.view()), y = t.constant(b.view());
  const std::string shapes = ": the operands have shapes (2, 3) and (3, 2)";
  CHECK_THROWS_WITH(add(t, x, y), "add" + shapes);
  CHECK_THROWS_WITH(multiply(t, x, y), "multiply" + shapes);
  CHECK_THROWS_WITH(swiglu(t, x, y), "swiglu" + shapes);
  CHECK_THROWS_WITH(scale(t, x, t.constant(gain.view())), "scale: x is (2, 3), the gain has 2 entries");
}

TEST_CASE("sums, products and scales are what they say") {
  context ctx;
  tape<double> t(ctx);
  const auto a = tensor<double, 2>::of({{1, -2, 3}, {4, 5, -6}}), b = tensor<double, 2>::of({{7, 8, 9}, {10, 11, 12}});
  const auto row = tensor<double, 1>::of({2, 3, 5});
  const auto x = t.constant(a.view()), y = t.constant(b.view());
  const auto gives = [&](const var<double, 2>& v, const tensor<double, 2>& expected) { return test::near(tensor_view<const double, 2>(v.value), expected.view(), 0); };
  CHECK(gives(add(t, x, y), tensor<double, 2>::of({{8, 6, 12}, {14, 16, 6}})));
  CHECK(gives(subtract(t, x, y), tensor<double, 2>::of({{-6, -10, -6}, {-6, -6, -18}})));
  CHECK(gives(multiply(t, x, y), tensor<double, 2>::of({{7, -16, 27}, {40, 55, -72}})));
  CHECK(gives(scale(t, x, -0.5), tensor<double, 2>::of({{-0.5, 1, -1.5}, {-2, -2.5, 3}})));
  CHECK(gives(scale(t, x, t.constant(row.view())), tensor<double, 2>::of({{2, -6, 15}, {8, 15, -30}})));
}
