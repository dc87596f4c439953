// SPDX-License-Identifier: Apache-2.0
#include "graft/models/memory_plan.hpp"

#include "graft/core/thread_pool.hpp"
#include "graft/nn/storage.hpp"
#include "graft/optim/adamw.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"

using namespace graft;

namespace {

constexpr std::size_t plenty = std::size_t{1} << 40;

/// Five layers, large enough beside the batch below that the tape's own records do not count.
llama<float> example_llama(index_t vocabulary, const target_modules& where = all_linear(), bool tied = true) {
  auto config = llama_config::tiny();
  config.vocab_size = vocabulary;
  config.tie_word_embeddings = tied;
  llama<float> model(config);
  initialize(model, 1, 0.08);
  attach(model, where, lora_options{.rank = 4, .dropout = 0.1});
  return model;
}

bert_classifier<float> example_classifier() {
  auto model = test::wide_classifier(4, targets({"query", "value"}));
  unfreeze(model.classifier);
  return model;
}

template <class M>
void train_step(context& ctx, M& model, adamw<float>& optimizer, const token_batch& batch) {
  tape<float> t(ctx, recording::on, {true, 1, {}});
  t.backward(model.loss(t, batch));
  optimizer.step(ctx);
}

template <class M>
memory_use use_of_training(executor_ref executor, M& model, const token_batch& batch, saved_precision saved) {
  context ctx(executor);
  ctx.saved = saved;
  adamw<float> optimizer(trainable(model), {.lr = 1e-4});
  for (int i = 0; i < 2; ++i) train_step(ctx, model, optimizer, batch);
  return memory_in_use(ctx, model);
}

/// Lowers the budget to just below what was predicted until nothing fits, and compares every plan with the truth.
template <class M>
std::vector<index_t> every_plan(M& model, const token_batch& batch, index_t threads = 1, saved_precision saved = saved_precision::full) {
  thread_pool pool(threads);
  context ctx(pool);
  ctx.saved = saved;
  std::vector<index_t> chosen;
  std::size_t budget = plenty;
  memory_plan last;
  for (;;) {
    memory_plan plan;
    try {
      plan = plan_memory(ctx, model, batch, budget);
    } catch (const state_error& e) {
      const std::string text = e.what(), begins = concat("plan_memory: training does not fit ", in_mebibytes(budget), " MiB; the least is ");
      CAPTURE(text);
      CHECK(detail::layered_part(model).checkpointed_layers == last.checkpointed_layers);  // as it was
      REQUIRE(text.starts_with(begins));
      const double least = std::stod(text.substr(begins.size()));
      CHECK(text.find(" MiB, with ") != text.npos);
      CHECK(text.find(concat(": weights ", in_mebibytes(last.predicted.weights), ", training state ", in_mebibytes(last.predicted.training),
                             ", activations ")) != text.npos);
      CHECK(least < 1.05 * static_cast<double>(last.predicted.total()) / 1048576);
      CHECK(plan_memory(ctx, model, batch, static_cast<std::size_t>((least + 0.05) * 1048576)).checkpointed_layers >= last.checkpointed_layers);
      return chosen;
    }
    REQUIRE(plan.predicted.total() <= budget);
    CHECK(detail::layered_part(model).checkpointed_layers == plan.checkpointed_layers);
    const auto truth = use_of_training(pool, model, batch, saved);
    CAPTURE(plan.checkpointed_layers, plan.predicted.activations, truth.activations);
    CHECK(truth.weights == plan.predicted.weights);
    CHECK(truth.training == plan.predicted.training);
    CHECK(truth.activations <= plan.predicted.activations);
    CHECK(static_cast<double>(plan.predicted.activations) <= 1.05 * static_cast<double>(truth.activations));
    CHECK(truth.scratch <= plan.predicted.scratch);
    chosen.push_back(plan.checkpointed_layers);
    budget = plan.predicted.total() - 1;
    last = plan;
  }
}

}  // namespace

