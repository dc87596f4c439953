// SPDX-License-Identifier: Apache-2.0
#include "graft/fed/client.hpp"

#include "graft/peft/dual.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"

using namespace graft;

TEST_CASE("a client answers with what changed in the shared part, on how many samples, and how well") {
  auto model = test::small_llama<float>(1);
  attach(model, targets({"q_proj", "v_proj"}), lora_options{.rank = 2});
  const auto shared = below("model.layers.0.self_attn.q_proj");
  const float stand = 0.5f;
  auto state = fed::shared_part(model, both(is_trainable, shared));
  CHECK(state.items.size() == 2);
  const auto start = load_state(model, view(state), {}, both(is_trainable, shared));
  CHECK(start.clean());
  for (auto& [name, a] : state.items)  // the server stands elsewhere
    for (std::size_t i = 0; i < a.bytes.size(); i += sizeof(float)) std::memcpy(a.bytes.data() + i, &stand, sizeof stand);
  const auto filter = both(is_trainable, shared);
  const auto u = fed::answer(model, {4, state}, 9, [](llama<float>& m) {
    for (auto& p : trainable(m)) std::ranges::fill(p.parameter->value(), 2.5f);
    return fed::local_result{17, {{"loss", 0.5}}};
  }, filter);
  CHECK(u.round == 4);
  CHECK(u.client == 9);
  CHECK(u.samples == 17);
  CHECK(u.metrics == records<double>{{"loss", 0.5}});
  REQUIRE(u.delta.size() == 2);
  for (const auto& [name, a] : u.delta)
    for (std::size_t i = 0; i < a.bytes.size(); i += sizeof(float)) {
      float v;
      std::memcpy(&v, a.bytes.data() + i, sizeof v);
      REQUIRE(v == 2.0f);  // from one half, where the broadcast put it
    }
  state.items.pop_back();
  CHECK_THROWS_AS(fed::answer(model, {4, state}, 9, [](auto&) { return fed::local_result{}; }, filter), format_error);
}

TEST_CASE("what is local cannot be sent, whatever the filter says") {
  auto model = test::small_llama<float>(1);
  attach(model, targets({"q_proj", "v_proj"}), dual_options{.shared = {.rank = 2}, .local = {.rank = 2}});
  const auto no_training = [](llama<float>&) -> fed::local_result { FAIL("trained"); return {}; };
  const std::string refused = "fed: model.layers.0.self_attn.q_proj.adapters.default.local.lora_A.weight is local and cannot leave its client; share what is tagged(\"shared\")";
  const auto start = fed::shared_part(model);  // of the phase train_shared
  REQUIRE(start.items.size() == 4);
  CHECK(std::ranges::all_of(start.items, [](const auto& i) { return i.first.find(".shared.lora_") != i.first.npos; }));
  CHECK_THROWS_WITH(fed::shared_part(model, everything), refused);
  CHECK_THROWS_WITH(fed::shared_part(model, tagged("local")), refused);
  CHECK_THROWS_WITH(fed::shared_part(model, path_contains("q_proj.adapters.default.local.lora_A")), refused);
  CHECK_THROWS_WITH(fed::answer(model, {0, start}, 1, no_training, either(tagged("shared"), tagged("local"))), refused);
  set_phase(model, dual_phase::train_local);
  CHECK_THROWS_WITH(fed::shared_part(model), refused);
  CHECK_THROWS_WITH(fed::answer(model, {0, start}, 1, no_training), refused);
  set_phase(model, dual_phase::train_shared);
  CHECK_THROWS_WITH(fed::answer(model, {0, start}, 1, [](llama<float>& m) {  // ends in a phase where the local branch trains
    set_phase(m, dual_phase::train_local);
    return fed::local_result{1, {}};
  }), refused);
  set_phase(model, dual_phase::train_shared);
  CHECK(fed::answer(model, {0, start}, 1, [](llama<float>&) { return fed::local_result{1, {}}; }).delta.size() == 4);
}

TEST_CASE("training may not change which parameters are shared") {
  auto model = test::small_llama<float>(1);
  attach(model, targets({"q_proj"}), lora_options{.rank = 2});
  const auto start = fed::shared_part(model);
  CHECK_THROWS_WITH(fed::answer(model, {0, start}, 1, [](llama<float>& m) {
    unfreeze(m, below("model.norm"));
    return fed::local_result{1, {}};
  }), "fed::answer: 2 parameters were shared before training, 3 after it");
  freeze(model, below("model.norm"));
  CHECK_THROWS_WITH(fed::answer(model, {0, start}, 1, [](llama<float>& m) {
    freeze(m, path_contains("lora_A"));
    unfreeze(m, below("model.norm"));
    return fed::local_result{1, {}};
  }), "fed::answer: model.norm.weight was not shared before training");
}
