// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "graft/nn/penalty.hpp"
#include "graft/ops/loss.hpp"
#include "graft/ops/reduce.hpp"
#include "graft/optim/adamw.hpp"
#include "graft/peft/gated.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;
using test::applied;

namespace {

/// The layer of the published example: W = 1 .. 12 by rows, with its gates.
template <class T>
adapted_linear<T> published() {
  adapted_linear<T> layer(4, 3, true);
  layer.weight = parameter<T, 2>(tensor<T, 2>::of({{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}}));
  layer.bias = parameter<T, 1>(tensor<T, 1>::of({T(0.1), T(0.2), T(0.3)}));
  freeze(layer);
  gated<T> g(4, 3, {.sparsity = 0.2});
  g.rows = parameter<T, 1>(tensor<T, 1>::of({1, 0, -1}));
  g.columns = parameter<T, 1>(tensor<T, 1>::of({1, -1, T(0.5), 0}));
  layer.adapters.push_back({"default", std::move(g)});
  return layer;
}

template <class T>
adapted_linear<T> random_layer(bool bias, gated_options o, random_stream random = random_stream(1)) {
  adapted_linear<T> layer(12, 9, bias);
  layer.weight = parameter<T, 2>(test::random_tensor<T, 2>({9, 12}, 1));
  if (bias) layer.bias = parameter<T, 1>(test::random_tensor<T, 1>({9}, 2));
  freeze(layer);
  layer.adapters.push_back({"default", gated<T>(12, 9, o, random)});
  return layer;
}

template <class T>
double penalty_of(adapted_linear<T>& layer) {
  context ctx;
  tape<T> t(ctx, recording::off);
  return static_cast<double>(*adapter_penalty(t, layer)->value.data);
}

}  // namespace

TEST_CASE("a gated layer computes the published example") {
  auto layer = published<double>();
  const auto y = applied(layer, tensor<double, 2>::of({{1, 2, 3, 4}}));
  CHECK(std::abs(y(0, 0) - 17.75905442) < 6e-9);
  CHECK(std::abs(y(0, 1) - 20.70223015) < 6e-9);
  CHECK(y(0, 2) == 0);
  CHECK(std::abs(penalty_of(layer) - 0.05540946) < 6e-9);
  layer.adapters[0].adapter.get<gated<double>>()->options.sparsity = 0.4;
  CHECK(std::abs(penalty_of(layer) - 0.14459054) < 6e-9);
  layer.adapters[0].adapter.get<gated<double>>()->options.objective = gate_objective::sum;
  CHECK(std::abs(penalty_of(layer) - (3 * 0.71198385 + 4 * 0.77719723)) < 4e-8);

  const auto merged = layer.merged();
  const auto weight = tensor<double, 2>::of({{1, 0, 2.88635147, 2}, {2.5, 0, 3.36741005, 2}, {0, 0, 0, 0}});
  CHECK(test::near(merged.weight, weight, 2e-9));
  CHECK(test::near(*merged.bias, tensor<double, 1>::of({0.1, 0.1, 0}), 1e-15));
}

TEMPLATE_TEST_CASE("fresh gates are all 1 and change nothing", "", float, double) {
  const auto x = test::random_tensor<TestType, 2>({5, 12}, 3);
  for (const index_t rank : {0, 3}) {
    auto layer = random_layer<TestType>(true, {.rank = rank});
    const auto y = applied(layer, x);
    CHECK(trainable(layer).size() == (rank == 0 ? 2u : 4u));
    layer.adapters.clear();
    CHECK(test::near(y, applied(layer, x), test::tolerance<TestType>(12)));
  }
  const gated<TestType> many(40000, 40000);
  for (const auto& z : {many.row_gates(), many.column_gates()}) CHECK(std::ranges::all_of(z.span(), [](TestType v) { return v == 1; }));
  double mean = 0, variance = 0;
  for (const TestType u : many.rows.value()) mean += static_cast<double>(u) / 40000;
  for (const TestType u : many.rows.value()) variance += (static_cast<double>(u) - mean) * (static_cast<double>(u) - mean) / 40000;
  CHECK(std::abs(mean - 1) < 4 * 0.1 / 200);
  CHECK(std::abs(std::sqrt(variance) - 0.1) < 4 * 0.1 / 283);
}

