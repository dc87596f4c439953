// SPDX-License-Identifier: Apache-2.0
#include "graft/peft/served.hpp"

#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "graft/core/thread_pool.hpp"
#include "graft/peft/dora.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;
using test::applied;

namespace {

constexpr index_t in = 37, out = 29;
const index_t ranks[] = {3, 8, 70, 16};  // one above what a product takes along

template <class T>
lora<T> random_lora(std::size_t k) {
  lora<T> l(in, out, {.rank = ranks[k], .alpha = 3.0 + static_cast<double>(k)});
  fill_uniform(l.a.weight.value(), random_stream(10 + k), 0.3);
  fill_uniform(l.b.weight.value(), random_stream(20 + k), 0.3);
  return l;
}

template <class T>
adapted_linear<T> base_layer() {
  adapted_linear<T> layer(in, out, true);
  layer.weight = parameter<T, 2>(test::random_tensor<T, 2>({out, in}, 1));
  layer.bias = parameter<T, 1>(test::random_tensor<T, 1>({out}, 2));
  freeze(layer);
  return layer;
}

/// The base with adapter k as a plain LoRA; with -1 the base.
template <class T>
adapted_linear<T> with_lora(index_t k) {
  auto layer = base_layer<T>();
  if (k >= 0) layer.adapters.push_back({"default", random_lora<T>(static_cast<std::size_t>(k))});
  return layer;
}

/// A layer as a model of its own, for adapters to be attached to.
template <class T>
struct one_layer {
  using value_type = T;
  adapted_linear<T> proj = base_layer<T>(), other{4, 6};
  static void visit(auto& self, auto& v) {
    v("proj", self.proj);
    v("other", self.other);
  }
};

template <class T>
served_adapter<T> adapter_of(index_t k) {
  one_layer<T> m;
  m.proj = with_lora<T>(k);
  freeze(m.proj);
  return attached_adapter(m);
}

/// Serves adapters 0 to 3; the fifth, number 4, is for another layer.
template <class T>
one_layer<T> served() {
  one_layer<T> m;
  m.other.weight.assign(frozen_array(test::random_tensor<T, 2>({6, 4}, 1)));
  auto bank = serve(m, targets({"proj", "other"}));
  for (index_t k = 0; k < 4; ++k) bank = bank->with(concat("adapter ", k), adapter_of<T>(k));
  one_layer<T> elsewhere;
  elsewhere.other.adapters.push_back({"default", lora<T>(4, 6)});
  use(m, bank->with("elsewhere", attached_adapter(elsewhere)));
  return m;
}

// Two adapters over few rows, in one place and in two; two over many, likewise; a lone row, none, the base, one that lacks the layer.
const index_t offsets[] = {0, 2, 3, 12, 15, 15, 27, 32, 33, 36, 38};
const index_t routes[] = {0, 1, 1, -1, 2, 2, 3, 1, 0, 4};
const batch_info batch{.sequence_offsets = offsets, .routes = routes};
constexpr index_t rows = 38;

template <class T>
const adapter_bank<T>& bank_of(one_layer<T>& m) { return *m.proj.adapters.back().adapter.template get<served_lora<T>>()->bank; }
template <class T>
std::shared_ptr<const adapter_bank<T>> shared_bank(one_layer<T>& m) { return m.proj.adapters.back().adapter.template get<served_lora<T>>()->bank; }

}  // namespace

TEMPLATE_TEST_CASE("every sequence of a batch gets what its adapter alone makes of it, on any number of threads", "", float, double) {
  using T = TestType;
  auto m = served<T>();
  const auto x = test::random_tensor<T, 2>({rows, in}, 3);
  const auto y = applied<T>(m.proj, x.view(), batch);
  for (std::size_t s = 0; s < std::size(routes); ++s) {
    auto alone = with_lora<T>(routes[s] == 4 ? -1 : routes[s]);
    if (offsets[s] == offsets[s + 1]) continue;
    const auto expected = applied<T>(alone, x.slice(0, offsets[s], offsets[s + 1]));
    INFO("sequence " << s);
    CHECK(test::near(y.slice(0, offsets[s], offsets[s + 1]), expected.view(), test::tolerance<T>(in + 70)));
  }
  for (const index_t threads : {1, 3, 7}) {
    thread_pool pool(threads);
    CHECK(test::equal_bits(applied<T>(m.proj, x.view(), batch, pool), y));
  }
  // With one row a sequence, as behind a pooling.
  const auto pooled = applied<T>(m.proj, x.slice(0, 0, 10), batch);
  for (index_t s = 0; s < 10; ++s) {
    auto alone = with_lora<T>(routes[s] == 4 ? -1 : routes[s]);
    CHECK(test::near(pooled.slice(0, s, s + 1), applied<T>(alone, x.slice(0, s, s + 1)).view(), test::tolerance<T>(in + 70)));
  }
}

