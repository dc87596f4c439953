// SPDX-License-Identifier: Apache-2.0
#include "graft/nn/embedding.hpp"

#include "graft/nn/filter.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;

TEST_CASE("an embedding looks rows up, frozen or trainable, and learns only where it was looked up") {
  context ctx;
  embedding_module<float> table(5, 3);
  table.weight = parameter<float, 2>(test::random_tensor<float, 2>({5, 3}, 1));
  CHECK(parameters(table)[0].path == "weight");
  const std::vector<std::int32_t> ids{4, 0, 4};
  {
    tape<float> t(ctx);
    const auto y = table(t, ids);
    for (index_t n = 0; n < 3; ++n)
      for (index_t c = 0; c < 3; ++c) CHECK(y.value(n, c) == table.weight.view()(ids[static_cast<std::size_t>(n)], c));
    const auto dy = tensor<float, 2>::of({{1, 2, 3}, {4, 5, 6}, {10, 20, 30}});
    t.backward(y, dy.view());
  }
  const auto gradient = table.weight.gradient_values();
  CHECK(std::vector<float>(gradient.begin(), gradient.end()) == std::vector<float>{4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 22, 33});
  const auto trainable_rows = table.weight.value()[12];
  freeze(table);
  tape<float> t(ctx);
  const auto y = table(t, ids);
  CHECK_FALSE(y.needs_grad());
  CHECK(y.value(0, 0) == trainable_rows);
}

TEST_CASE("a tied head gives the same numbers whether its table is frozen or not") {
  context ctx;
  parameter<double, 2> w(test::random_tensor<double, 2>({7, 3}, 1));
  const auto x = test::random_tensor<double, 2>({4, 3}, 2);
  const std::vector<std::int32_t> labels{1, 6, 0, -100};
  double losses[2];
  for (double& loss : losses) {
    tape<double> t(ctx);
    const auto y = linear(t, t.constant(x.view()), w);
    const auto l = linear_cross_entropy(t, t.constant(x.view()), w, labels);
    CHECK(l.needs_grad() == w.trainable());
    double sum = 0;
    for (index_t n = 0; n < 3; ++n) {
      double all = 0;
      for (index_t v = 0; v < 7; ++v) all += std::exp(y.value(n, v));
      sum += std::log(all) - y.value(n, labels[static_cast<std::size_t>(n)]);
    }
    loss = *l.value.data;
    CHECK(loss == Approx(sum / 3));
    w.freeze();
  }
  CHECK(losses[0] == losses[1]);
}
