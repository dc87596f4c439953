// SPDX-License-Identifier: Apache-2.0
// Attention whose products go by pairs of bf16 values, wherever the processor has these, and not only where it gains by them.
#include "graft/kernel/bf16_attention.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "graft/core/thread_pool.hpp"
#include "graft/kernel/attention_backward.hpp"
#include "graft/kernel/gemm.hpp"
#include "support/attention.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;
using test::example;

namespace {

constexpr double allowed = 0.02;  // of the largest value: factors keep 8 bits, and a score's error is one of its power

// Blocks are 48 queries forward, 96 queries and 64 keys backward.
const std::vector<example> paired_examples{
    {{0, 130}, {0, 130}, 3, 1, 32, true},         {{0, 7, 107}, {0, 7, 107}, 6, 2, 64, true}, {{0, 400}, {0, 400}, 1, 1, 80, true},
    {{0, 230}, {0, 230}, 2, 1, 48, false},        {{0, 33, 60}, {0, 90, 117}, 2, 1, 128, true}, {{0, 1, 97, 193}, {0, 64, 160, 256}, 2, 2, 64, false},
    {{0, 100, 100, 149}, {0, 300, 310, 400}, 1, 1, 256, true},
};

using inputs = test::attention_inputs<float>;

template <class Arch = simd::default_arch>
test::attention_result<float> run(context& ctx, const example& e, const inputs& in, float beta) {
  auto r = test::attention_results_for(e, in.q, in.k);
  const auto at = e.layout();
  const auto into = [beta](tensor<float, 2>& x) { return kernel::gradient_target<float>{x.data(), x.shape()[1], beta}; };
  const auto dq = into(r.dq), dk = into(r.dk), dv = into(r.dv);
  if constexpr (kernel::detail::could_go_in_bf16<float, Arch>)
    if (simd::runs_bf16()) {
      namespace detail = kernel::detail;
      detail::run_forward(ctx, detail::paired_forward<Arch>{at, in.q, in.k, in.v, r.y, r.log_sum.data(), 0, 0}, detail::pair_columns);
      detail::run_backward(ctx, detail::backward_task<float, Arch>{at, in.q, in.k, in.v, r.y, in.dy, r.log_sum.data(), dq, dk, dv, 0, 0, 0}, true);
      return r;
    }
  kernel::attention<float>(ctx, at, in.q, in.k, in.v, r.y, r.log_sum.data());
  kernel::attention_backward<float>(ctx, at, in.q, in.k, in.v, r.y, r.log_sum.data(), in.dy, dq, dk, dv);
  return r;
}

}  // namespace

TEST_CASE("attention by pairs and its gradients follow their definition") {
  context ctx;
  for (const example& e : paired_examples) {
    const inputs in(e);
    test::check_definition(e, in, allowed, [&](float beta) { return run(ctx, e, in, beta); });
  }
}

TEST_CASE("attention by pairs gives the same bits on any number of threads, whatever its workspace held") {
  for (const example& e : {paired_examples[1], paired_examples[5]}) {
    const inputs in(e);
    context serial;
    const auto expected = run(serial, e, in, 0);
    for (index_t threads : {1, 2, 3, 7}) {
      thread_pool pool(threads);
      context ctx(pool);
      {
        ctx.scratch().reserve(std::size_t{4} << 20);
        const auto scratch = ctx.scratch().take();
        std::fill_n(scratch.as<float>(), std::size_t{1} << 20, std::numeric_limits<float>::quiet_NaN());
      }
      const auto got = run(ctx, e, in, 0);
      CHECK(test::equal_bits(got.y, expected.y));
      CHECK(test::equal_bits(got.log_sum, expected.log_sum));
      CHECK(test::equal_bits(got.dq, expected.dq));
      CHECK(test::equal_bits(got.dk, expected.dk));
      CHECK(test::equal_bits(got.dv, expected.dv));
    }
  }
}

TEST_CASE("attention takes bf16 where its context asks and the processor has matrix registers, for heads and sequences that are large enough") {
  const auto differs = [](const example& e) {
    const inputs in(e);
    context full, ctx;
    ctx.products = product_precision::bf16;
    tensor<float, 2> y(in.q.shape()), expected(in.q.shape());
    kernel::attention<float>(full, e.layout(), in.q, in.k, in.v, expected, nullptr);
    kernel::attention<float>(ctx, e.layout(), in.q, in.k, in.v, y, nullptr);
    CHECK(test::near(y, expected, allowed));
    return !test::equal_bits(y, expected);
  };
  const bool gains = kernel::multiplies_in_bf16<float>() && simd::runs_bf16_matrices();
  CHECK(differs({{0, 40}, {0, 40}, 2, 2, 64, true}) == gains);
  CHECK_FALSE(differs({{0, 31}, {0, 31}, 2, 2, 64, true}));
  CHECK_FALSE(differs({{0, 40}, {0, 40}, 2, 2, 20, true}));
  CHECK_FALSE(differs({{0, 40}, {0, 40}, 2, 2, 8, true}));
}
