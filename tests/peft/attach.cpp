// SPDX-License-Identifier: Apache-2.0
#include "graft/peft/attach.hpp"

#include "graft/peft/bottleneck.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

TEST_CASE("targets match whole segments from the end") {
  CHECK(target_modules::names_path("q_proj", "model.layers.0.self_attn.q_proj"));
  CHECK(target_modules::names_path("self_attn.q_proj", "model.layers.0.self_attn.q_proj"));
  CHECK(target_modules::names_path("q_proj", "q_proj"));
  CHECK_FALSE(target_modules::names_path("proj", "model.layers.0.self_attn.q_proj"));
  CHECK_FALSE(target_modules::names_path("q_proj", "model.q_proj.weight"));
}

TEST_CASE("attach freezes the model and trains the adapters alone") {
  auto model = test::small_llama<float>();
  unfreeze(model);
  CHECK(attach(model, targets({"q_proj", "v_proj"}), lora_options{.rank = 4}) == 6);
  CHECK(count_parameters(model, is_trainable) == 3 * (4 * (32 + 32) + 4 * (32 + 16)));
  for (const auto& p : trainable(model)) CHECK(p.tag() == "adapter");
  CHECK(trainable(model)[0].path == "model.layers.0.self_attn.q_proj.adapters.default.lora_A.weight");
}

TEST_CASE("all-linear means every linear layer but the output") {
  auto config = test::small_llama_config();
  config.tie_word_embeddings = false;
  llama<float> model(config);
  initialize(model, 1);
  CHECK(attach(model, all_linear(), lora_options{}) == 3 * 7);
  CHECK(model.lm_head->adapters.empty());
}

TEST_CASE("attach names what is wrong and then has done nothing") {
  auto model = test::small_llama<float>();
  CHECK_THROWS_WITH(attach(model, targets({"q_proj", "query"}), lora_options{}),
                    "attach: target module \"query\" names no layer; the model has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj");
  CHECK_THROWS_WITH(attach(model, targets({"q_proj"}), lora_options{.rank = 0}), "lora: rank is 0, expected 1 to 65536");
  CHECK_THROWS_AS(attach(model, targets({}), lora_options{}), option_error);
  CHECK(trainable(model).empty());
  attach(model, targets({"q_proj"}), lora_options{});
  CHECK_THROWS_WITH(attach(model, targets({"q_proj"}), lora_options{}),
                    "attach: model.layers.0.self_attn.q_proj already has an adapter named \"default\"");
}

TEST_CASE("adapters start from the same values wherever the seed is the same") {
  auto a = test::small_llama<float>(), b = test::small_llama<float>(3, 2);
  attach(a, targets({"q_proj"}), lora_options{}, {.seed = 5});
  attach(b, targets({"q_proj"}), lora_options{}, {.seed = 5});
  const auto pa = trainable(a), pb = trainable(b);
  for (std::size_t i = 0; i < pa.size(); ++i) CHECK(std::ranges::equal(pa[i].parameter->value(), pb[i].parameter->value()));
  CHECK_FALSE(std::ranges::equal(pa[0].parameter->value(), pa[2].parameter->value()));
}

TEST_CASE("rank-stabilised scaling divides by the root of the rank") {
  CHECK(lora_options{.rank = 16, .alpha = 8}.scale() == Approx(0.5));
  CHECK(lora_options{.rank = 16, .alpha = 8, .rank_stabilised = true}.scale() == Approx(2.0));
}

TEST_CASE("merging empties the slots, and detaching brings the base back") {
  context ctx;
  auto model = test::small_llama<float>();
  const auto batch = test::random_batch({9});
  const auto logits = [&](llama<float>& m) {
    tape<float> t(ctx, recording::off);
    return tensor<float, 2>::copy_of(m.logits(t, batch).value);
  };
  const auto base = logits(model);
  attach(model, all_linear(), lora_options{.rank = 2});
  CHECK(test::equal_bits(logits(model), base));  // a fresh adapter changes nothing
  test::disturb_adapters(model);
  const auto adapted = logits(model);
  CHECK_FALSE(test::near(adapted, base, 1e-2));
  auto merged = replicate(model);
  CHECK(merge_adapters(merged) == 21);
  CHECK(test::near(logits(merged), adapted, 1e-4));
  CHECK(trainable(merged).empty());
  CHECK(detach(model) == 21);
  CHECK(test::equal_bits(logits(model), base));
}

