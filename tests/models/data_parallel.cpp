// SPDX-License-Identifier: Apache-2.0
#include "graft/models/data_parallel.hpp"

#include <cmath>

#include "graft/core/thread_pool.hpp"
#include "graft/optim/adamw.hpp"
#include "graft/optim/clip.hpp"
#include "graft/peft/dual.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

template <class T>
llama<T> adapted_llama(double dropout = 0) {
  auto m = test::small_llama<T>();
  attach(m, all_linear(), lora_options{.rank = 3, .dropout = dropout});
  test::disturb_adapters(m);
  return m;
}

template <class M>
double whole_batch(M& model, const token_batch& batch) {
  context ctx;
  return loss_and_gradients(ctx, model, batch);
}

template <class M>
void check_against_one_tape(M& model, const token_batch& batch) {
  using T = typename M::value_type;
  const double loss = whole_batch(model, batch);
  const auto expected = test::take_gradients(model);
  REQUIRE(expected.size() > 0);
  for (const data_parallel_options o : {data_parallel_options{}, {.micro_batch_tokens = 14}, {.micro_batch = 1}, {.micro_batch = 1, .replicas = 2}, {.micro_batch = 2, .replicas = 1}, {.micro_batch = 100}}) {
    context ctx;
    data_parallel workers(ctx, model, o);
    CHECK(std::abs(workers.loss_and_gradients(batch) - loss) <= 1e-12 * loss);
    CHECK(test::near(test::take_gradients(model), expected, 1e-12));
    for (int changed = 0; changed < 2; ++changed) {  // replicas take values over that an optimiser wrote
      for (auto& p : trainable(model)) for (T& v : p.parameter->value()) v = -v;
      CHECK(std::abs(workers.loss_and_gradients(batch) - whole_batch(model, batch)) <= 1e-12 * loss);
      test::take_gradients(model);
    }
  }
}

}  // namespace

TEST_CASE("micro-batches give the loss and the gradients of the whole batch") {
  auto model = adapted_llama<double>();
  check_against_one_tape(model, test::random_batch({9, 5, 1, 12, 3, 7, 2}));  // one token has no label: a part may have none
}

TEST_CASE("the same with labels by sequence, and everything trained") {
  bert_classifier<double> model(test::small_bert<double>(), 3, pooling::cls);
  initialize(model.classifier, 5, 0.2);
  unfreeze(model);
  auto batch = test::random_batch({5, 9, 3, 6, 2});
  batch.labels = {2, 0, 1, 1, kernel::ignored_label};
  check_against_one_tape(model, batch);
}

TEST_CASE("weights of sequences go with their micro-batches") {
  auto model = test::small_llama<double>();
  attach(model, all_linear(), dual_options{.shared = {.rank = 3}, .local = {.rank = 2}});
  set_phase(model, dual_phase::mixed);
  unfreeze(model, either(tagged("shared"), tagged("local")));
  test::disturb_adapters(model);
  const auto batch = test::random_batch({9, 5, 1, 12, 3, 7, 2});
  const std::vector<double> weights{0.1, 0.9, 0.5, 0, 1, 0.3, 0.7}, one{0.3};
  for (const auto& each : {weights, one}) {
    const batch_info info{.training = true, .local_weights = each};
    context ctx;
    const double loss = loss_and_gradients(ctx, model, batch, info);
    const auto expected = test::take_gradients(model);
    for (const data_parallel_options o : {data_parallel_options{.micro_batch = 1, .replicas = 3}, {.micro_batch_tokens = 9}, {.micro_batch = 2}, {.micro_batch = 3, .replicas = 1}, {.micro_batch = 100}}) {
      data_parallel workers(ctx, model, o);
      CHECK(std::abs(workers.loss_and_gradients(batch, info) - loss) <= 1e-12 * loss);
      CHECK(test::near(test::take_gradients(model), expected, 1e-12));
    }
  }
  context ctx;
  data_parallel workers(ctx, model, {.micro_batch = 2});
  const std::vector<index_t> routes(3);  // not one a sequence, though as many as a micro-batch might have
  CHECK_THROWS_WITH(workers.loss_and_gradients(batch, {.local_weights = std::span(weights).first(2)}), "data_parallel: 2 local_weights for 7 sequences");
  CHECK_THROWS_WITH(workers.loss_and_gradients(batch, {.routes = routes}), "data_parallel: 3 routes for 7 sequences");
}

