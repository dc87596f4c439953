// SPDX-License-Identifier: Apache-2.0
// The laws of whole models: gradient, frozen, threads, steady state, checkpointing, cached generation.
#include "graft/core/thread_pool.hpp"
#include "graft/models/generate.hpp"
#include "graft/nn/state.hpp"
#include "graft/optim/adamw.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;

namespace {

/// A classifier over the small encoder, labelled by sequence.
bert_classifier<double> small_classifier(pooling how) {
  bert_classifier<double> m(test::small_bert<double>(), 3, how);
  initialize(m.classifier, 5, 0.2);
  return m;
}
token_batch labelled_batch() {
  auto b = test::random_batch({5, 9, 3});
  b.labels = {2, 0, 1};
  return b;
}

template <class M>
std::vector<std::vector<float>> train(M& model, executor_ref executor, int steps, const token_batch& batch) {
  context ctx(executor);
  ctx.seed = 3;
  adamw<float> optimizer(trainable(model), {.lr = 1e-2});
  for (int s = 0; s < steps; ++s) {
    tape<float> t(ctx, recording::on, {true, static_cast<std::uint64_t>(s), {}});
    t.backward(model.loss(t, batch));
    optimizer.step(ctx);
  }
  std::vector<std::vector<float>> result;
  for (auto& p : trainable(model)) result.emplace_back(p.parameter->value().begin(), p.parameter->value().end());
  return result;
}

template <module M>
std::size_t allocations_of_second_step(context& ctx, M& model, const token_batch& batch) {
  using T = typename M::value_type;
  adamw<T> optimizer(trainable(model), {});
  std::size_t before = 0;
  for (int n = 0; n < 2; ++n) {
    before = test::allocations();
    tape<T> t(ctx, recording::on, {true, 1, {}});
    t.backward(model.loss(t, batch));
    optimizer.step(ctx);
  }
  return test::allocations() - before;
}

}  // namespace

TEST_CASE("every parameter of a Llama learns by central differences", "[law]") {
  for (const bool tied : {true, false}) {
    auto config = test::small_llama_config(2);
    config.tie_word_embeddings = tied;
    config.qkv_bias = config.output_bias = config.mlp_bias = !tied;
    llama<double> model(config);
    initialize(model, 3, 0.15);
    CHECK(test::error_of_gradients(model, test::random_batch({6, 4}), 6) < 1e-6);
  }
}

TEST_CASE("adapters on a frozen Llama learn by central differences, checkpointed or not", "[law]") {
  for (const bool checkpointing : {false, true}) {
    auto model = test::small_llama<double>(2);
    attach(model, all_linear(), lora_options{.rank = 2});
    test::disturb_adapters(model);
    model.checkpointed_layers = checkpointing ? all_layers : 0;
    CHECK(test::error_of_gradients(model, test::random_batch({6, 4}), 6) < 1e-6);
  }
}

TEST_CASE("a LoRA step in float is that in double", "[law]") {  // floats by the kernels that graft::precompiled chose
  const auto batch = test::random_batch({40, 23});
  const auto step = [&]<class T>(llama<T> model) {
    attach(model, all_linear(), lora_options{.rank = 3});
    test::disturb_adapters(model);
    adamw<T> optimizer(trainable(model), {.lr = 1e-2});
    context ctx;
    std::vector<double> result;
    for (int n = 0; n < 2; ++n) {  // the second loss knows what the first step did
      tape<T> t(ctx);
      const auto loss = model.loss(t, batch);
      result.push_back(static_cast<double>(*loss.value.data));
      t.backward(loss);
      if (n == 0)
        for (auto& p : trainable(model))
          for (const T g : p.parameter->gradient_values()) result.push_back(static_cast<double>(g));
      optimizer.step(ctx);
    }
    return result;
  };
  const auto floats = step(test::small_llama<float>(2)), doubles = step(test::small_llama<double>(2));
  REQUIRE(floats.size() == doubles.size());
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < floats.size(); ++i) {
    worst = std::max(worst, std::abs(floats[i] - doubles[i]));
    largest = std::max(largest, std::abs(doubles[i]));
  }
  CHECK(worst <= 1e-4 * largest);
}

TEST_CASE("every parameter of a BERT classifier learns by central differences", "[law]") {
  for (const pooling how : {pooling::mean, pooling::cls, pooling::pooler}) {
    auto model = small_classifier(how);
    unfreeze(model);
    CHECK(test::error_of_gradients(model, labelled_batch(), 4) < 1e-6);
  }
}

