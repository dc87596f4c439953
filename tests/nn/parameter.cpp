// SPDX-License-Identifier: Apache-2.0
#include "graft/nn/parameter.hpp"

#include "graft/nn/filter.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

TEST_CASE("a parameter that waits for its values says so instead of giving none") {
  parameter<float, 2> p({2, 3});
  CHECK_FALSE(p.trainable());
  CHECK(p.size() == 6);
  CHECK(p.bytes().empty());
  CHECK_THROWS_WITH(p.view(), "a parameter of shape (2, 3) holds f32 values or none; they cannot be viewed as f32");
  CHECK_THROWS_WITH(p.unfreeze(), "a parameter of shape (2, 3) has no values yet: load or initialise it first");
  CHECK_THROWS_WITH(p.matrix(), "a parameter of shape (2, 3) has no values yet: load or initialise it first");
  CHECK_NOTHROW((parameter<float, 2>({0, 3}).view()));
  CHECK(parameter<float, 2>({0, 3}).matrix().cols == 3);
  llama<float> model(test::small_llama_config());
  CHECK_THROWS_AS(unfreeze(model), state_error);
  context ctx;
  tape<float> t(ctx);
  CHECK_THROWS_WITH(model.loss(t, test::random_batch({4})), Catch::Matchers::Matches(".*has no values yet.*"));
}

TEST_CASE("assigning shares with frozen parameters, and copies into trainable ones") {
  const frozen_array values(tensor<float, 2>::of({{1, 2}, {3, 4}}));
  parameter<float, 2> frozen({2, 2}), trained(tensor<float, 2>::zeros({2, 2}));
  frozen.assign(values);
  trained.assign(values);
  CHECK(frozen.bytes().data() == values.bytes().data());
  CHECK(trained.bytes().data() != values.bytes().data());
  trained.mutable_view()(0, 0) = 9;
  CHECK(values.view<float, 2>()(0, 0) == 1);
  CHECK(trained.view()(1, 1) == 4);
  parameter<float, 1> vector(extents<1>{2});  // vectors are kept in the type that kernels want
  vector.assign(frozen_array(tensor<bf16, 1>::of({to_bf16(1), to_bf16(2)})));
  CHECK(vector.type() == dtype::f32);
  CHECK(vector.view()(1) == 2);
}

TEST_CASE("a gradient is memory only once somebody asks, and means nothing until it is written") {
  parameter<float, 1> p(tensor<float, 1>::of({1, 2}));
  CHECK(p.gradient_values().empty());
  auto* slot = p.gradient();
  REQUIRE(slot != nullptr);
  CHECK(p.gradient_values().empty());
  slot->written = true;
  CHECK(p.gradient_values().size() == 2);
  p.clear_gradient();
  CHECK(p.gradient_values().empty());
  p.freeze();
  CHECK(p.gradient() == nullptr);
  p.reset();
  CHECK(p.trainable());
  CHECK(p.value().size() == 2);
}
