// SPDX-License-Identifier: Apache-2.0
#include "graft/models/gpt2.hpp"

#include "graft/autograd/gradcheck.hpp"
#include "graft/models/generate.hpp"
#include "graft/ops/reduce.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;

namespace {

template <class T>
gpt2<T> small_gpt2() {
  gpt2<T> m(gpt2_config{.vocab_size = 50, .hidden_size = 24, .intermediate_size = 40, .num_hidden_layers = 2, .num_attention_heads = 3, .max_position_embeddings = 40});
  initialize(m, 1, 0.15);
  freeze(m);
  return m;
}

double worst_gradient(gpt2<double>& model) {
  context ctx;
  const auto batch = test::random_batch({4, 3});
  std::vector<checked_leaf<double>> leaves;
  for (auto& p : trainable(model)) leaves.push_back({p.parameter->value(), p.parameter->gradient()});
  REQUIRE(!leaves.empty());
  return gradient_error<double>(ctx, leaves, [&](tape<double>& t) { return model.loss(t, batch); });
}

}  // namespace

TEST_CASE("columns that are cut out hand their gradient back to their place") {
  test::leaves all;
  auto& x = all.matrix(3, 7);
  context ctx;
  const auto w = test::random_tensor<double, 2>({3, 3}, 5);
  CHECK(all.gradient_error(ctx, [&](tape<double>& t) {
    const auto v = t.leaf(x);
    return sum(t, multiply(t, slice_columns(t, v, 1, 3), multiply(t, slice_columns(t, v, 4, 3), t.constant(w.view()))));
  }) < 1e-8);
  tape<double> t(ctx, recording::off);
  CHECK_THROWS_WITH(slice_columns(t, t.constant(x.view()), 5, 3), "slice_columns: columns 5 to 8 of x (3, 7)");
}

TEST_CASE("every parameter of a GPT-2 learns by central differences, and so do adapters, checkpointed or not", "[law]") {
  auto model = small_gpt2<double>();
  unfreeze(model);
  CHECK(worst_gradient(model) < 1e-6);
  freeze(model);
  attach(model, targets({"c_attn", "mlp.c_proj"}), lora_options{.rank = 2});
  test::disturb_adapters(model);
  CHECK(worst_gradient(model) < 1e-6);
  model.checkpointed_layers = 2;
  CHECK(worst_gradient(model) < 1e-6);
}

TEST_CASE("a GPT-2 with a cache gives the hidden states of the whole sequence") {
  auto model = small_gpt2<double>();
  const auto whole = test::random_batch({30});
  context ctx;
  tape<double> all(ctx, recording::off);
  const auto expected = model.hidden(all, whole);
  auto cache = model.make_cache(30);
  for (index_t at = 0, step = 7; at < 30; at += step, step = std::min<index_t>(step == 7 ? 1 : 7, 30 - at)) {
    tape<double> t(ctx, recording::off);
    token_batch part;
    part.add(std::span(whole.ids).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(step)));
    const auto x = model.hidden(t, part, &cache);
    CHECK(test::near(tensor_view<const double, 2>(x.value), tensor_view<const double, 2>(expected.value).slice(0, at, at + step), 3 * test::tolerance<double>(40)));
  }
  CHECK(cache.length() == 30);
  CHECK(generate(ctx, model, std::span(whole.ids).first(5), {.max_tokens = 100}).size() == 36);  // up to the model's window and one more
  tape<double> t(ctx, recording::off);
  CHECK_THROWS_WITH(model.hidden(t, test::random_batch({41})), "gpt2: a sequence of 41 tokens, the model allows 40");
}

TEST_CASE("a GPT-2 config that cannot be is refused") {
  CHECK_THROWS_WITH(gpt2<float>(gpt2_config{.vocab_size = 5, .hidden_size = 10, .intermediate_size = 4, .num_hidden_layers = 1, .num_attention_heads = 3}),
                    "gpt2 config: n_embd 10 is not a multiple of 3 heads");
  CHECK_THROWS_AS(gpt2<float>(gpt2_config{}), option_error);
}