TEST_CASE("gradients are added to those that are there, and a batch without labels adds zeros") {
  auto model = adapted_llama<double>();
  const auto first = test::random_batch({9, 5}, 1), second = test::random_batch({4, 4, 4}, 2);
  whole_batch(model, first);
  whole_batch(model, second);
  const auto expected = test::take_gradients(model);
  context ctx;
  data_parallel workers(ctx, model, {.micro_batch = 1});
  workers.loss_and_gradients(first);
  workers.loss_and_gradients(second);
  CHECK(test::near(test::take_gradients(model), expected, 1e-12));

  auto unlabelled = first;
  std::ranges::fill(unlabelled.labels, kernel::ignored_label);
  CHECK(workers.loss_and_gradients(unlabelled) == 0);
  const auto zeros = test::take_gradients(model);
  CHECK(test::equal_bits(zeros, tensor<double, 1>::full(zeros.shape(), 0.0)));
  CHECK(workers.loss_and_gradients(token_batch{}) == 0);
}

TEST_CASE("training by micro-batches gives the same bits on any number of threads") {
  const auto run = [](executor_ref executor) {
    auto model = adapted_llama<float>(0.1);
    context ctx(executor);
    data_parallel workers(ctx, model, {.micro_batch = 1, .replicas = 3});
    adamw<float> optimizer(trainable(model), {.lr = 1e-2});
    for (std::uint64_t step = 0; step < 4; ++step) {
      workers.loss_and_gradients(test::random_batch({9, 5, 14, 3, 8, 6, 11}, step), {.training = true, .step = step});
      clip_gradients(trainable(model), 1.0);
      optimizer.step(ctx);
    }
    workers.loss_and_gradients(test::random_batch({9, 5, 14}));
    return test::take_gradients(model);
  };
  const auto expected = run({});
  for (const index_t threads : {2, 3, 7}) {
    thread_pool pool(threads);
    CHECK(test::equal_bits(run(pool), expected));
  }
}

TEST_CASE("dropout draws anew for every micro-batch, and for every seed of the context") {
  auto model = adapted_llama<double>(0.5);
  const auto one = test::random_batch({9});
  auto twice = one;
  twice.add_with_next_labels(one.ids);
  context ctx;
  data_parallel workers(ctx, model, {.micro_batch = 1});
  const double alone = workers.loss_and_gradients(one), both = workers.loss_and_gradients(twice);
  CHECK(std::abs(alone - both) > 1e-6);  // the same mask twice would give the same mean
  CHECK(workers.loss_and_gradients(twice) == both);
  ctx.seed = 1;
  CHECK(std::abs(workers.loss_and_gradients(twice) - both) > 1e-6);
}

TEST_CASE("the second step by micro-batches allocates nothing, and the meter hears of one operation") {
  auto model = adapted_llama<float>(0.1);
  context ctx;
  meter m;
  data_parallel workers(ctx, model, {.micro_batch = 2, .replicas = 2});
  const auto batch = test::random_batch({9, 5, 14, 3, 8});
  std::size_t before = 0;
  for (int i = 0; i < 2; ++i) {
    before = test::allocations();
    workers.loss_and_gradients(batch);
  }
  CHECK(test::allocations() == before);
  thread_pool pool(2);
  context of_two(pool);
  of_two.cost = &m;
  data_parallel(of_two, model, {.micro_batch = 2, .replicas = 2}).loss_and_gradients(batch);
  REQUIRE(m.operations().size() == 1);
  CHECK(m.operations()[0].name == "data_parallel");
  CHECK(m.operations()[0].calls == 1);

  for (const index_t replicas : {1, 2}) {  // one thread takes one micro-batch after another, however many replicas there are
    ctx.cost = &m;
    m.reset();
    data_parallel(ctx, model, {.micro_batch = 2, .replicas = replicas}).loss_and_gradients(batch);
    CHECK(m.total("model.layers.0").calls % 3 == 0);
    CHECK(m.total("model.layers.0").flops > 0);
  }
}

TEST_CASE("micro-batches of less than nothing, no replicas and a model without anything to train are refused") {
  auto model = adapted_llama<float>();
  context ctx;
  CHECK_THROWS_WITH(data_parallel(ctx, model, {.micro_batch = -1}), "data_parallel: micro_batch is -1, expected 0 or more");
  CHECK_THROWS_WITH(data_parallel(ctx, model, {.micro_batch_tokens = 0}), "data_parallel: micro_batch_tokens is 0, expected 1 or more");
  CHECK_THROWS_WITH(data_parallel(ctx, model, {.replicas = 0}), "data_parallel: replicas is 0, expected 1 or more");
  auto frozen = test::small_llama<float>();
  data_parallel workers(ctx, frozen);
  CHECK_THROWS_AS(workers.loss_and_gradients(test::random_batch({9})), state_error);
}