TEMPLATE_TEST_CASE("merging takes the gates of evaluation, after training passes as well", "", float, double) {
  const auto x = test::random_tensor<TestType, 2>({5, 12}, 3);
  for (const bool bias : {false, true})
    for (const index_t rank : {0, 3}) {
      auto layer = random_layer<TestType>(bias, {.noise = 0.4, .rank = rank});
      test::disturb_adapters(layer, 1.5);
      const auto y = applied(layer, x), noisy = applied(layer, x, {.training = true});
      CHECK_FALSE(test::near(noisy, y, 1e-3));
      CHECK(merge_adapters(layer) == 1);
      CHECK(layer.bias.has_value() == bias);
      CHECK(test::near(applied(layer, x), y, 10 * test::tolerance<TestType>(12)));
    }
}

TEST_CASE("a closed row gives exactly 0 and a closed column is not read") {
  auto layer = random_layer<float>(true, {});
  auto* g = layer.adapters[0].adapter.get<gated<float>>();
  g->rows.value()[2] = -3;
  g->columns.value()[5] = -0.5494f;
  auto x = test::random_tensor<float, 2>({5, 12}, 3);
  const auto y = applied(layer, x);
  for (index_t n = 0; n < 5; ++n) {
    CHECK(y(n, 2) == 0);
    x(n, 5) = 1e6f;
  }
  CHECK(test::equal_bits(applied(layer, x), y));
}

TEST_CASE("gradients of gates, bias, low-rank part and input equal central differences, with noise and without") {
  context ctx;
  const auto weights = test::random_tensor<double, 2>({5, 9}, 4);
  for (const bool training : {false, true}) {
    auto layer = random_layer<double>(true, {.noise = 0.01, .rank = 2});
    test::disturb_adapters(layer);  // logits within 0.3: no gate at an end
    layer.bias->unfreeze();
    parameter<double, 2> x(test::random_tensor<double, 2>({5, 12}, 3));
    std::vector<checked_leaf<double>> leaves{{x.value(), x.gradient()}};
    for (auto& p : trainable(layer)) leaves.push_back({p.parameter->value(), p.parameter->gradient()});
    REQUIRE(leaves.size() == 6);
    CHECK(gradient_error<double>(ctx, leaves, [&](tape<double>& t) {
            t.batch = {.training = training, .step = 2};
            const auto task = sum(t, multiply(t, layer(t, t.leaf(x)), t.constant(weights.view())));
            return add(t, task, scale(t, *adapter_penalty(t, layer), 3.0));
          }) < 1e-8);
  }
}

TEST_CASE("gate noise repeats within a step, and differs between steps, layers and axes") {
  const auto x = test::random_tensor<double, 2>({5, 12}, 3);
  auto layer = random_layer<double>(true, {});
  test::disturb_adapters(layer);
  const auto y = applied(layer, x, {.training = true, .step = 6}, {}, 2);
  CHECK(test::equal_bits(applied(layer, x, {.training = true, .step = 6}, {}, 2), y));
  CHECK_FALSE(test::near(applied(layer, x, {.training = true, .step = 7}, {}, 2), y, 1e-3));
  CHECK_FALSE(test::near(applied(layer, x, {.training = true, .step = 6}, {}, 3), y, 1e-3));

  auto other = random_layer<double>(true, {}, random_stream(1).substream("another layer"));
  test::disturb_adapters(other);  // the same logits
  CHECK_FALSE(test::near(applied(other, x, {.training = true, .step = 6}, {}, 2), y, 1e-3));

  adapted_linear<double> square(4, 4, false);  // diagonal and all ones: y shows both noises
  square.weight = parameter<double, 2>(tensor<double, 2>::of({{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}, {0, 0, 0, 1}}));
  freeze(square);
  square.adapters.push_back({"default", gated<double>(4, 4)});
  for (auto& p : trainable(square)) std::ranges::fill(p.parameter->value(), 0.0);
  const auto z = applied(square, tensor<double, 2>::full({1, 4}, 1), {.training = true});
  for (index_t i = 0; i < 4; ++i) {
    const double root = std::sqrt(z(0, i));  // both gates, if they had the same noise
    square.adapters[0].adapter.get<gated<double>>()->rows.value()[static_cast<std::size_t>(i)] = 5;
    const auto column = applied(square, tensor<double, 2>::full({1, 4}, 1), {.training = true});
    CHECK(std::abs(column(0, i) - root) > 1e-4);
  }
}