TEMPLATE_TEST_CASE("a batch of one adapter is a plain LoRA's to the bit: by routes, as the standard, merged", "", float, double) {
  using T = TestType;
  auto m = served<T>();
  const auto bank = shared_bank(m);
  const auto x = test::random_tensor<T, 2>({rows, in}, 3);
  for (index_t k = -1; k < 4; ++k) {
    auto alone = with_lora<T>(k);
    const auto expected = applied<T>(alone, x.view());
    const std::vector<index_t> all(10, k);
    CHECK(test::equal_bits(applied<T>(m.proj, x.view(), {.sequence_offsets = offsets, .routes = all}), expected));
    auto other = replicate(m);
    use(other, k < 0 ? bank : bank->with_standard(bank->name(k)));
    CHECK(test::equal_bits(applied<T>(other.proj, x.view()), expected));
    if (k >= 0) CHECK(test::equal_bits(other.proj.merged().weight, alone.merged().weight));
  }
  CHECK_THROWS_WITH(m.proj.merged(), "served_lora: sequences choose among 5 adapters; name a standard one to merge");
  use(m, bank->with_standard("elsewhere"));
  CHECK(test::equal_bits(m.proj.merged().weight, base_layer<T>().merged().weight));
}

TEST_CASE("a model's sequences take adapters of their own through all layers") {
  const auto batch_of = [] { return test::random_batch({5, 9, 1, 14}); };
  auto m = test::small_llama<double>(2);
  auto bank = serve(m, all_linear());
  std::vector<llama<double>> plain(3, test::small_llama<double>(2));
  for (std::size_t k = 0; k < 2; ++k) {
    attach(plain[k], k == 0 ? targets({"q_proj", "down_proj"}) : all_linear(), lora_options{.rank = 2 + static_cast<index_t>(k), .alpha = 6, .rank_stabilised = k == 1});
    for (auto& p : trainable(plain[k])) fill_uniform(p.parameter->value(), random_stream(k).substream(p.path), 0.3);
    bank = bank->with(concat("user ", k), attached_adapter(plain[k]));
  }
  use(m, bank);
  const auto batch_all = batch_of();
  const index_t chosen[] = {1, 0, -1, 1};
  context ctx;
  tape<double> t(ctx, recording::off, {.routes = chosen});
  const auto y = m.logits(t, batch_all);
  for (index_t s = 0; s < 4; ++s) {
    token_batch one;
    one.assign_sequences(batch_all, s, s + 1);
    tape<double> alone(ctx, recording::off);
    const auto expected = plain[chosen[s] < 0 ? 2 : static_cast<std::size_t>(chosen[s])].logits(alone, one);
    CHECK(test::near(y.value.slice(0, batch_all.offsets[static_cast<std::size_t>(s)], batch_all.offsets[static_cast<std::size_t>(s) + 1]), expected.value, 1e-12));
  }
}

TEST_CASE("a served batch allocates nothing once its like has run, whatever the bank") {
  auto m = served<float>();
  const auto x = test::random_tensor<float, 2>({rows, in}, 3);
  const auto bank = shared_bank(m), changed = bank->with("adapter 1", adapter_of<float>(3));
  context ctx;
  const auto step = [&] {
    tape<float> t(ctx, recording::off, batch);
    m.proj(t, t.constant(x));
  };
  use(m, changed);
  step();
  use(m, bank);
  step();
  const auto before = test::allocations();
  step();
  CHECK(test::allocations() == before);
}

