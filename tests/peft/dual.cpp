// SPDX-License-Identifier: Apache-2.0
#include "graft/peft/dual.hpp"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "graft/core/thread_pool.hpp"
#include "graft/nn/state.hpp"
#include "graft/ops/reduce.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;
using test::applied;

namespace {

template <class T>
void fill(parameter<T, 2>& p, std::initializer_list<double> values) {
  std::ranges::transform(values, p.value().begin(), [](double v) { return static_cast<T>(v); });
}

template <class T>
dual<T>& dual_of(adapted_linear<T>& layer) { return *layer.adapters.back().adapter.template get<dual<T>>(); }

/// The layer of the worked example: two outputs, three inputs, rank 1, both scales 2.
adapted_linear<double> worked_example() {
  adapted_linear<double> layer(3, 2);
  layer.weight = parameter<double, 2>(tensor<double, 2>::zeros({2, 3}));
  fill(layer.weight, {1, 0, 2, 0, -1, 1});
  layer.weight.freeze();
  layer.adapters.push_back({"d", dual<double>(3, 2, {.shared = {.rank = 1, .alpha = 2}, .local = {.rank = 1, .alpha = 2}})});
  auto& d = dual_of(layer);
  fill(d.shared.a.weight, {1, 2, -1});
  fill(d.shared.b.weight, {0.5, -1});
  fill(d.local.a.weight, {0, 1, 1});
  fill(d.local.b.weight, {1, 2});
  return layer;
}

template <class T>
adapted_linear<T> random_layer(index_t in, index_t out, dual_options o) {
  adapted_linear<T> layer(in, out, true);
  layer.weight = parameter<T, 2>(test::random_tensor<T, 2>({out, in}, 1));
  layer.bias = parameter<T, 1>(test::random_tensor<T, 1>({out}, 2));
  freeze(layer);
  layer.adapters.push_back({"d", dual<T>(in, out, o)});
  test::disturb_adapters(layer);
  return layer;
}

/// A layer with one branch of the other's dual adapter as its only LoRA.
template <class T>
adapted_linear<T> single(adapted_linear<T>& layer, const lora<T>& branch) {
  auto other = layer;
  other.adapters.clear();
  other.adapters.push_back({"d", branch});
  return other;
}

const dual_options unequal{.shared = {.rank = 3, .alpha = 5}, .local = {.rank = 2, .alpha = 7}};

void check_values(std::span<const double> got, const std::vector<double>& expected) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == Approx(expected[i]).epsilon(1e-14).margin(1e-14));
}

}  // namespace

TEST_CASE("the worked example's outputs, by option, by batch, by phase and merged") {
  auto layer = worked_example();
  auto& d = dual_of(layer);
  auto x = tensor<double, 2>::zeros({1, 3});
  for (index_t i = 0; i < 3; ++i) x(0, i) = static_cast<double>(i + 1);
  const std::pair<double, std::vector<double>> table[] = {{0, {9, -3}}, {0.3, {11.4, 4.2}}, {0.5, {13, 9}}, {1, {17, 21}}};
  for (const auto& [w, y] : table) {
    d.phase = dual_phase::mixed;
    d.options.local_weight = w;
    check_values(applied(layer, x).span(), y);
    const auto merged = layer.merged();
    const auto row = [&](index_t o) { return merged.weight(o, 0) + 2 * merged.weight(o, 1) + 3 * merged.weight(o, 2); };
    check_values(std::vector{row(0), row(1)}, y);
    d.options.local_weight = std::nullopt;
    check_values(applied(layer, x, {.local_weights = {&w, 1}}).span(), y);
    d.phase = dual_phase::train_local;
    d.options.training_mix = w;
    check_values(applied(layer, x).span(), y);
  }
  d.phase = dual_phase::train_shared;
  check_values(applied(layer, x).span(), {9, -3});
  d.phase = dual_phase::local_alone;
  check_values(applied(layer, x).span(), {17, 21});
}

