// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>

#include "graft/core/thread_pool.hpp"
#include "graft/ops/columns.hpp"
#include "graft/ops/elementwise.hpp"
#include "graft/ops/gate.hpp"
#include "graft/ops/reduce.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"

using namespace graft;

namespace {

/// The gates of logits, on a tape of their own.
template <class T>
tensor<T, 1> gates_of(const tensor<T, 1>& u, batch_info batch = {}, gate_noise noise = {}, std::uint64_t seed = 0, executor_ref executor = {}) {
  context ctx(executor);
  ctx.seed = seed;
  tape<T> t(ctx, recording::off, batch);
  return tensor<T, 1>::copy_of(gates(t, t.constant(u.view()), noise).value);
}

/// The penalty's value and gradient.
template <class T>
std::pair<double, tensor<T, 1>> penalty_of(tensor<T, 1> u, gate_penalty_options o) {
  context ctx;
  parameter<T, 1> p(std::move(u));
  tape<T> t(ctx);
  const auto y = gate_penalty(t, t.leaf(p), o);
  t.backward(y);
  return {static_cast<double>(*y.value.data), tensor<T, 1>::copy_of(tensor_view<const T, 1>(p.gradient_values().data(), p.extent()))};
}

struct row {
  double u, mu, z, pi, slope;
};
constexpr row table[] = {{2.0, 0.96402758, 1, 0.99829455, 0.00077508},           {1.0, 0.76159416, 1, 0.99418519, 0.01388991},
                         {0.5, 0.46211716, 0.96211716, 0.97283739, 0.09853345},  {0.0, 0, 0.5, 0.84134475, 0.48394145},
                         {-0.3, -0.29131261, 0.20868739, 0.66179785, 0.66926596}, {-0.5493061443, -0.5, 0, 0.5, 0.59841342},
                         {-1.0, -0.76159416, 0, 0.30042161, 0.29222944}};

}  // namespace

TEMPLATE_TEST_CASE("gates and their open probability have the published values", "", double, float) {
  const double bound = std::is_same_v<TestType, double> ? 6e-9 : 4e-7;
  for (const row& r : table) {
    INFO("logit " << r.u);
    const auto u = tensor<TestType, 1>::of({static_cast<TestType>(r.u)});
    CHECK(std::abs(static_cast<double>(gates_of(u)(0)) - r.z) < bound);
    CHECK(std::abs(static_cast<double>(gate_value(u(0))) - r.z) < bound);
    CHECK(std::abs(open_probability(r.u, 0.5) - r.pi) < 6e-9);
    const auto [value, slope] = penalty_of(u.clone(), {.objective = gate_objective::sum});
    CHECK(std::abs(value - r.pi) < bound);
    CHECK(std::abs(static_cast<double>(slope(0)) - r.slope) < bound);
  }
}

TEST_CASE("the penalty is the distance of the mean open probability from its target") {
  const auto rows = tensor<double, 1>::of({1, 0, -1}), columns = tensor<double, 1>::of({1, -1, 0.5, 0});
  CHECK(std::abs(penalty_of(rows.clone(), {.keep = 0}).first - 0.71198385) < 6e-9);
  CHECK(std::abs(penalty_of(columns.clone(), {.keep = 0}).first - 0.77719723) < 6e-9);
  for (const auto& [sparsity, omega] : {std::pair(0.2, 0.05540946), std::pair(0.4, 0.14459054)}) {
    const gate_penalty_options o{.keep = 1 - sparsity};
    CHECK(std::abs((penalty_of(rows.clone(), o).first + penalty_of(columns.clone(), o).first) / 2 - omega) < 6e-9);
  }
  const auto exact = penalty_of(tensor<double, 1>::of({0.7}), {.keep = penalty_of(tensor<double, 1>::of({0.7}), {.keep = 0}).first});
  CHECK(exact.first == 0);
  CHECK(exact.second(0) == 0);
}

TEST_CASE("gradients of gates and of the penalty equal central differences") {
  context ctx;
  test::leaves leaves;
  auto& u = leaves.vector(40);
  for (double& v : u.value()) v *= 0.45;  // between the ends, where the function is smooth
  const auto weights = test::random_tensor<double, 1>({40}, 9);
  CHECK(leaves.gradient_error(ctx, [&](tape<double>& t) { return sum(t, multiply(t, gates(t, t.leaf(u)), t.constant(weights.view()))); }) < 1e-8);
  CHECK(leaves.gradient_error(ctx, [&](tape<double>& t) {
          t.batch = {.training = true, .step = 3};
          return sum(t, multiply(t, gates(t, t.leaf(u), {0.002, 5}), t.constant(weights.view())));
        }) < 1e-8);
  for (const double keep : {0.1, 0.95})
    CHECK(leaves.gradient_error(ctx, [&](tape<double>& t) { return gate_penalty(t, t.leaf(u), {.keep = keep}); }) < 1e-8);
  CHECK(leaves.gradient_error(ctx, [&](tape<double>& t) { return gate_penalty(t, t.leaf(u), {.spread = 0.3, .objective = gate_objective::sum}); }) < 1e-8);
}

