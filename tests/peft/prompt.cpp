// SPDX-License-Identifier: Apache-2.0
// Soft prompts and prefixes: what they compute against real tokens in their place, and the laws of models.
#include "graft/peft/prompt.hpp"

#include "graft/models/generate.hpp"
#include "graft/models/gpt2.hpp"
#include "graft/optim/adamw.hpp"
#include "graft/peft/prefix.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;

namespace {

template <class T>
gpt2<T> small_gpt2() {
  gpt2_config c;
  c.vocab_size = 50, c.hidden_size = 24, c.intermediate_size = 40, c.num_hidden_layers = 2, c.num_attention_heads = 3, c.max_position_embeddings = 64;
  gpt2<T> m(c);
  initialize(m, 1, 0.15);
  freeze(m);
  return m;
}

/// Three virtual tokens, random ones large enough to matter.
template <class T, template <class> class Wrapped = prompted>
Wrapped<llama<T>> small(index_t layers = 2) { return Wrapped<llama<T>>(test::small_llama<T>(layers), {.tokens = 3, .deviation = 0.5}); }

template <class M>
tensor<double, 2> hidden_of(M& model, const token_batch& batch) {
  context ctx;
  tape<double> t(ctx, recording::off);
  return tensor<double, 2>::copy_of(model.hidden(t, batch).value);
}

const std::vector<std::int32_t> begin{7, 49, 0};

/// With rows that start as tokens' the model computes what the base makes of those tokens before every sequence.
template <class Base>
void check_real_tokens(Base base, auto& wrapped) {
  const auto batch = test::random_batch({5, 9, 1});
  token_batch longer;
  for (std::size_t s = 0; s < 3; ++s) {
    auto ids = begin;
    ids.insert(ids.end(), batch.ids.begin() + batch.offsets[s], batch.ids.begin() + batch.offsets[s + 1]);
    longer.add(ids);
  }
  const auto got = hidden_of(wrapped, batch), whole = hidden_of(base, longer);
  REQUIRE(got.shape() == extents<2>{15, whole.shape()[1]});
  for (std::size_t s = 0; s < 3; ++s) {
    const index_t first = batch.offsets[s], rows = batch.offsets[s + 1] - first, there = first + 3 * (static_cast<index_t>(s) + 1);
    CHECK(test::near(got.view().slice(0, first, first + rows), whole.view().slice(0, there, there + rows), 3 * test::tolerance<double>(44)));
  }
  CHECK_FALSE(test::near(got, hidden_of(base, batch), 1e-3));
}

/// The frozen law, and: the loss falls, nothing of the base changes, a second step allocates nothing.
template <class M>
void check_training(M model, std::size_t parameters) {
  REQUIRE(trainable(model).size() == parameters);
  std::vector<frozen_array> base;
  for (auto& p : select(model, tagged("base"))) base.push_back(p.parameter->share());
  const auto batch = test::random_batch({9, 6});
  context ctx;
  adamw<float> optimizer(trainable(model), {.lr = 0.05});
  std::vector<double> losses;
  std::size_t before = 0, allocated = 0;
  for (int n = 0; n < 20; ++n) {
    before = test::allocations();
    {
      tape<float> t(ctx, recording::on, {.training = true});
      const auto loss = model.loss(t, batch);
      t.backward(loss);
      optimizer.step(ctx);
      allocated = test::allocations() - before;
      losses.push_back(static_cast<double>(loss.item()));
    }
  }
  CHECK(allocated == 0);
  CHECK(losses.back() < 0.8 * losses.front());
  std::size_t i = 0;
  for (auto& p : select(model, tagged("base"))) {
    CHECK_FALSE(p.trainable());
    CHECK(p.parameter->bytes().data() == base[i++].bytes().data());
  }
  freeze(model);
  meter m;
  ctx.cost = &m;
  tape<float> t(ctx);
  CHECK_FALSE(model.loss(t, batch).needs_grad());
  CHECK(t.nodes() == 0);
  CHECK(m.total().peak_saved_bytes == 0);
}

/// A cache in steps of any length, and generation, give what the whole sequence gives.
template <class M>
void check_cache(M model) {
  context ctx;
  const auto batch = test::random_batch({14});
  const auto whole = hidden_of(model, batch);
  auto cache = model.make_cache(14);
  index_t at = 0;
  for (const index_t step : {4, 1, 1, 8}) {
    token_batch part;
    part.add(std::span(batch.ids).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(step)));
    tape<double> t(ctx, recording::off);
    CHECK(test::near(tensor_view<const double, 2>(model.hidden(t, part, &cache).value), whole.view().slice(0, at, at + step), 3 * test::tolerance<double>(44)));
    at += step;
    CHECK(cache.length() == 3 + at);
  }
  const auto text = generate(ctx, model, std::span(batch.ids).first(5), {.max_tokens = 6});
  token_batch all;
  auto ids = std::vector<std::int32_t>(batch.ids.begin(), batch.ids.begin() + 5);
  ids.insert(ids.end(), text.begin(), text.end() - 1);
  all.add(ids);
  tape<double> t(ctx, recording::off);
  const auto scores = model.logits(t, all);
  for (index_t i = 0; i < 6; ++i) {
    const auto row = std::span(&scores.value(4 + i, 0), 50);
    CHECK(text[static_cast<std::size_t>(i)] == std::ranges::max_element(row) - row.begin());
  }
  const auto to_the_end = generate(ctx, model, std::span(batch.ids).first(5), {.max_tokens = 100});
  CHECK(to_the_end.size() == 64 - 3 - 5 + 1);  // the window holds virtual tokens too; the last token needs no place in it
}

}  // namespace