TEST_CASE("a frozen model makes no node and saves no byte", "[law]") {
  context ctx;
  meter m;
  ctx.cost = &m;
  auto model = test::small_llama<float>();
  tape<float> t(ctx);
  const auto loss = model.loss(t, test::random_batch({9, 5}));
  CHECK_FALSE(loss.needs_grad());
  CHECK(t.nodes() == 0);
  CHECK(m.total().nodes == 0);
  CHECK(m.total().peak_saved_bytes == 0);
}

TEST_CASE("an adapter on the last layer saves nothing below it and records nothing there", "[law]") {
  context ctx;
  meter m;
  ctx.cost = &m;
  auto model = test::small_llama<float>(4);
  attach(model, targets({"layers.3.self_attn.q_proj"}), lora_options{});
  const auto batch = test::random_batch({9, 5});
  tape<float> t(ctx);
  const auto loss = model.loss(t, batch);
  for (const std::string layer : {"model.layers.0", "model.layers.1", "model.layers.2"}) {
    CHECK(m.total(layer).flops > 0);
    CHECK(m.total(layer).nodes == 0);
    CHECK(m.total(layer).peak_saved_bytes == 0);
  }
  CHECK(m.total("model.layers.3").peak_saved_bytes > 0);
  t.backward(loss);
  CHECK(m.total().saved_bytes == 0);
}

TEST_CASE("what the meter says is saved is what the pool has given out", "[law]") {
  for (const bool checkpointing : {false, true}) {
    context ctx;
    meter m;
    ctx.cost = &m;
    auto config = test::small_llama_config(4);
    config.max_position_embeddings = 2000, config.hidden_size = 96;
    llama<float> model(config);
    initialize(model, 1, 0.15);
    freeze(model);
    model.checkpointed_layers = checkpointing ? all_layers : 0;
    attach(model, all_linear(), lora_options{.rank = 4});
    const auto batch = test::random_batch({1900, 2000});  // so much that the tape's own records do not count
    tape<float> t(ctx);
    {
      const auto loss = model.loss(t, batch);
      CHECK(loss.needs_grad());
    }
    const double saved = static_cast<double>(m.total().saved_bytes), live = static_cast<double>(ctx.pool().live_bytes());
    CHECK(saved >= 0.98 * live);
    CHECK(saved <= live);
  }
}

TEST_CASE("the second training step allocates nothing", "[law]") {
  for (const index_t threads : {1, 3}) {
    for (const index_t checkpointed : {index_t(0), index_t(1), all_layers}) {
      thread_pool pool(threads);
      context ctx(pool);
      auto model = test::small_llama<float>();
      model.checkpointed_layers = checkpointed;
      attach(model, all_linear(), lora_options{.rank = 2, .dropout = 0.1});
      CHECK(allocations_of_second_step(ctx, model, test::random_batch({9, 5})) == 0);
    }
  }
}

TEST_CASE("nor does the second step of a classifier, however it pools", "[law]") {
  for (const pooling how : {pooling::mean, pooling::cls, pooling::pooler}) {
    context ctx;
    auto model = small_classifier(how);
    unfreeze(model);
    CHECK(allocations_of_second_step(ctx, model, labelled_batch()) == 0);
  }
}

TEST_CASE("a training run gives the same bits on any number of threads", "[law]") {
  auto batch = test::random_batch({40, 23, 60});
  const auto run = [&](executor_ref executor) {
    auto model = test::small_llama<float>();
    attach(model, all_linear(), lora_options{.rank = 2, .dropout = 0.1});
    return train(model, executor, 4, batch);
  };
  const auto expected = run({});
  for (const index_t threads : {2, 3, 7}) {
    thread_pool pool(threads);
    CHECK(run(pool) == expected);
  }
}

namespace {

/// The loss and all gradients of one step with dropout, checkpointing so many layers.
template <class M>
std::vector<std::vector<float>> step_bits(M& model, index_t& checkpointed_layers, index_t n, const token_batch& batch) {
  context ctx;
  checkpointed_layers = n;
  tape<float> t(ctx, recording::on, {true, 1, {}});
  const auto loss = model.loss(t, batch);
  t.backward(loss);
  auto bits = test::take_gradients(trainable(model));
  for (const auto& gradient : bits) CHECK_FALSE(gradient.empty());
  bits.push_back({loss.item()});
  return bits;
}

}  // namespace

