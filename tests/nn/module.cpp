// SPDX-License-Identifier: Apache-2.0
#include "graft/nn/module.hpp"

#include "graft/nn/filter.hpp"
#include "graft/nn/state.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

struct pair_module {
  using value_type = float;
  parameter<float, 2> weight{tensor<float, 2>::of({{1, 2}, {3, 4}})};
  std::optional<parameter<float, 1>> bias;
  static void visit(auto& self, auto& v) {
    v("weight", self.weight);
    v("bias", self.bias);
  }
};

struct tree {
  using value_type = float;
  pair_module first;
  std::vector<pair_module> rest{2};
  static void visit(auto& self, auto& v) {
    v("first", self.first);
    v("rest", self.rest);
  }
};

std::vector<std::string> paths(tree& t) {
  std::vector<std::string> p;
  for (const auto& r : parameters(t)) p.push_back(r.path);
  return p;
}

records<array_ref> as_records(const state_dict& s) { return view(s); }

}  // namespace

TEST_CASE("a walk names every parameter by its dotted path") {
  tree t;
  CHECK(paths(t) == std::vector<std::string>{"first.weight", "rest.0.weight", "rest.1.weight"});
  t.rest[1].bias.emplace(tensor<float, 1>::of({5, 6}));
  CHECK(paths(t).back() == "rest.1.bias");
}

TEST_CASE("filters compose") {
  tree t;
  t.first.bias.emplace(tensor<float, 1>::of({5, 6}));
  CHECK(select(t, below("rest")).size() == 2);
  CHECK(select(t, below("res")).empty());
  CHECK(select(t, both(below("first"), path_contains("bias"))).size() == 1);
  CHECK(select(t, except(either(below("rest.0"), path_contains("bias")))).size() == 2);
  freeze(t, below("rest"));
  CHECK(trainable(t).size() == 2);
  CHECK(count_parameters(t, is_trainable) == 6);
}

TEST_CASE("freezing keeps the values and drops the gradient; unfreezing copies") {
  parameter<float, 2> p(tensor<float, 2>::of({{1, 2}, {3, 4}}));
  p.gradient()->written = true;
  p.freeze();
  CHECK(p.gradient() == nullptr);
  CHECK(p.view()(1, 0) == 3);
  const parameter<float, 2> shared = p;  // NOLINT: shares
  CHECK(shared.view().data == p.view().data);
  p.unfreeze();
  p.mutable_view()(1, 0) = 30;
  CHECK(shared.view()(1, 0) == 3);
  const parameter<float, 2> cloned = p;
  p.mutable_view()(1, 0) = 300;
  CHECK(cloned.view()(1, 0) == 30);
}

TEST_CASE("state goes out and comes back exactly") {
  tree a, b;
  a.rest[0].weight.mutable_view()(0, 1) = -7;
  const auto report = load_state(b, as_records(save_state(a)));
  CHECK(report.clean());
  CHECK(b.rest[0].weight.view()(0, 1) == -7);
}

TEST_CASE("what does not fit is reported in full, and nothing changes") {
  tree t;
  auto state = save_state(t);
  for (auto& [name, a] : state.items)
    for (std::byte& byte : a.bytes) byte = std::byte{0};
  state.items[1].first = "rest.7.weight";
  state.items[2].second.shape = {4, 1};
  CHECK_THROWS_WITH(load_state(t, as_records(state)),
                    "the state does not fit the model:\n1 missing:\n  rest.0.weight\n1 unexpected:\n  rest.7.weight\n"
                    "1 mismatched:\n  rest.1.weight: the model has (2, 2), the state has (4, 1)");
  CHECK(t.first.weight.view()(0, 0) == 1);
  const auto report = load_state(t, as_records(state), {.strict = false});
  CHECK(report.missing.size() == 1);
  CHECK(t.first.weight.view()(0, 0) == 0);
  CHECK(t.rest[1].weight.view()(0, 0) == 1);
}

TEST_CASE("frozen arrays are taken over without a copy, storage types included") {
  tree t;
  freeze(t);
  tensor<bf16, 2> narrow({2, 2});
  for (index_t i = 0; i < 4; ++i) narrow.data()[i] = to_bf16(static_cast<float>(i));
  const frozen_array a(std::move(narrow));
  const records<frozen_array> arrays{{"first.weight", a}};
  load_frozen(t, arrays, {.strict = false});
  CHECK(t.first.weight.type() == dtype::bf16);
  CHECK(t.first.weight.bytes().data() == a.bytes().data());
  CHECK_THROWS_AS(t.first.weight.view(), state_error);
  unfreeze(t, below("first"));
  CHECK(t.first.weight.view()(1, 1) == 3);
}

TEST_CASE("a replica shares the base and owns its adapters") {
  auto model = test::small_llama<float>();
  attach(model, targets({"q_proj"}), lora_options{.rank = 2});
  auto other = replicate(model);
  CHECK(other.model.layers[0].mlp.up_proj.weight.view().data == model.model.layers[0].mlp.up_proj.weight.view().data);
  auto own = trainable(model), others = trainable(other);
  REQUIRE(own.size() == others.size());
  own[0].parameter->value()[0] = 42;
  CHECK(others[0].parameter->value()[0] != 42);
}
