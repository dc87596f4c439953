// SPDX-License-Identifier: Apache-2.0
#include "graft/peft/adapter_set.hpp"

#include "graft/peft/attach.hpp"
#include "graft/peft/ia3.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"

using namespace graft;

namespace {

using names = std::vector<std::string>;

/// Fills every adapter parameter, so that none is the identity.
template <class M>
void stir(M& model, std::uint64_t seed) {
  for (auto& p : trainable(model)) fill_uniform(p.parameter->value(), random_stream(seed).substream(p.path), 0.3);
}

template <class M>
std::vector<float> logits(M& model) {
  context ctx;
  token_batch b;
  b.add(std::vector<std::int32_t>{1, 5, 2, 7});
  tape<float> t(ctx, recording::off);
  const auto y = model.logits(t, b);
  return {y.value.data, y.value.data + y.value.size()};
}

/// A small Llama with LoRA "one" on q and IA3 "two" on q and v, each stirred.
auto with_two() {
  auto model = test::small_llama<float>();
  attach(model, targets({"q_proj"}), lora_options{.rank = 2}, {.name = "one"});
  stir(model, 1);
  freeze(model);
  attach(model, targets({"v_proj", "q_proj"}), ia3_options{}, {.name = "two"});
  stir(model, 2);
  return model;
}

}  // namespace

TEST_CASE("adapters are taken out whole and put back as they were") {
  auto model = with_two(), base = test::small_llama<float>();
  const auto both = logits(model);
  CHECK(adapter_names(model) == names{"one", "two"});
  auto two = take_adapters(model, "two");
  CHECK(adapter_names(model) == names{"one"});
  CHECK(two.items.size() == 6);
  CHECK((logits(model) != both));
  auto one = take_adapters(model, "one");
  CHECK((logits(model) == logits(base)));
  put_adapters(model, one);
  put_adapters(model, two);
  CHECK(two.items.empty());
  CHECK((logits(model) == both));
}

TEST_CASE("a copy of adapters is another model's own") {
  auto model = with_two(), other = test::small_llama<float>();
  auto copy = copy_adapters(model, "one");
  put_adapters(other, copy);
  take_adapters(model, "two");
  const auto before = logits(model);
  CHECK((logits(other) == before));
  unfreeze(other, tagged("adapter"));
  stir(other, 9);
  CHECK((logits(model) == before));
  CHECK((logits(other) != before));
}

TEST_CASE("a shelf switches between adapters and applies several") {
  auto model = with_two(), base = test::small_llama<float>();
  const auto both = logits(model);
  adapter_shelf<float> shelf;
  shelf.use(model, {});
  CHECK((logits(model) == logits(base)));
  CHECK(shelf.names() == names{"one", "two"});
  shelf.use(model, {"two"});
  const auto two = logits(model);
  shelf.use(model, {"one"});
  const auto one = logits(model);
  CHECK((one != two));
  CHECK(shelf.names() == names{"two"});
  shelf.use(model, {"two", "one"});
  CHECK((logits(model) != both));  // the last is outermost: IA3 scales what is inside it
  shelf.use(model, {"one", "two"});
  CHECK((logits(model) == both));
  CHECK(shelf.names().empty());
  auto alone = with_two();
  take_adapters(alone, "one");
  CHECK((logits(alone) == two));
}

TEST_CASE("what does not fit is named, and the model keeps what it had") {
  auto model = with_two();
  const auto both = logits(model);
  adapter_shelf<float> shelf;
  CHECK_THROWS_WITH(shelf.use(model, {"three"}), "adapters: neither the model nor the shelf has \"three\"");
  CHECK_THROWS_WITH(shelf.use(model, {"one", "one"}), "adapters: \"one\" is named twice");
  CHECK_THROWS_WITH(take_adapters(model, "three"), "adapters: the model has no adapter named \"three\"");
  auto copy = copy_adapters(model, "one");
  CHECK_THROWS_WITH(put_adapters(model, copy), "adapters: model.layers.0.self_attn.q_proj already has an adapter named \"one\"");
  copy.name = "renamed";
  copy.items.back().path = "model.layers.7.self_attn.q_proj";
  CHECK_THROWS_WITH(put_adapters(model, copy), "adapters: \"renamed\" has an adapter for model.layers.7.self_attn.q_proj, a layer the model has not");
  copy.items.back().path = "model.layers.2.mlp.up_proj";
  CHECK_THROWS_AS(put_adapters(model, copy), shape_error);
  CHECK(copy.items.size() == 3);
  shelf.add(std::move(copy));  // fits no longer: found out while the model is empty
  CHECK_THROWS_AS(shelf.use(model, {"two", "renamed"}), shape_error);
  CHECK(adapter_names(model) == names{"one", "two"});
  CHECK((logits(model) == both));
  CHECK_THROWS_WITH(shelf.add({"renamed", {}}), "adapters: the shelf already has \"renamed\"");
}
