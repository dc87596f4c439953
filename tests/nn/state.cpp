// SPDX-License-Identifier: Apache-2.0
#include "graft/nn/state.hpp"

#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

std::vector<std::byte> everything_in(llama<float>& m) {
  std::vector<std::byte> all;
  for (const auto& p : parameters(m)) all.insert(all.end(), p.parameter->bytes().begin(), p.parameter->bytes().end());
  return all;
}

}  // namespace

TEST_CASE("whatever does not fit is listed, all of it, and no parameter has changed, frozen or trainable") {
  auto model = test::small_llama<float>(2), other = test::small_llama<float>(2, 5);
  unfreeze(model, below("model.layers.1"));
  const auto before = everything_in(model);
  auto state = save_state(other);
  state.items[3].first = "a.stranger";
  state.items[4].first = "another.stranger";
  state.items[5].second.shape = {2, 3};
  state.items.back().second.shape = {1};
  try {
    load_state(model, view(state));
    FAIL("taken");
  } catch (const format_error& e) {
    const auto all = parameters(model);
    const std::string text = e.what();
    INFO(text);
    CHECK(text.starts_with("the state does not fit the model:\n2 missing:\n  " + all[3].path + "\n  " + all[4].path + "\n2 unexpected:\n  a.stranger\n  another.stranger\n2 mismatched:\n  "));
    CHECK(text.find(all[5].path + ": the model has ") != text.npos);
    CHECK(text.ends_with(all.back().path + ": the model has (32), the state has (1)"));
  }
  CHECK(everything_in(model) == before);
  const auto report = load_state(model, view(state), {.strict = false});
  CHECK(report.missing.size() == 2);
  CHECK(report.unexpected.size() == 2);
  CHECK(report.mismatched.size() == 2);
  CHECK(everything_in(model) != before);
}

TEST_CASE("a long report is cut, and says by how much") {
  load_report r;
  for (int i = 0; i < 25; ++i) r.missing.push_back(concat("p", i));
  CHECK(r.describe(2) == "25 missing:\n  p0\n  p1\n  and 23 more");
  CHECK(r.describe().ends_with("\n  p19\n  and 5 more"));
  CHECK(load_report{}.describe().empty());
}

TEST_CASE("only what the filter names is saved, and only that is asked for") {
  auto model = test::small_llama<float>(2), other = test::small_llama<float>(2, 5);
  const auto part = below("model.layers.1.mlp");
  const auto state = save_state(model, part);
  CHECK(state.items.size() == 3);
  CHECK_THROWS_AS(load_state(other, view(state)), format_error);
  CHECK(load_state(other, view(state), {}, part).clean());
  CHECK(test::equal_bits(other.model.layers[1].mlp.up_proj.weight.view(), model.model.layers[1].mlp.up_proj.weight.view()));
  CHECK_FALSE(test::equal_bits(other.model.layers[0].mlp.up_proj.weight.view(), model.model.layers[0].mlp.up_proj.weight.view()));
}

TEST_CASE("what was loaded lives on without the state it came from, in whatever type it came") {
  auto model = test::small_llama<float>(1);
  const auto expected = everything_in(model);
  auto other = test::small_llama<float>(1, 5);
  {
    const auto state = save_state(model);
    load_state(other, view(state));
  }
  CHECK(everything_in(other) == expected);
  state_dict doubles;  // converted for trainable parameters and for types that are no storage
  for (auto& p : parameters(model)) {
    std::vector<double> v;
    for (std::size_t i = 0; i < p.parameter->bytes().size(); i += sizeof(float)) {
      float f;
      std::memcpy(&f, p.parameter->bytes().data() + i, sizeof f);
      v.push_back(f);
    }
    doubles.items.emplace_back(p.path, array{dtype::f64, {p.shape().begin(), p.shape().end()}, {}});
    doubles.items.back().second.bytes.assign(std::as_bytes(std::span(v)).begin(), std::as_bytes(std::span(v)).end());
  }
  auto third = test::small_llama<float>(1, 6);
  unfreeze(third, below("model.layers"));
  load_state(third, view(doubles));
  CHECK(everything_in(third) == expected);
}
