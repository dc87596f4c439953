// SPDX-License-Identifier: Apache-2.0
#include "graft/peft/tuning.hpp"

#include "graft/peft/bottleneck.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;

namespace {

llama<double> llama_with_biases() {
  auto config = test::small_llama_config(2);
  config.qkv_bias = true;
  return test::small_llama<double>(config, 3);
}

}  // namespace

TEST_CASE("tuned norms are the norms, and learn by central differences") {
  auto model = test::small_llama<double>(2);
  CHECK(norm_paths(model) == std::vector<std::string>{"model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm",
                                                      "model.layers.1.input_layernorm", "model.layers.1.post_attention_layernorm", "model.norm"});
  CHECK(tune_norms(model) == 5 * 32);
  CHECK(trainable(model).size() == 5);
  for (const auto& p : trainable(model)) CHECK(p.path.ends_with("norm.weight"));
  CHECK(test::error_of_gradients(model, test::random_batch({6, 4}), 5) < 1e-6);
  auto encoder = test::small_bert<double>(2);
  CHECK(tune_norms(encoder) == 5 * 2 * 24);
  for (const auto& p : trainable(encoder)) CHECK(p.path.find("LayerNorm.") != std::string::npos);
}

TEST_CASE("tuned biases are the biases, and learn by central differences") {
  auto model = llama_with_biases();
  CHECK(tune_biases(model) == 2 * (32 + 16 + 16));
  CHECK(trainable(model).size() == 6);
  for (const auto& p : trainable(model)) CHECK(p.path.ends_with("_proj.bias"));
  CHECK(test::error_of_gradients(model, test::random_batch({6, 4}), 5) < 1e-6);
  auto encoder = test::small_bert<double>(1);
  const index_t norms = 3 * 24, linears = 4 * 24 + 40 + 24;
  CHECK(tune_biases(encoder) == norms + linears + (encoder.pooler ? 24 : 0));
}

TEST_CASE("both add up, and leave adapters as they are") {
  auto model = llama_with_biases();
  attach(model, targets({"q_proj"}), lora_options{.rank = 2});
  const auto adapters = trainable(model).size();
  tune_norms(model);
  tune_biases(model);
  CHECK(trainable(model).size() == adapters + 5 + 6);
  CHECK(tune_norms(model) == 5 * 32);  // what is trainable already counts too
  auto plain = test::small_llama<double>(1);
  attach(plain, targets({"q_proj"}), bottleneck_options{.size = 3});
  CHECK_THROWS_AS(tune_biases(plain), option_error);  // the adapter has biases, the model none
}

TEST_CASE("a linear layer with a trained bias keeps nothing for backward") {
  adapted_linear<double> layer(6, 4, true);
  initialize(layer, 1);
  freeze(layer);
  CHECK(tune_biases(layer) == 4);
  const auto x = test::random_tensor<double, 2>({3, 6}, 1);
  context ctx;
  meter m;
  ctx.cost = &m;
  tape<double> t(ctx);
  CHECK(layer(t, t.constant(x.view())).needs_grad());
  CHECK(m.total().peak_saved_bytes == 0);
}

TEST_CASE("models without what is to be tuned are refused") {
  auto model = test::small_llama<float>(1);
  CHECK_THROWS_WITH(tune_biases(model), "tune_biases: the model has no biases");
  CHECK(trainable(model).empty());
  adapted_linear<float> layer(6, 4, true);
  CHECK_THROWS_AS(tune_norms(layer), option_error);
  CHECK_THROWS_WITH(tune_norms(layer), "tune_norms: the model has no normalisation layers");
}