TEST_CASE("virtual tokens that start as real ones compute as these would") {
  const prompt_options o{.tokens = 3, .init_ids = begin};
  {
    prompted model(test::small_llama<double>(), o);
    check_real_tokens(test::small_llama<double>(), model);
  }
  {
    prompted model(small_gpt2<double>(), o);
    check_real_tokens(small_gpt2<double>(), model);
  }
  {
    prefixed model(test::small_llama<double>(), o);
    check_real_tokens(test::small_llama<double>(), model);
  }
  prefixed model(small_gpt2<double>(), o);
  check_real_tokens(small_gpt2<double>(), model);
  const auto repeated = prompted(test::small_llama<double>(), {.tokens = 5, .init_ids = begin});
  CHECK(test::equal_bits(repeated.prompt.embeddings.view().slice(0, 0, 2), repeated.prompt.embeddings.view().slice(0, 3, 5)));
}

TEST_CASE("prompts and prefixes learn by central differences, checkpointed or not") {
  for (const bool checkpointing : {false, true}) {
    auto prompt = small<double>();
    auto prefix = small<double, prefixed>();
    prefixed on_gpt2(small_gpt2<double>(), {.tokens = 2, .deviation = 0.5});
    prompt.checkpointed_layers = prefix.checkpointed_layers = on_gpt2.checkpointed_layers = checkpointing ? all_layers : 0;
    CHECK(test::error_of_gradients(prompt, test::random_batch({6, 1, 4}), 12) < 1e-6);
    CHECK(test::error_of_gradients(prefix, test::random_batch({6, 1, 4}), 12) < 1e-6);
    CHECK(test::error_of_gradients(on_gpt2, test::random_batch({6, 1, 4}), 12) < 1e-6);
  }
}

TEST_CASE("only the virtual tokens train, and frozen they record nothing") {
  check_training(small<float>(), 1);
  check_training(small<float, prefixed>(), 4);
}

TEST_CASE("a cache takes the virtual tokens in with the first real ones") {
  check_cache(small<double>());
  check_cache(small<double, prefixed>());
}

TEST_CASE("paths are the model's and those of the virtual tokens, and copies train apart") {
  auto model = small<float, prefixed>(1);
  auto prompt = small<float>(1);
  const auto paths = parameters(model), base = parameters(static_cast<llama<float>&>(model)), of_prompt = parameters(prompt);
  CHECK(paths.size() == base.size() + 2);
  CHECK(paths.front().path == base.front().path);
  CHECK(paths[base.size()].path == "prefix.0");
  CHECK(paths.back().path == "prefix.1");
  CHECK(of_prompt.back().path == "prompt_embeddings");
  CHECK(of_prompt.back().tag() == "adapter");
  auto other = replicate(prompt);
  other.prompt.embeddings.value()[0] += 1;
  CHECK(other.prompt.embeddings.value()[0] != prompt.prompt.embeddings.value()[0]);
}

TEST_CASE("prompts and prefixes that cannot be are refused") {
  const auto base = test::small_llama<float>(2);
  CHECK_THROWS_WITH(prompted(base, {.tokens = 0}), "prompt: tokens is 0, expected 1 to 65536");
  CHECK_THROWS_WITH(prefixed(base, {.tokens = -1}), "prefix: tokens is -1, expected 1 to 65536");
  CHECK_THROWS_WITH(prompted(base, {.deviation = -0.5}), "prompt: deviation is -0.5, expected 0 or more");
  CHECK_THROWS_WITH(prompted(base, {.init_ids = {1, 50}}), "prompt: init_ids has 50 at position 1, the model's vocabulary has 50 tokens");
  CHECK_THROWS_WITH(prefixed(base, {.init_ids = {-1}}), "prefix: init_ids has -1 at position 0, the model's vocabulary has 50 tokens");
  CHECK_THROWS_WITH(prompted(base, soft_prompt<float>(tensor<float, 2>({3, 24}))), "prompt: virtual tokens of width 24 for a model of width 32");
  const auto rows = [](int arrays, index_t width) {
    std::vector<tensor<float, 2>> all;
    for (int i = 0; i < arrays; ++i) all.push_back(tensor<float, 2>::zeros({3, width}));
    return all;
  };
  CHECK_THROWS_WITH(key_value_prefix<float>(rows(3, 16)), "prefix: 3 arrays are no pairs of keys and values");
  CHECK_THROWS_WITH(prefixed(base, key_value_prefix<float>(rows(4, 32))), "prefix: 2 layers of keys of width 32 for a model of 2 layers and keys of width 16");
  CHECK_THROWS_WITH(prefixed(base, key_value_prefix<float>(rows(2, 16))), "prefix: 1 layers of keys of width 16 for a model of 2 layers and keys of width 16");
  context ctx;
  tape<float> t(ctx, recording::off);
  prompted model(base, {.tokens = 60});
  CHECK_NOTHROW(model.hidden(t, test::random_batch({4})));
  CHECK_THROWS_WITH(model.hidden(t, test::random_batch({2, 5})), "llama: a sequence of 65 tokens, the model allows 64");
  auto cache = model.make_cache(10);
  tape<float> recorded(ctx);
  CHECK_THROWS_WITH(model.hidden(recorded, test::random_batch({2}), &cache), "a cache takes no part in training; use a tape that does not record");
}