TEST_CASE("any number of checkpointed layers gives the same loss and the same gradients to the bit", "[law]") {
  const lora_options lora{.rank = 2, .dropout = 0.1};
  auto causal = test::small_llama<float>(4);
  attach(causal, all_linear(), lora);
  test::disturb_adapters(causal);
  const auto text = test::random_batch({40, 23});
  const auto expected = step_bits(causal, causal.checkpointed_layers, 0, text);
  for (const index_t n : {index_t(1), index_t(2), index_t(3), index_t(4), all_layers}) CHECK(step_bits(causal, causal.checkpointed_layers, n, text) == expected);

  bert_classifier<float> encoder(test::small_bert<float>(3), 3, pooling::pooler);
  initialize(encoder.classifier, 5, 0.2);
  attach(encoder, all_linear(), lora);
  test::disturb_adapters(encoder);
  const auto expected_of_encoder = step_bits(encoder, encoder.bert.checkpointed_layers, 0, labelled_batch());
  for (const index_t n : {1, 2, 3}) CHECK(step_bits(encoder, encoder.bert.checkpointed_layers, n, labelled_batch()) == expected_of_encoder);
}

TEST_CASE("a layer that is computed twice leaves out the map it ends in the second time", "[law]") {
  const auto batch = test::random_batch({40, 23});
  auto model = test::small_llama<float>(2);
  attach(model, all_linear(), lora_options{.rank = 2});
  const auto flops = [&](index_t checkpointed) {
    context ctx;
    meter m;
    ctx.cost = &m;
    model.checkpointed_layers = checkpointed;
    tape<float> t(ctx);
    t.backward(model.loss(t, batch));
    return m.total().flops;
  };
  const auto of_layer = [&] {  // the first layer alone, forward
    context ctx;
    meter m;
    ctx.cost = &m;
    tape<float> t(ctx, recording::off);
    model.loss(t, batch);
    return m.total("model.layers.0").flops;
  }();
  CHECK(flops(1) - flops(0) == of_layer - 2 * 63 * 44 * 32);
}

TEST_CASE("a checkpointed block of several layers computes each of them", "[law]") {
  const auto batch = test::random_batch({40, 23});
  auto model = test::small_llama<float>(2);
  attach(model, all_linear(), lora_options{.rank = 2});
  test::disturb_adapters(model);
  const auto gradients = [&](int blocks) {
    context ctx;
    tape<float> t(ctx);
    adapted_linear<float>&first = model.model.layers[0].mlp.down_proj, &second = model.model.layers[1].mlp.gate_proj;
    const auto both = [&first, &second](tape<float>& inner, const var<float, 2>& in) { return second(inner, first.last_of_block(inner, in)); };
    const auto outer = [&both](tape<float>& inner, const var<float, 2>& in) { return tanh(inner, checkpoint(inner, in, both)); };
    const auto x = test::random_tensor<float, 2>({5, 44}, 3);
    const auto in = t.constant(x.view());
    const auto y = blocks == 0 ? tanh(t, both(t, in)) : blocks == 1 ? tanh(t, checkpoint(t, in, both)) : checkpoint(t, in, outer, block_end::sum);
    t.backward(sum(t, multiply(t, y, y)));
    return test::take_gradients(trainable(model));
  };
  const auto expected = gradients(0);
  CHECK(gradients(1) == expected);
  CHECK(gradients(2) == expected);
}

TEST_CASE("every further checkpointed layer lowers the peak, but for the last one", "[law]") {
  const auto batch = test::random_batch({300, 212});
  auto config = llama_config::tiny();
  llama<float> model(config);
  initialize(model, 1, 0.08);
  attach(model, all_linear(), lora_options{.rank = 4});
  context ctx;
  std::vector<std::size_t> peaks;
  for (index_t n = 0; n <= config.num_hidden_layers; ++n) {
    model.checkpointed_layers = n;
    ctx.pool().reset_peak();
    tape<float> t(ctx);
    t.backward(model.loss(t, batch));
    peaks.push_back(ctx.pool().peak_bytes());
  }
  for (std::size_t n = 1; n + 1 < peaks.size(); ++n) CHECK(peaks[n] < peaks[n - 1]);
  CHECK(peaks.back() >= peaks[peaks.size() - 2]);  // its values are the first to be needed: keeping them instead gains nothing
}

