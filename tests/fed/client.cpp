// SPDX-License-Identifier: Apache-2.0
#include "graft/fed/client.hpp"

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
