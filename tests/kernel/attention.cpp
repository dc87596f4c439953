// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/attention.hpp"

#include <cmath>
#include <vector>

#include "graft/core/thread_pool.hpp"
#include "graft/kernel/attention_backward.hpp"
#include "support/attention.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;
using test::example;
using test::random_tensor;

namespace {

const std::vector<example> examples{
    {{0, 5}, {0, 5}, 1, 1, 8, true},          {{0, 5}, {0, 5}, 2, 2, 16, false},
    {{0, 130}, {0, 130}, 3, 1, 32, true},     {{0, 50, 51, 121}, {0, 50, 51, 121}, 4, 2, 20, false},
    {{0, 7, 107}, {0, 7, 107}, 6, 2, 64, true}, {{0, 3, 30}, {0, 90, 117}, 2, 1, 24, true},
    {{0, 400}, {0, 400}, 1, 1, 80, true},     {{0, 230}, {0, 230}, 2, 1, 60, false},
    {{0, 261}, {0, 261}, 4, 2, 8, true},      {{0, 97}, {0, 97}, 2, 2, 16, true},
    {{0, 3, 30}, {0, 90, 117}, 2, 1, 8, true}, {{0, 50, 51, 121}, {0, 50, 51, 121}, 2, 2, 8, false},
    {{0, 300, 301}, {0, 300, 308}, 1, 1, 8, false}, {{0, 90}, {0, 95}, 2, 1, 8, true},
    {{0, 5, 5, 9}, {0, 5, 12, 16}, 2, 1, 16, true}, {{0, 5, 5}, {0, 5, 12}, 1, 1, 8, false},
    {{0, 100}, {0, 300}, 1, 1, 64, true},     {{0, 100}, {0, 300}, 1, 1, 20, true},  // blocks of keys begin within blocks of queries
};

template <class T>
test::attention_result<T> run(context& ctx, const example& e, const tensor<T, 2>& q, const tensor<T, 2>& k, const tensor<T, 2>& v,
                              const tensor<T, 2>& dy, T beta) {
  auto r = test::attention_results_for(e, q, k);
  const auto at = e.layout();
  kernel::attention<T>(ctx, at, q, k, v, r.y, r.log_sum.data());
  kernel::attention_backward<T>(ctx, at, q, k, v, r.y, r.log_sum.data(), dy, {r.dq.data(), r.dq.shape()[1], beta},
                                {r.dk.data(), r.dk.shape()[1], beta}, {r.dv.data(), r.dv.shape()[1], beta});
  return r;
}

}  // namespace

TEMPLATE_TEST_CASE("attention and its gradients follow their definition", "", float, double) {
  context ctx;
  for (const example& e : examples) {
    const test::attention_inputs<TestType> in(e);
    test::check_definition(e, in, test::tolerance<TestType>(e.key_offsets.back() + e.head_size),
                           [&](TestType beta) { return run<TestType>(ctx, e, in.q, in.k, in.v, in.dy, beta); });
  }
}

TEST_CASE("one query at a time gives what all at once give") {
  context ctx;
  const index_t n = 70, heads = 4, kv = 2, d = 24;
  const auto q = random_tensor<float, 2>({n, heads * d}, 1), k = random_tensor<float, 2>({n, kv * d}, 2), v = random_tensor<float, 2>({n, kv * d}, 3);
  const example whole{{0, n}, {0, n}, heads, kv, d, true};
  tensor<float, 2> y({n, heads * d}), row({1, heads * d});
  kernel::attention<float>(ctx, whole.layout(), q, k, v, y, nullptr);
  for (index_t i = 0; i < n; ++i) {
    const example one{{0, 1}, {0, i + 1}, heads, kv, d, true};
    kernel::attention<float>(ctx, one.layout(), q.slice(0, i, i + 1), k.slice(0, 0, i + 1), v.slice(0, 0, i + 1), row, nullptr);
    REQUIRE(test::near(row.view(), y.slice(0, i, i + 1), test::tolerance<float>(n)));
  }
}

TEST_CASE("many rows that lie a multiple of 1 KiB apart give the bits of the same rows side by side") {
  context ctx;
  const index_t n = 530, heads = 4, d = 64;
  const auto q = random_tensor<float, 2>({n, heads * d}, 1), k = random_tensor<float, 2>({n, heads * d}, 2), v = random_tensor<float, 2>({n, heads * d}, 3);
  const auto dy = random_tensor<float, 2>({n, heads * d}, 4);
  const auto together = run<float>(ctx, {{0, n}, {0, n}, heads, heads, d, true}, q, k, v, dy, 0);
  const auto part = [&](const tensor<float, 2>& x, index_t h) { return x.slice(1, h * d, (h + 1) * d).clone(); };
  for (index_t h = 0; h < heads; ++h) {
    const auto alone = run<float>(ctx, {{0, n}, {0, n}, 1, 1, d, true}, part(q, h), part(k, h), part(v, h), part(dy, h), 0);
    CHECK(test::equal_bits(part(together.y, h), alone.y));
    CHECK(test::equal_bits(part(together.dq, h), alone.dq));
    CHECK(test::equal_bits(part(together.dk, h), alone.dk));
    CHECK(test::equal_bits(part(together.dv, h), alone.dv));
  }
}

TEST_CASE("attention gives the same bits on any number of threads") {
  const example& e = examples[4];
  const index_t n = e.query_offsets.back();
  const auto q = random_tensor<float, 2>({n, e.heads * e.head_size}, 1), dy = random_tensor<float, 2>(q.shape(), 4);
  const auto k = random_tensor<float, 2>({n, e.kv_heads * e.head_size}, 2), v = random_tensor<float, 2>(k.shape(), 3);
  context serial;
  const auto expected = run<float>(serial, e, q, k, v, dy, 0);
  for (index_t threads : {2, 3, 7}) {
    thread_pool pool(threads);
    context ctx(pool);
    const auto got = run<float>(ctx, e, q, k, v, dy, 0);
    CHECK(test::equal_bits(got.y, expected.y));
    CHECK(test::equal_bits(got.dq, expected.dq));
    CHECK(test::equal_bits(got.dk, expected.dk));
    CHECK(test::equal_bits(got.dv, expected.dv));
  }
}