TEST_CASE("checkpointed training gives the same bits with less memory", "[law]") {
  const auto batch = test::random_batch({40, 23});
  const auto run = [&](bool checkpointing) {
    auto model = test::small_llama<float>();
    model.checkpointed_layers = checkpointing ? all_layers : 0;
    attach(model, all_linear(), lora_options{.rank = 2, .dropout = 0.1});
    return train(model, {}, 3, batch);
  };
  CHECK(run(false) == run(true));
}

TEST_CASE("padding that is dropped changes nothing") {
  context ctx;
  auto model = test::small_bert<float>();
  const auto ids = tensor<std::int32_t, 2>::of({{5, 6, 7, 0, 0}, {9, 8, 3, 2, 1}});
  const auto mask = tensor<std::int32_t, 2>::of({{1, 1, 1, 0, 0}, {1, 1, 1, 1, 1}});
  const auto together = drop_padding(ids, mask);
  CHECK(together.tokens() == 8);
  tape<float> t(ctx, recording::off);
  const auto both = model.pooled(t, together, pooling::mean);
  token_batch alone;
  alone.add(std::vector<std::int32_t>{5, 6, 7});
  const auto first = model.pooled(t, alone, pooling::mean);
  CHECK(test::near(tensor_view<const float, 2>(first.value), tensor_view<const float, 2>(both.value).slice(0, 0, 1), 1e-5));
}

TEST_CASE("generation with a cache follows the whole-sequence logits") {
  context ctx;
  auto model = test::small_llama<float>();
  const std::vector<std::int32_t> prompt{3, 1, 4, 1, 5};
  const auto fast = generate(ctx, model, prompt, {.max_tokens = 20});
  std::vector<std::int32_t> all = prompt;
  for (const std::int32_t token : fast) {
    token_batch b;
    b.add(all);
    tape<float> t(ctx, recording::off);
    const auto scores = model.logits(t, b);
    const auto row = tensor_view<const float, 2>(scores.value).row(static_cast<index_t>(all.size()) - 1);
    CHECK(std::ranges::max_element(row.span()) - row.span().begin() == token);
    all.push_back(token);
  }
  CHECK(fast.size() == 20);
  CHECK_THROWS_WITH(generate(ctx, model, {}), "generate: the prompt has no tokens");
  CHECK_THROWS_WITH(generate(ctx, model, std::vector<std::int32_t>(65, 1)), "generate: the prompt has 65 tokens, the model allows 64");
  CHECK(generate(ctx, model, std::vector<std::int32_t>(60, 1), {.max_tokens = 50}).size() == 5);  // the fifth fills the model's window
}

TEST_CASE("sampling is a function of the seed and keeps to top-k and top-p") {
  std::vector<float> logits{0.0f, 3.0f, 1.0f, 2.0f};
  sampler a({.temperature = 1, .seed = 1}), b({.temperature = 1, .seed = 1});
  for (int i = 0; i < 50; ++i) CHECK(a(std::span<const float>(logits)) == b(std::span<const float>(logits)));
  sampler top2({.temperature = 5, .top_k = 2}), nucleus({.temperature = 1, .top_p = 0.6}), greedy({});
  int seen3 = 0;
  for (int i = 0; i < 200; ++i) {
    const auto t = top2(std::span<const float>(logits));
    CHECK((t == 1 || t == 3));
    seen3 += t == 3;
    CHECK(nucleus(std::span<const float>(logits)) == 1);  // alone it has 0.64
    CHECK(greedy(std::span<const float>(logits)) == 1);
  }
  const double p3 = 1 / (1 + std::exp(1.0 / 5));
  CHECK(std::abs(seen3 / 200.0 - p3) < 5 * std::sqrt(p3 * (1 - p3) / 200));
  CHECK_THROWS_AS(sampler({.top_p = 0}), option_error);
}

TEST_CASE("models name what they cannot take") {
  context ctx;
  auto model = test::small_llama<float>();
  tape<float> t(ctx);
  CHECK_THROWS_WITH(model.loss(t, token_batch{}), "llama: the batch has no tokens");
  CHECK_THROWS_WITH(model.loss(t, test::random_batch({65})), "llama: a sequence of 65 tokens, the model allows 64");
  token_batch bad;
  bad.add_with_next_labels(std::vector<std::int32_t>{1, 50});
  CHECK_THROWS_WITH(model.loss(t, bad), "embedding: number 50 at position 1, but the table has 50 rows");
  auto config = test::small_llama_config();
  config.num_key_value_heads = 3;
  CHECK_THROWS_WITH(llama<float>(config), "llama config: 4 attention heads cannot share 3 key-value heads");
}
