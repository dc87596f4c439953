// SPDX-License-Identifier: Apache-2.0
// Whole models whose tapes keep 16 bits a value: what is gained, and what it does to gradients.
#include "graft/core/thread_pool.hpp"
#include "graft/models/data_parallel.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

/// Two layers, wide enough that activations are what a tape keeps.
llama<float> example_llama() {
  auto config = llama_config::tiny();
  config.num_hidden_layers = 2;
  llama<float> model(config);
  initialize(model, 1, 0.08);
  attach(model, all_linear(), lora_options{.rank = 4});
  test::disturb_adapters(model, 0.03);
  return model;
}

struct step {
  double loss;
  std::size_t saved;
  tensor<float, 1> gradients;
};

template <class M>
step step_of(M& model, const token_batch& batch, saved_precision saved, index_t threads = 1) {
  thread_pool pool(threads);
  context ctx(pool);
  ctx.saved = saved;
  meter m;
  ctx.cost = &m;
  step s{};
  {
    tape<float> t(ctx, recording::on, {true, 1, {}});
    const auto loss = model.loss(t, batch);
    s.loss = static_cast<double>(loss.item());
    t.backward(loss);
    s.saved = m.total().peak_saved_bytes;
  }
  CHECK(ctx.pool().live_bytes() == 0);
  ctx.cost = nullptr;
  s.gradients = test::take_gradients(model);
  return s;
}

template <class M>
void check(M& model, const token_batch& batch) {
  const auto full = step_of(model, batch, saved_precision::full), rounded = step_of(model, batch, saved_precision::int16);
  CHECK(rounded.loss == full.loss);
  CHECK(rounded.saved < full.saved * 6 / 10);
  CHECK(test::near(rounded.gradients, full.gradients, 1e-4));
  CHECK_FALSE(test::equal_bits(rounded.gradients, full.gradients));
  CHECK(test::equal_bits(step_of(model, batch, saved_precision::int16, 3).gradients, rounded.gradients));
}

}  // namespace

TEST_CASE("models that keep 16 bits a value keep little more than half, give the same losses, and gradients that are off by rounding") {
  const auto batch = test::random_batch({100, 60});
  SECTION("a decoder") {
    auto model = example_llama();
    check(model, batch);
    SECTION("whose layers are computed twice") {
      const auto plain = step_of(model, batch, saved_precision::full);
      model.checkpointed_layers = all_layers;
      const auto full = step_of(model, batch, saved_precision::full), rounded = step_of(model, batch, saved_precision::int16);
      CHECK(test::equal_bits(full.gradients, plain.gradients));
      CHECK(rounded.loss == full.loss);
      CHECK(test::near(rounded.gradients, full.gradients, 1e-4));
      CHECK_FALSE(test::equal_bits(rounded.gradients, full.gradients));
    }
  }
  SECTION("an encoder with a head") {
    auto labelled = batch;
    labelled.labels = {1, 0};
    auto model = test::wide_classifier(2, targets({"query", "key", "value", "dense"}));
    test::disturb_adapters(model, 0.03);
    check(model, labelled);
  }
}

TEST_CASE("workers of a step keep as many bits as its context says") {
  auto model = example_llama();
  const auto batch = test::random_batch({100, 60});
  const auto gradients_of = [&](saved_precision saved) {
    thread_pool pool(2);
    context ctx(pool);
    ctx.saved = saved;
    data_parallel workers(ctx, model, {.micro_batch = 1});
    workers.loss_and_gradients(batch);
    return test::take_gradients(model);
  };
  CHECK_FALSE(test::equal_bits(gradients_of(saved_precision::int16), gradients_of(saved_precision::full)));
}

TEST_CASE("a second step that keeps 16 bits a value allocates nothing") {
  auto model = example_llama();
  const auto batch = test::random_batch({100, 60});
  context ctx;
  ctx.saved = saved_precision::int16;
  std::size_t before = 0;
  for (int n = 0; n < 2; ++n) {
    before = test::allocations();
    tape<float> t(ctx);
    t.backward(model.loss(t, batch));
  }
  CHECK(test::allocations() == before);
}