TEST_CASE("the worked example's gradients in the local phase, and the released program's shortcut") {
  for (const bool detached : {false, true}) {
    auto layer = worked_example();
    auto& d = dual_of(layer);
    set_phase(layer, dual_phase::train_local);
    d.options.detach_frozen = detached;
    parameter<double, 2> x(tensor<double, 2>::zeros({1, 3}));
    fill(x, {1, 2, 3});
    auto dy = tensor<double, 2>::zeros({1, 2});
    dy(0, 0) = 1, dy(0, 1) = -2;
    context ctx;
    tape<double> t(ctx);
    t.backward(layer(t, t.leaf(x)), std::as_const(dy).view());
    check_values(d.local.b.weight.gradient_values(), {5, -10});
    check_values(d.local.a.weight.gradient_values(), {-3, -6, -9});
    if (detached) check_values(x.gradient_values(), {1, -1, -3});
    else check_values(x.gradient_values(), {3.5, 4, -5.5});
    CHECK(d.shared.a.weight.gradient_values().empty());
    CHECK(d.shared.b.weight.gradient_values().empty());
  }
}

TEST_CASE("gradients of every phase equal central differences, the input's through frozen branches too") {
  context ctx;
  const auto dy = test::random_tensor<double, 2>({6, 5}, 4);
  const double weights[] = {0.2, 1, 0, 0.7};
  const index_t offsets[] = {0, 1, 3, 4, 6};
  const auto check = [&](adapted_linear<double>& layer, std::size_t trained) {
    parameter<double, 2> x(test::random_tensor<double, 2>({6, 7}, 3));
    std::vector<checked_leaf<double>> leaves{{x.value(), x.gradient()}};
    for (auto& p : trainable(layer)) leaves.push_back({p.parameter->value(), p.parameter->gradient()});
    REQUIRE(leaves.size() == 1 + trained);
    CHECK(gradient_error<double>(ctx, leaves, [&](tape<double>& t) {
            t.batch.sequence_offsets = offsets;
            t.batch.local_weights = weights;
            return sum(t, multiply(t, layer(t, t.leaf(x)), t.constant(dy.view())));
          }) < 1e-8);
  };
  auto layer = random_layer<double>(7, 5, unequal);
  check(layer, 4);  // mixed by sequence, both trainable
  for (const auto& [phase, trained] : {std::pair(dual_phase::train_shared, 2), {dual_phase::train_local, 2}, {dual_phase::local_alone, 2}, {dual_phase::mixed, 0}}) {
    set_phase(layer, phase);
    check(layer, static_cast<std::size_t>(trained));
  }
}

TEMPLATE_TEST_CASE("at weight 0 and 1 the other branch is not computed, and the bits are a single adapter's", "", float, double) {
  using T = TestType;
  for (const index_t rows : {6, 70}) {
    const auto x = test::random_tensor<T, 2>({rows, 12}, 3);
    const index_t offsets[] = {0, 2, rows - 1, rows};
    for (const bool local : {false, true}) {
      auto layer = random_layer<T>(12, 9, unequal);
      auto& d = dual_of(layer);
      auto one = single(layer, local ? d.local : d.shared);
      const auto expected = applied(one, x);
      auto& unused = local ? d.shared : d.local;
      std::ranges::fill(unused.a.weight.value(), std::numeric_limits<T>::quiet_NaN());
      const double w = local ? 1 : 0;
      const double each[] = {w, w, w};
      CHECK(test::equal_bits(applied(layer, x, {.sequence_offsets = offsets, .local_weights = each}), expected));
      CHECK(test::equal_bits(applied(layer, x, {.sequence_offsets = offsets, .local_weights = {each, 1}}), expected));
      d.options.local_weight = w;
      CHECK(test::equal_bits(applied(layer, x), expected));
      CHECK(test::equal_bits(layer.merged().weight, one.merged().weight));
      d.phase = local ? dual_phase::local_alone : dual_phase::train_shared;
      const double opposite = 1 - w;
      CHECK(test::equal_bits(applied(layer, x, {.local_weights = {&opposite, 1}}), expected));  // these phases know their share
    }
  }
}