TEST_CASE("a memory plan takes the fewest layers that fit, and a training step stays within it") {
  const auto batch = test::random_batch({300, 212});
  SECTION("where layers make the peak, the last one is never computed twice") {
    auto model = example_llama(256);
    CHECK(every_plan(model, batch) == std::vector<index_t>{0, 1, 2, 3, 4});
  }
  SECTION("where 16 bits a value are kept, it is the same with less") {
    auto model = example_llama(256);
    CHECK(every_plan(model, batch, 1, saved_precision::int16) == std::vector<index_t>{0, 1, 2, 3, 4});
  }
  SECTION("where the loss makes the peak, all may be") {  // an adapted output layer has whole logits
    auto model = example_llama(5000, targets({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"}), false);
    CHECK(every_plan(model, batch, 2) == std::vector<index_t>{0, 1, 2, 3, 4, 5});
  }
  SECTION("layers below the lowest adapter cost nothing and are not counted") {
    auto model = example_llama(20000, targets({"layers.2.mlp.up_proj", "layers.3.self_attn.q_proj"}));
    CHECK(every_plan(model, batch) == std::vector<index_t>{0, 3, 4});
    context ctx;
    const auto plan = plan_memory(ctx, model, batch, plenty);
    CHECK(plan.computed_twice == 0);
  }
  SECTION("an encoder with a head") {
    auto model = example_classifier();
    auto labelled = batch;
    labelled.labels = {1, 0};
    CHECK(every_plan(model, labelled) == std::vector<index_t>{0, 1, 2, 3});
  }
}

TEST_CASE("weights count as they are stored and once, what trains with gradient and moments") {
  context ctx;
  auto model = example_llama(256);
  const auto wide = memory_in_use(ctx, model);
  index_t frozen = 0, trained = 0;
  for (const auto& p : parameters(model)) (p.trainable() ? trained : frozen) += p.parameter->size();
  CHECK(wide.weights == static_cast<std::size_t>(frozen) * 4);
  CHECK(wide.training == static_cast<std::size_t>(trained) * 16);
  CHECK(memory_in_use(ctx, model, {.optimizer_values = 0}).training == static_cast<std::size_t>(trained) * 8);
  auto& layers = model.model.layers;
  layers[1].mlp.gate_proj.weight.assign(layers[0].mlp.gate_proj.weight.share());
  CHECK(memory_in_use(ctx, model).weights == wide.weights - 128 * 344 * 4);
  store_weights_as(model, dtype::bf16);
  CHECK(memory_in_use(ctx, model).weights < wide.weights * 51 / 100);
}

TEST_CASE("planning leaves values, gradients and the meter as a new model has them") {
  context ctx;
  meter mine;
  ctx.cost = &mine;
  const auto batch = test::random_batch({60, 40});
  auto model = example_llama(256);
  const auto before = replicate(model);
  plan_memory(ctx, model, batch, plenty);
  CHECK(ctx.cost == &mine);
  CHECK(mine.total().calls == 0);
  const auto now = parameters(model);
  const auto then = parameters(const_cast<llama<float>&>(before));
  for (std::size_t i = 0; i < now.size(); ++i) {
    CHECK(std::ranges::equal(now[i].parameter->bytes(), then[i].parameter->bytes()));
    CHECK(now[i].parameter->gradient_values().empty());
  }
  CHECK_THROWS_AS(plan_memory(ctx, model, token_batch{}, plenty), shape_error);
  CHECK(ctx.cost == &mine);
}

TEST_CASE("under a plan the second training step allocates nothing") {
  context ctx;
  const auto batch = test::random_batch({60, 40});
  auto model = example_llama(256);
  const auto least_but_one = plan_memory(ctx, model, batch, plan_memory(ctx, model, batch, plenty).predicted.total() - 1);
  CHECK(least_but_one.checkpointed_layers == 1);
  adamw<float> optimizer(trainable(model), {});
  train_step(ctx, model, optimizer, batch);
  const std::size_t before = test::allocations();
  train_step(ctx, model, optimizer, batch);
  CHECK(test::allocations() == before);
}