TEST_CASE("banks share what they have in common, and numbers stay where they can") {
  auto m = served<float>();
  const auto bank = shared_bank(m);
  CHECK(bank->size() == 5);
  CHECK(bank->find("adapter 2") == 2);
  CHECK(bank->find("adapter") == -1);
  const auto swapped = bank->with_standard("adapter 2")->with("adapter 1", adapter_of<float>(3));
  CHECK(swapped->size() == 5);
  CHECK(swapped->standard() == 2);
  CHECK(swapped->at(1, 0).rank == 16);
  CHECK(swapped->at(1, 0).scale == 6.0 / 16);
  CHECK(bank->at(1, 0).rank == 8);  // a bank never changes
  CHECK(swapped->at(0, 0).a == bank->at(0, 0).a);
  CHECK(bank->at(4, 0).a == nullptr);
  const auto fewer = swapped->without("adapter 0");
  CHECK(fewer->name(0) == "adapter 1");
  CHECK(fewer->standard() == 1);
  CHECK(fewer->without("adapter 2")->standard() == -1);
  // A frozen adapter's factors are shared with the model they come from.
  one_layer<float> from;
  from.proj = with_lora<float>(0);
  freeze(from.proj);
  const auto* l = from.proj.adapters[0].adapter.get<lora<float>>();
  CHECK(bank->with("shared", attached_adapter(from))->at(5, 0).a == l->a.weight.view().data);
  unfreeze(from.proj);
  CHECK(attached_adapter(from).layers[0].a.data != l->a.weight.view().data);
}

TEST_CASE("what serving refuses") {
  auto m = served<float>();
  const auto bank = shared_bank(m);
  const auto x = test::random_tensor<float, 2>({rows, in}, 3);
  const auto run = [&](std::vector<index_t> of, index_t count = rows) {
    applied<float>(m.proj, x.slice(0, 0, count), {.sequence_offsets = {offsets, 4}, .routes = of});
  };
  CHECK_THROWS_WITH(run({0, 5, 1}, 12), "served_lora: route 5 of sequence 1, expected -1, for the base, to 4");
  CHECK_THROWS_AS(run({-2, 0, 0}, 12), option_error);
  CHECK_THROWS_WITH(run({0, 0}, 12), "served_lora: 2 routes, expected one for each of 3 sequences");
  CHECK_THROWS_WITH(run({0, 1, 2}, 11), "served_lora: 11 rows, but the 3 sequences that have routes are of 12 rows");
  const index_t none[] = {0};
  CHECK_THROWS_WITH(applied<float>(m.proj, x.view(), {.routes = none}), "served_lora: 1 routes, expected one for each of 0 sequences");
  context ctx;
  for (const bool routed : {false, true}) {
    tape<float> t(ctx, recording::on, routed ? batch : batch_info{});
    parameter<float, 2> leaf(tensor<float, 2>::copy_of(x.view()));
    CHECK_THROWS_WITH(m.proj(t, t.leaf(leaf)), "served_lora: proj serves adapters and takes no part in training; use a tape that does not record");
  }

  CHECK_THROWS_WITH(bank->without("x"), "adapter_bank: there is no adapter \"x\" among 5");
  CHECK_THROWS_AS(bank->with_standard("x"), option_error);
  auto bad = adapter_of<float>(0);
  bad.layers[0].layer = "q";
  CHECK_THROWS_WITH(bank->with("x", bad), "adapter_bank: adapter \"x\" has factors for q, which is none of the 2 layers the model serves");
  bad.layers[0].layer = "other";
  CHECK_THROWS_WITH(bank->with("x", bad), "adapter_bank: adapter \"x\" has factors of shapes (3, 37) and (29, 3) for other, expected (R, 4) and (6, R)");
  bad = adapter_of<float>(0);
  bad.layers.push_back(bad.layers[0]);
  CHECK_THROWS_WITH(bank->with("x", bad), "adapter_bank: adapter \"x\" has factors for proj twice");
  bad.layers.resize(1);
  bad.layers[0].scale = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(bank->with("x", bad), option_error);
  CHECK_THROWS_WITH(bank->with("x", {}), "adapter_bank: adapter \"x\" has no layers");

  one_layer<float> plain;
  CHECK_THROWS_WITH(attached_adapter(plain), "attached_adapter: the model has no adapter named \"default\"");
  plain.proj.adapters.push_back({"default", dora<float>(plain.proj.weight.matrix(), {})});
  CHECK_THROWS_WITH(attached_adapter(plain), "attached_adapter: the adapter of proj is dora of lora(rank 8, alpha 16), only LoRA is served; convert it");
  CHECK_THROWS_WITH(use(plain, bank), "use: the model serves no adapters; serve(model, targets) first");
  CHECK_THROWS_WITH(serve(m, targets({"proj"})), "serve: proj serves adapters already");
  one_layer<float> half;
  serve(half, targets({"proj"}));
  CHECK_THROWS_WITH(use(half, bank), "use: the bank is for other layers than those the model serves, proj among them");
  CHECK_THROWS_AS(use(m, nullptr), option_error);
  CHECK(shared_bank(m) == bank);
}