TEST_CASE("every sequence is mixed by its own weight; nothing is averaged over the batch") {
  auto layer = random_layer<double>(12, 9, unequal);
  const auto x = test::random_tensor<double, 2>({11, 12}, 3);
  const index_t offsets[] = {0, 3, 4, 4, 11};
  const double weights[] = {0.9, 0, 0.3, 1};
  const auto mixed = applied(layer, x, {.sequence_offsets = offsets, .local_weights = weights});
  for (std::size_t s = 0; s < 4; ++s) {
    const auto alone = applied(layer, x, {.local_weights = {&weights[s], 1}});
    for (index_t r = offsets[s]; r < offsets[s + 1]; ++r)
      CHECK(test::near(mixed.row(r), alone.row(r), test::tolerance<double>(20)));
  }
  const double mean = (0.9 * 3 + 0 * 1 + 1 * 7) / 11;
  CHECK_FALSE(test::near(mixed, applied(layer, x, {.local_weights = {&mean, 1}}), 1e-3));
  const auto pooled = test::random_tensor<double, 2>({4, 12}, 3);  // a head over one row a sequence
  const auto y = applied(layer, pooled, {.sequence_offsets = offsets, .local_weights = weights});
  for (index_t s = 0; s < 4; ++s) CHECK(test::near(y.row(s), applied(layer, pooled, {.local_weights = {&weights[s], 1}}).row(s), test::tolerance<double>(20)));
}

TEST_CASE("weights by sequence: the same bits on any number of threads, and a steady step allocates nothing") {
  auto layer = random_layer<float>(12, 9, unequal);
  const auto x = test::random_tensor<float, 2>({3000, 12}, 3);
  const index_t offsets[] = {0, 700, 1999, 3000};
  const double weights[] = {0.9, 0.2, 0.5};
  const batch_info info{.sequence_offsets = offsets, .local_weights = weights};
  thread_pool three(3);
  CHECK(test::equal_bits(applied(layer, x, info), applied(layer, x, info, three)));
  context ctx;
  auto parameters = trainable(layer);
  std::size_t before = 0;
  for (int n = 0; n < 3; ++n) {
    before = test::allocations();
    tape<float> t(ctx, recording::on, info);
    t.backward(sum(t, layer(t, t.constant(x.view()))));
    for (auto& p : parameters) p.parameter->clear_gradient();
  }
  CHECK(test::allocations() == before);
}

TEST_CASE("a phase decides what trains; dropout acts on what trains alone") {
  auto model = test::small_llama<float>(2);
  attach(model, targets({"q_proj", "v_proj"}), dual_options{.shared = {.rank = 2, .dropout = 0.5}, .local = {.rank = 3, .dropout = 0.5}});
  const auto trains = [&](std::string_view tag) {
    const auto all = trainable(model);
    return all.size() == 8 && std::ranges::all_of(all, [&](const auto& p) { return p.tag() == tag && p.path.find(".adapters.default." + std::string(tag) + ".lora_") != p.path.npos; });
  };
  CHECK(trains("shared"));
  set_phase(model, dual_phase::train_local);
  CHECK(trains("local"));
  set_phase(model, dual_phase::local_alone);
  CHECK(trains("local"));
  set_phase(model, dual_phase::train_shared);
  CHECK(trains("shared"));
  set_phase(model, dual_phase::mixed);
  CHECK(trainable(model).empty());
  CHECK(count_parameters(model, tagged("shared")) == 2 * 2 * (32 + 32 + 32 + 16));
  CHECK(count_parameters(model, tagged("local")) == 2 * 3 * (32 + 32 + 32 + 16));

  auto layer = random_layer<double>(12, 9, {.shared = {.rank = 3, .dropout = 0.5}, .local = {.rank = 2}});
  const auto x = test::random_tensor<double, 2>({5, 12}, 3);
  set_phase(layer, dual_phase::train_local);
  CHECK(test::equal_bits(applied(layer, x, {.training = true}), applied(layer, x)));
  set_phase(layer, dual_phase::train_shared);
  CHECK_FALSE(test::near(applied(layer, x, {.training = true}), applied(layer, x), 1e-3));
}

