// SPDX-License-Identifier: Apache-2.0
#include "graft/peft/embedding_lora.hpp"

#include <type_traits>

#include "graft/peft/adapter_set.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

const std::string table = "model.embed_tokens";

template <class T>
llama<T> small(bool tied) {
  auto config = test::small_llama_config(2);
  config.tie_word_embeddings = tied;
  return test::small_llama<T>(config);
}
template <class T>
llama<T> adapted(bool tied, double bound = 0.3) {
  auto m = small<T>(tied);
  attach_to_embeddings(m, targets({"embed_tokens"}), {.rank = 3, .alpha = 5});
  test::disturb_adapters(m, bound);
  return m;
}
template <class T>
tensor<T, 2> logits_of(llama<T>& m) {
  context ctx;
  tape<T> t(ctx, recording::off);
  return tensor<T, 2>::copy_of(m.logits(t, test::two_sequences).value);
}

}  // namespace

TEMPLATE_TEST_CASE("a LoRA of an embedding starts as the identity and then adds scale B a_i to entry i", "", float, double) {
  auto base = small<TestType>(true), model = small<TestType>(true);
  CHECK(attach_to_embeddings(model, targets({"embed_tokens"}), {.rank = 3, .alpha = 5}) == 1);
  CHECK(test::equal_bits(logits_of(model), logits_of(base)));
  const auto trained = trainable(model);
  REQUIRE(trained.size() == 2);
  CHECK(trained[0].path == table + ".adapters.default.lora_embedding_A");
  CHECK(trained[0].parameter->tag == "adapter");
  CHECK(count_parameters(model, is_trainable) == 3 * (50 + 32));

  test::disturb_adapters(model);
  context ctx;
  tape<TestType> t(ctx);
  const std::vector<std::int32_t> ids{7, 0, 7};
  const auto y = model.model.embed_tokens(t, ids);
  const auto& rows = model.model.embed_tokens.adapters.at(0);
  for (index_t n = 0; n < 3; ++n)
    for (index_t c = 0; c < 32; ++c) {
      double sum = base.model.embed_tokens.weight.view()(ids[static_cast<std::size_t>(n)], c);
      for (index_t k = 0; k < 3; ++k) sum += 5.0 / 3 * rows.a.view()(ids[static_cast<std::size_t>(n)], k) * rows.b.view()(c, k);
      CHECK(std::abs(y.value(n, c) - sum) < (std::same_as<TestType, float> ? 1e-6 : 1e-14));
    }
}

TEST_CASE("a LoRA of an embedding learns by central differences, beside one of a layer and alone, under a tied head and a free one") {
  for (const bool tied : {true, false})
    for (const bool both : {true, false}) {
      INFO(tied << both);
      auto model = adapted<double>(tied);
      if (both) attach(model, targets({"q_proj"}), lora_options{.rank = 2});
      test::disturb_adapters(model);
      CHECK(trainable(model).size() == (both ? 6u : 2u));
      CHECK(test::error_of_gradients(model, test::two_sequences, 40) < 1e-6);
    }
}

TEMPLATE_TEST_CASE("an embedding with its LoRA folded in looks up the same", "", float, double) {
  auto model = adapted<TestType>(false);
  attach_to_embeddings(model, targets({"embed_tokens"}), {.rank = 2, .rank_stabilised = true}, {.name = "second", .seed = 4});
  test::disturb_adapters(model);
  const auto before = logits_of(model);
  auto merged = replicate(model);
  CHECK(merge_adapters(merged) == 1);
  CHECK(merged.model.embed_tokens.adapters.empty());
  CHECK(test::near(logits_of(merged), before, std::same_as<TestType, float> ? 1e-5 : 1e-12));
  CHECK(test::equal_bits(logits_of(model), before));
  CHECK(detach(model, "second") == 1);
  CHECK_FALSE(test::near(logits_of(model), before, 1e-2));
  CHECK(model.model.embed_tokens.adapters.size() == 1);
}

TEST_CASE("a table that is the output layer too is not merged, and stays as it was") {
  auto model = adapted<double>(true);
  const auto before = logits_of(model);
  CHECK_THROWS_WITH(merge_adapters(model), "merge_adapters: the embedding has an adapter, and its table is the output layer too, which the adapter leaves as it is");
  CHECK_THROWS_AS(merge_adapters(model, merge_options{}), state_error);
  CHECK(test::equal_bits(logits_of(model), before));
  // The head multiplies by the old table: with the hidden states of this model, the scores of the base's weight.
  context ctx;
  tape<double> t(ctx, recording::off);
  const auto x = model.hidden(t, test::two_sequences);
  CHECK(test::equal_bits(tensor<double, 2>::copy_of(linear(t, x, model.model.embed_tokens.weight).value), before));
}

TEST_CASE("a BERT's tables take a LoRA each") {
  auto model = test::small_bert<double>(1);
  CHECK(attach_to_embeddings(model, targets({"word_embeddings", "position_embeddings"}), {.rank = 2}) == 2);
  CHECK(trainable(model).size() == 4);
  CHECK(model.embeddings.word_embeddings.adapters[0].b.view()(0, 0) != model.embeddings.position_embeddings.adapters[0].b.view()(0, 0));
  attach(model, targets({"query"}), lora_options{.rank = 2});
  CHECK(trainable(model).size() == 6);
}

TEST_CASE("what a LoRA of an embedding cannot do is refused by name") {
  auto model = adapted<double>(true);
  const auto complaint = [&](const target_modules& where, const lora_options& o = {}, const attach_options& as = {.name = "new"}) {
    try {
      attach_to_embeddings(model, where, o, as);
    } catch (const option_error& e) {
      CHECK(model.model.embed_tokens.adapters.size() == 1);
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(complaint(targets({"q_proj"})) == "attach_to_embeddings: the target modules name no embedding; the model has model.embed_tokens");
  CHECK(complaint(target_modules::all_linear()) == "attach_to_embeddings: all_linear names no embedding");
  CHECK(complaint(targets({"embed_tokens"}), {.rank = 0}) == "lora: rank is 0, expected 1 to 65536");
  CHECK(complaint(targets({"embed_tokens"}), {}, {.name = "new", .bias = bias_training::all}) == "attach_to_embeddings: embeddings have no biases to train");
  CHECK(complaint(targets({"embed_tokens"}), {}, {}) == "attach_to_embeddings: model.embed_tokens already has an adapter named \"default\"");
  CHECK_THROWS_WITH(copy_adapters(model, "default"), "adapters: the embedding model.embed_tokens has an adapter named \"default\", which is of no linear layer");
}