TEST_CASE("the penalty alone drives the mean open probability to its target") {
  auto layer = random_layer<double>(false, {.sparsity = 0.4});
  context ctx;
  adamw<double> optimizer(trainable(layer), {.lr = 0.02, .weight_decay = 0});
  const double before = penalty_of(layer);
  for (int step = 0; step < 400; ++step) {
    tape<double> t(ctx);
    t.backward(*adapter_penalty(t, layer));
    optimizer.step(ctx);
  }
  CHECK(before > 0.3);
  CHECK(penalty_of(layer) < 0.02);
}

TEST_CASE("gates close what a task does not need and keep what it does") {
  const index_t samples = 64;
  auto layer = random_layer<double>(false, {.sparsity = 0.5});
  auto x = test::random_tensor<double, 2>({samples, 12}, 3);
  auto target = tensor<double, 2>::zeros({samples, 9});
  for (index_t n = 0; n < samples; ++n)  // outputs 0 to 3 alone, from inputs 0 to 5 alone
    for (index_t o = 0; o < 4; ++o)
      for (index_t i = 0; i < 6; ++i) target(n, o) += x(n, i) * layer.weight.view()(o, i);
  context ctx;
  adamw<double> optimizer(trainable(layer), {.lr = 0.02, .weight_decay = 0});
  for (std::uint64_t step = 0; step < 600; ++step) {
    tape<double> t(ctx, recording::on, {.training = true, .step = step});
    const auto task = mean_squared_error(t, layer(t, t.constant(x.view())), target.view());
    t.backward(add(t, task, scale(t, *adapter_penalty(t, layer), 0.1)));
    optimizer.step(ctx);
  }
  const auto* g = layer.adapters[0].adapter.get<gated<double>>();
  const auto rows = g->row_gates(), columns = g->column_gates();
  for (index_t i = 0; i < 9; ++i) CHECK((i < 4 ? rows(i) > 0.9 : rows(i) == 0));
  for (index_t j = 0; j < 12; ++j) CHECK((j < 6 ? columns(j) > 0.9 : columns(j) == 0));
}

TEST_CASE("impossible options of gates are refused, and NaN logits") {
  const auto message = [](gated_options o) {
    try {
      gated<float>(3, 2, o);
    } catch (const option_error& e) {
      return std::string(e.what());
    }
    return std::string("none");
  };
  CHECK(message({.sparsity = 1}) == "gated: sparsity is 1, expected 0 to below 1");
  CHECK(message({.sparsity = -0.1}) == "gated: sparsity is -0.1, expected 0 to below 1");
  CHECK(message({.noise = -1}) == "gated: noise is -1, expected 0 or more");
  CHECK(message({.spread = 0}) == "gated: spread is 0, expected more than 0");
  CHECK(message({.initial_mean = std::nan("")}) != "none");
  CHECK(message({.initial_deviation = 0}) == "gated: initial_deviation is 0, expected more than 0");
  CHECK(message({.rank = -1}) == "gated: rank is -1, expected 0 to 65536");
  CHECK(message({.sparsity = 0, .noise = 0}) == "none");
  CHECK(gated_options{.sparsity = 0.84}.target_reachable());
  CHECK_FALSE(gated_options{.sparsity = 0.85}.target_reachable());

  auto model = test::small_llama<float>(1);
  attach(model, targets({"up_proj"}), gated_options{});
  auto& layer = model.model.layers[0].mlp.up_proj;
  layer.adapters[0].adapter.get<gated<float>>()->columns.value()[3] = std::nanf("");
  CHECK_THROWS_WITH(layer.merged(), "gates: logit 3 of model.layers.0.mlp.up_proj is not a number");
  context ctx;
  tape<float> t(ctx);
  CHECK_THROWS_WITH(model.loss(t, test::random_batch({4})), "gates: logit 3 of model.layers.0.mlp.up_proj is not a number");
}

TEST_CASE("attaching gates trains them alone, or with the biases of their layers") {
  auto model = test::small_bert<float>(1);
  CHECK(attach(model, targets({"query", "intermediate.dense"}), gated_options{}, {.bias = bias_training::adapted}) == 2);
  index_t gates = 0, biases = 0;
  for (const auto& p : trainable(model)) (p.tag() == "adapter" ? gates : biases) += p.parameter->size();
  CHECK(gates == 24 + 24 + 24 + 40);
  CHECK(biases == 24 + 40);
}