TEST_CASE("state goes round; branches are renewed and copied") {
  auto layer = random_layer<float>(12, 9, {.shared = {.rank = 3}, .local = {.rank = 3}});
  const auto x = test::random_tensor<float, 2>({5, 12}, 3);
  const auto state = save_state(layer, either(tagged("shared"), tagged("local")));
  REQUIRE(state.items.size() == 4);
  CHECK(state.items[0].first == "adapters.d.shared.lora_A.weight");
  CHECK(state.items[3].first == "adapters.d.local.lora_B.weight");
  for (const auto phase : {dual_phase::train_shared, dual_phase::train_local, dual_phase::mixed}) {
    auto other = random_layer<float>(12, 9, {.shared = {.rank = 3}, .local = {.rank = 3}});
    fill_uniform(dual_of(other).shared.b.weight.value(), random_stream(5), 0.1);
    set_phase(other, phase);
    load_state(other, view(state), {}, either(tagged("shared"), tagged("local")));
    dual_of(other).phase = dual_phase::mixed;
    CHECK(test::equal_bits(applied(other, x), applied(layer, x)));
  }
  auto& d = dual_of(layer);
  for (const auto phase : {dual_phase::train_local, dual_phase::train_shared}) {
    set_phase(layer, phase);
    renew_local(layer, random_stream(3));
    CHECK(d.local.a.weight.trainable() == (phase == dual_phase::train_local));
    CHECK(d.local.a.weight.tag == "local");
    CHECK_FALSE(test::near(d.local.a.weight.view(), d.shared.a.weight.view(), 0.1));
    CHECK(test::equal_bits(d.local.b.weight.view(), tensor<float, 2>::zeros({9, 3}).view()));
    copy_shared_to_local(layer);
    CHECK(test::equal_bits(d.local.a.weight.view(), d.shared.a.weight.view()));
    CHECK(test::equal_bits(d.local.b.weight.view(), d.shared.b.weight.view()));
    CHECK(d.local.a.weight.trainable() == (phase == dual_phase::train_local));
  }
  CHECK(d.describe() == "dual(shared lora(rank 3, alpha 16), local lora(rank 3, alpha 16), phase train_shared)");
}

TEST_CASE("what dual adapters refuse") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH(dual<float>(4, 4, {.training_mix = 1.5}), "dual: training_mix is 1.5, expected 0 to 1");
  CHECK_THROWS_AS(dual<float>(4, 4, {.training_mix = nan}), option_error);
  CHECK_THROWS_WITH(dual<float>(4, 4, {.local_weight = -0.5}), "dual: local_weight is -0.5, expected 0 to 1");
  CHECK_THROWS_WITH(dual<float>(4, 4, {.local = {.rank = 0}}), "lora: rank is 0, expected 1 to 65536");

  auto layer = random_layer<float>(12, 9, unequal);
  const auto x = test::random_tensor<float, 2>({5, 12}, 3);
  const index_t offsets[] = {0, 2, 4};
  const double three[] = {0.1, 0.2, 0.3}, outside[] = {0.5, 1.25};
  CHECK_THROWS_WITH(applied(layer, x, {.sequence_offsets = offsets, .local_weights = three}), "dual: 3 local_weights, expected 1 or one for each of 2 sequences");
  CHECK_THROWS_WITH(applied(layer, x, {.local_weights = three}), "dual: 3 local_weights, expected 1 or one for each of 0 sequences");
  CHECK_THROWS_WITH(applied(layer, x, {.sequence_offsets = offsets, .local_weights = outside}), "dual: a batch's local weight is 1.25, expected 0 to 1");
  CHECK_THROWS_AS(applied(layer, x, {.local_weights = {&nan, 1}}), option_error);
  CHECK_THROWS_WITH(applied(layer, x, {.sequence_offsets = offsets, .local_weights = {three, 2}}),
                    "dual: 5 rows, but the 2 sequences that have local weights are of 4 rows");
  auto model = test::small_llama<float>(1);
  attach(model, targets({"v_proj"}), dual_options{.shared = {.rank = 4}, .local = {.rank = 2, .alpha = 7}});
  CHECK_THROWS_WITH(copy_shared_to_local(model), "copy_shared_to_local: model.layers.0.self_attn.v_proj has shared rank 4 with scale 4, local rank 2 with scale 3.5");
  set_local_weight(layer, std::nullopt);
  CHECK_THROWS_WITH(layer.merged(), "dual: nothing says how to mix: the adapter has no local_weight, and no batch its local_weights");
  CHECK_THROWS_AS(applied(layer, x), state_error);
  CHECK_THROWS_WITH(set_local_weight(layer, 2.0), "dual: local_weight is 2, expected 0 to 1");
  auto plain = test::small_llama<float>(1);
  CHECK_THROWS_AS(set_phase(plain, dual_phase::mixed), state_error);
}