TEST_CASE("gates at an end pass no gradient, though their noise may free them") {
  context ctx;
  parameter<double, 1> u(tensor<double, 1>::of({2, 0, -2, 0.55}));
  const auto gradients = [&](batch_info batch) {
    u.clear_gradient();
    tape<double> t(ctx, recording::on, batch);
    t.backward(sum(t, gates(t, t.leaf(u), {0.3, 1})));
    return std::vector<double>(u.gradient_values().begin(), u.gradient_values().end());
  };
  const auto still = gradients({});
  CHECK(still == std::vector<double>{0, 1, 0, 0});
  bool freed = false;
  for (std::uint64_t step = 0; step < 16; ++step) freed = freed || gradients({.training = true, .step = step})[3] > 0;
  CHECK(freed);
}

TEST_CASE("the noise of gates is normal, repeats for the same step and stream, and differs for others") {
  const index_t n = 20000;
  const auto zero = tensor<double, 1>::zeros({n});
  const batch_info batch{.training = true, .step = 4};
  const auto z = gates_of(zero, batch, {0.1, 7}, 3);
  double mean = 0, variance = 0;
  for (const double v : z.span()) mean += (v - 0.5) / n;
  for (const double v : z.span()) variance += (v - 0.5 - mean) * (v - 0.5 - mean) / n;
  CHECK(std::abs(mean) < 4 * 0.1 / std::sqrt(n));
  CHECK(std::abs(std::sqrt(variance) - 0.1) < 4 * 0.1 / std::sqrt(2.0 * n));

  thread_pool three(3);
  CHECK(test::equal_bits(z, gates_of(zero, batch, {0.1, 7}, 3)));
  CHECK(test::equal_bits(z, gates_of(zero, batch, {0.1, 7}, 3, three)));
  const auto differs = [&](const tensor<double, 1>& other) {
    index_t equal = 0;
    for (index_t i = 0; i < n; ++i) equal += other(i) == z(i);
    return equal < 3;
  };
  CHECK(differs(gates_of(zero, {.training = true, .step = 5}, {0.1, 7}, 3)));
  CHECK(differs(gates_of(zero, {.training = true, .step = 4, .part = 1}, {0.1, 7}, 3)));
  CHECK(differs(gates_of(zero, batch, {0.1, 8}, 3)));
  CHECK(differs(gates_of(zero, batch, {0.1, 7}, 4)));

  auto u = test::random_tensor<double, 1>({n}, 2);  // the same noise on other logits
  for (double& v : u.span()) v *= 2;
  const auto noisy = gates_of(u, batch, {0.1, 7}, 3);
  double most = 0;
  for (index_t i = 0; i < n; ++i) most = std::max(most, std::abs(noisy(i) - std::clamp(std::tanh(u(i)) + z(i), 0.0, 1.0)));
  CHECK(most < 1e-15);
  CHECK(test::equal_bits(gates_of(u, {.step = 4}, {0.1, 7}, 3), gate_values<double>(u.view())));  // none in evaluation
}

TEST_CASE("gates of infinite logits are at an end; NaN names the layer") {
  const double infinity = std::numeric_limits<double>::infinity();
  const auto z = gates_of(tensor<double, 1>::of({infinity, -infinity}));
  CHECK((z(0) == 1 && z(1) == 0));
  const auto bad = tensor<double, 1>::of({0, std::nan("")});
  context ctx;
  tape<double> t(ctx);
  const std::string message = "gates: logit 1 of layers.3.up is not a number";
  CHECK_THROWS_WITH(gates(t, t.constant(bad.view()), {}, "layers.3.up"), message);
  CHECK_THROWS_WITH(gate_values<double>(bad.view(), "layers.3.up"), message);
}

TEST_CASE("columns are taken and spread, with their gradients") {
  context ctx;
  test::leaves leaves;
  auto& x = leaves.matrix(5, 6);
  const std::int32_t columns[] = {4, 0, 3};
  {
    tape<double> t(ctx);
    const auto taken = take_columns<double>(t, t.leaf(x), columns);
    const auto spread = spread_columns<double>(t, taken, columns, 6);
    CHECK((taken.shape() == extents<2>{5, 3} && spread.shape() == extents<2>{5, 6}));
    for (index_t n = 0; n < 5; ++n)
      for (index_t c = 0; c < 6; ++c) CHECK(spread.value(n, c) == (c == 4 || c == 0 || c == 3 ? x.view()(n, c) : 0.0));
    CHECK(taken.value(2, 0) == x.view()(2, 4));
  }
  const auto w3 = test::random_tensor<double, 2>({5, 3}, 21), w9 = test::random_tensor<double, 2>({5, 9}, 22);
  const std::int32_t places[] = {8, 1, 2, 7, 0, 5};
  CHECK(leaves.gradient_error(ctx, [&](tape<double>& t) {  // x is used three times: gradients add up in every order
          const auto v = t.leaf(x);
          const auto a = sum(t, multiply(t, take_columns<double>(t, v, columns), t.constant(w3.view())));
          const auto b = sum(t, multiply(t, spread_columns<double>(t, v, places, 9), t.constant(w9.view())));
          return add(t, add(t, b, a), sum(t, take_columns<double>(t, v, columns)));
        }) < 1e-8);
}