TEST_CASE("where an adapter cannot be merged, nothing is") {
  context ctx;
  const auto batch = test::random_batch({9});
  const auto logits = [&](llama<float>& m) {
    tape<float> t(ctx, recording::off);
    return tensor<float, 2>::copy_of(m.logits(t, batch).value);
  };
  auto model = test::small_llama<float>();
  attach(model, targets({"q_proj"}), lora_options{.rank = 2});
  test::disturb_adapters(model);
  model.model.layers[2].self_attn.q_proj.adapters.push_back({"late", bottleneck<float>(32, 32, {.size = 2}, random_stream(1))});
  const auto before = logits(model);
  const std::string refused = "merge_adapters: model.layers.2.self_attn.q_proj: serial bottleneck(size 2) is not linear: it cannot be merged into a weight";
  CHECK_THROWS_WITH(merge_adapters(model), refused);
  CHECK_THROWS_WITH(merge_adapters(model, {.type = dtype::q8_0}), refused);
  CHECK(model.model.layers[0].self_attn.q_proj.adapters.size() == 1);
  CHECK(test::equal_bits(logits(model), before));
}

TEST_CASE("merging into weights in blocks stores them again and says what that lost") {
  context ctx;
  const auto batch = test::random_batch({9});
  const auto logits = [&](llama<float>& m) {
    tape<float> t(ctx, recording::off);
    return tensor<float, 2>::copy_of(m.logits(t, batch).value);
  };
  for (const dtype type : {dtype::f32, dtype::q8_0, dtype::q4_0, dtype::nf4}) {
    auto model = test::small_llama<float>();
    store_weights_as(model, type);
    attach(model, all_linear(), lora_options{.rank = 2});
    test::disturb_adapters(model);
    const auto adapted = logits(model);
    auto dense = replicate(model), same = replicate(model), wide = replicate(model);
    CHECK(merge_adapters(dense) == 21);
    const auto report = merge_adapters(same, merge_options{});
    const auto as_bf16 = merge_adapters(wide, {.type = dtype::bf16});
    REQUIRE((report.layers.size() == 21 && as_bf16.layers.size() == 21));
    CHECK(test::near(logits(dense), adapted, 1e-4));
    auto rounded = replicate(dense);
    store_weights_as(rounded, dtype::bf16, below("model.layers"));
    CHECK(test::equal_bits(logits(wide), logits(rounded)));
    CHECK(report.layers[0].path == "model.layers.0.self_attn.q_proj");
    CHECK((report.layers[0].type == type && as_bf16.layers[0].type == dtype::bf16));
    const auto& now = same.model.layers[0].self_attn.q_proj;
    CHECK((now.weight.type() == type && now.adapters.empty() && trainable(same).empty()));
    // The figure, by hand.
    const auto exact = dense.model.layers[0].self_attn.q_proj.weight.view();
    const auto stored = now.weight.share().to_tensor<float, 2>();
    double lost = 0, size = 0;
    for (index_t i = 0; i < stored.size(); ++i) {
      lost += std::pow(static_cast<double>(stored.data()[i]) - static_cast<double>(exact.data[i]), 2);
      size += std::pow(static_cast<double>(exact.data[i]), 2);
    }
    CHECK(report.layers[0].relative_error == Approx(std::sqrt(lost / size)));
    const double least = type == dtype::f32 ? 0 : type == dtype::q8_0 ? 1e-3 : 2e-2;
    CHECK((report.worst() >= least && report.worst() <= (type == dtype::f32 ? 0 : 8 * least)));
    CHECK((as_bf16.worst() > 1e-4 && as_bf16.worst() <= 0x1p-8));
    CHECK_THROWS_WITH(merge_adapters(model, {.type = dtype::i8}), "merge_adapters: i8 is not one of f32, bf16, f16, q8_0, q4_0, nf4");
    CHECK(test::equal_bits(logits(model), adapted));
  }
}
