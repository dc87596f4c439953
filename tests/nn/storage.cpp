// SPDX-License-Identifier: Apache-2.0
#include "graft/nn/storage.hpp"

#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

TEST_CASE("frozen matrices are stored in half the bytes, rounded once, and vectors stay as they are") {
  for (const dtype type : {dtype::bf16, dtype::f16}) {
    auto model = test::small_llama<float>(1);
    const auto before = replicate(model);
    store_weights_as(model, type, except(below("model.embed_tokens")));
    const auto& now = model.model.layers[0].mlp.up_proj.weight;
    const auto old = before.model.layers[0].mlp.up_proj.weight.view();
    CHECK(now.type() == type);
    CHECK(now.bytes().size() == static_cast<std::size_t>(old.size()) * 2);
    CHECK(model.model.embed_tokens.weight.type() == dtype::f32);
    CHECK(model.model.norm.weight.type() == dtype::f32);
    const auto values = now.share().to_tensor<float, 2>();
    for (index_t i = 0; i < old.size(); ++i) {  // half a unit in the last of the 8 bits that bf16 keeps, of 11 in f16
      const float v = old.data[i];
      REQUIRE(std::abs(values.data()[i] - v) <= std::abs(v) * (type == dtype::bf16 ? 0x1p-8f : 0x1p-11f) + 0x1p-25f);
    }
    CHECK(before.model.layers[0].mlp.up_proj.weight.type() == dtype::f32);  // who shared it has it still
    const auto* bytes = now.bytes().data();
    store_weights_as(model, type);
    CHECK(model.model.layers[0].mlp.up_proj.weight.bytes().data() == bytes);  // nothing to do, nothing done
  }
}

TEST_CASE("a half-precision model computes what its rounded weights do, and trains adapters beside them") {
  context ctx;
  auto model = test::small_llama<float>();
  store_weights_as(model, dtype::bf16);
  auto widened = replicate(model);
  store_weights_as(widened, dtype::f32);
  attach(model, all_linear(), lora_options{.rank = 2});
  CHECK(model.model.layers[0].mlp.up_proj.weight.type() == dtype::bf16);
  for (auto& p : trainable(model)) CHECK(p.type() == dtype::f32);
  const auto batch = test::random_batch({9, 5});
  tape<float> t(ctx);
  const auto narrow = model.loss(t, batch), wide = widened.loss(t, batch);
  CHECK(std::abs(*narrow.value.data - *wide.value.data) <= 1e-5f * std::abs(*wide.value.data));
  t.backward(narrow);
  for (auto& p : trainable(model)) CHECK_FALSE(p.parameter->gradient_values().empty());
}

TEST_CASE("a model in blocks computes what its decoded weights do, and trains adapters beside them") {
  context ctx;
  for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::nf4}) {
    auto model = test::small_llama<float>();
    store_weights_as(model, type);
    CHECK(model.model.layers[0].mlp.down_proj.weight.bytes().size() == static_cast<std::size_t>(32 * row_bytes(type, 44)));
    CHECK(model.model.embed_tokens.weight.type() == type);
    auto widened = replicate(model);
    store_weights_as(widened, dtype::f32);
    for (auto* m : {&model, &widened}) {
      attach(*m, all_linear(), lora_options{.rank = 2});
      test::disturb_adapters(*m);
    }
    const auto batch = test::random_batch({9, 5});
    tape<float> t(ctx), u(ctx);
    const auto loss = model.loss(t, batch), expected = widened.loss(u, batch);
    CHECK(std::abs(*loss.value.data - *expected.value.data) <= 1e-5f * std::abs(*expected.value.data));
    t.backward(loss);
    u.backward(expected);
    const auto a = trainable(model), b = trainable(widened);
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      const auto g = a[i].parameter->gradient_values(), h = b[i].parameter->gradient_values();
      REQUIRE((g.size() == h.size() && !g.empty()));
      const auto n = static_cast<index_t>(g.size());
      CHECK(test::near(tensor_view<const float, 1>(g.data(), {n}), tensor_view<const float, 1>(h.data(), {n}), 1e-4));
    }
  }
}

TEST_CASE("weights in blocks can be thawed, converted on, and change type as often as asked") {
  auto model = test::small_llama<float>(1);
  auto& weight = model.model.layers[0].mlp.up_proj.weight;
  const auto start = weight.share().to_tensor<float, 2>();
  store_weights_as(model, dtype::q8_0);
  CHECK_THROWS_AS(weight.view(), state_error);
  const auto values = weight.share().to_tensor<float, 2>();
  CHECK(test::near(values, start, 0.5 / 127 + 0x1p-11));
  auto copy = replicate(model);
  unfreeze(copy, below("model.layers.0.mlp.up_proj"));
  CHECK(test::equal_bits(copy.model.layers[0].mlp.up_proj.weight.view(), values.view()));
  copy.model.layers[0].mlp.up_proj.weight.assign(weight.share());  // into a trainable parameter
  CHECK(test::equal_bits(copy.model.layers[0].mlp.up_proj.weight.view(), values.view()));
  store_weights_as(model, dtype::bf16);
  CHECK(weight.type() == dtype::bf16);
  store_weights_as(model, dtype::nf4);
  CHECK(weight.type() == dtype::nf4);
}

TEST_CASE("weights that are not there yet cannot be converted") {
  llama<float> empty(llama_config::tiny());
  CHECK_THROWS_AS(store_weights_as(empty, dtype::bf16), state_error);
}

TEST_CASE("trainable parameters keep their type, and integers are no storage for weights") {
  auto model = test::small_llama<float>(1);
  unfreeze(model, below("model.layers.0.mlp"));
  store_weights_as(model, dtype::f16);
  CHECK(model.model.layers[0].mlp.up_proj.weight.type() == dtype::f32);
  CHECK(model.model.layers[0].self_attn.q_proj.weight.type() == dtype::f16);
  CHECK_THROWS_WITH(store_weights_as(model, dtype::i8), "store_weights_as: i8 is not one of f32, bf16, f16, q8_0, q4_0, nf4");
}
