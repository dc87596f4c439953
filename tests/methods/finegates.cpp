// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "graft/methods/finegates.hpp"
#include "graft/ops/reduce.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

constexpr double forty_percent = 2.745;  // logits uniform within this bound: 40 % below the closing point, 20 % between 0 and 1

/// Every gated layer whose path ends so, with all its row or column logits set.
template <module M>
void set_logits(M& m, std::string_view name, double rows, double columns) {
  using T = typename M::value_type;
  visit_layers(m, [&](std::string_view path, adapted_linear<T>& layer) {
    if (!target_modules::names_path(name, path)) return;
    auto* g = layer.adapters[0].adapter.template get<gated<T>>();
    if (!std::isnan(rows)) std::ranges::fill(g->rows.value(), static_cast<T>(rows));
    if (!std::isnan(columns)) std::ranges::fill(g->columns.value(), static_cast<T>(columns));
  });
}
const double keep = std::nan("");

template <module M>
void random_logits(M& m, std::uint64_t seed) {
  for (auto& p : trainable(m)) fill_uniform(p.parameter->value(), random_stream(seed).substream(p.path), forty_percent);
}

template <class T>
tensor<T, 2> output(bert<T>& m, const token_batch& batch) {
  context ctx;
  tape<T> t(ctx, recording::off);
  return tensor<T, 2>::copy_of(m.hidden(t, batch).value);
}
template <class T>
tensor<T, 2> output(llama<T>& m, const token_batch& batch) {
  context ctx;
  tape<T> t(ctx, recording::off);
  return tensor<T, 2>::copy_of(m.logits(t, batch).value);
}

template <class T>
bert<T> gated_bert(std::uint64_t seed = 1, index_t rank = 0) {
  auto m = test::small_bert<T>(2, seed);
  attach(m, all_linear(), gated_options{.rank = rank}, {.seed = seed});
  random_logits(m, seed);
  if (rank != 0) visit_layers(m, [](std::string_view, adapted_linear<T>& l) {
    for (T& v : l.adapters[0].adapter.template get<gated<T>>()->b->value()) v *= T(0.05);
  });
  return m;
}
template <class T>
llama<T> gated_llama(std::uint64_t seed = 1) {
  auto m = test::small_llama<T>(2, seed);
  attach(m, all_linear(), gated_options{}, {.seed = seed});
  random_logits(m, seed);
  return m;
}

template <module M>
index_t linear_parameters(M& m) {
  index_t n = 0;
  visit_layers(m, [&](std::string_view, adapted_linear<typename M::value_type>& l) { n += l.weight.size() + (l.bias ? l.bias->size() : 0); });
  return n;
}

/// Prunes a copy and compares. Returns what was removed.
template <class M>
prune_report check_pruned(M& m, const prune_options& o = {}) {
  using T = typename M::value_type;
  const auto batch = test::random_batch({7, 1, 18});
  const auto expected = output(m, batch);
  M small = m;
  const index_t before = linear_parameters(small);
  const auto report = prune(small, o);
  CHECK(test::near(output(small, batch), expected, std::is_same_v<T, double> ? 1e-12 : 1e-5));
  CHECK(report.parameters_before == before);
  CHECK(report.parameters_after == linear_parameters(small));
  CHECK(trainable(small).empty());
  CHECK(test::equal_bits(output(m, batch), expected));  // the original shares nothing that changed
  return report;
}

}  // namespace

TEST_CASE("the published layer is pruned to its open rows and columns") {
  adapted_linear<double> layer(4, 3, true);
  layer.weight = parameter<double, 2>(tensor<double, 2>::of({{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}}));
  layer.bias = parameter<double, 1>(tensor<double, 1>::of({0.1, 0.2, 0.3}));
  freeze(layer);
  gated<double> g(4, 3);
  g.rows = parameter<double, 1>(tensor<double, 1>::of({1, 0, -1}));
  g.columns = parameter<double, 1>(tensor<double, 1>::of({1, -1, 0.5, 0}));
  layer.adapters.push_back({"default", g});
  const auto report = prune(layer);
  REQUIRE(report.gates.layers.size() == 1);
  CHECK((report.gates.layers[0].open_rows == 2 && report.gates.layers[0].open_columns == 3));
  CHECK(report.gates.parameter_sparsity() == 0.5);
  CHECK((report.parameters_before == 15 && report.parameters_after == 8));
  CHECK(test::near(layer.weight.view(), tensor<double, 2>::of({{1, 2.88635147, 2}, {2.5, 3.36741005, 2}}).view(), 2e-9));
  CHECK(test::near(layer.bias->view(), tensor<double, 1>::of({0.1, 0.1}).view(), 1e-15));
  CHECK(layer.adapters[0].adapter.describe() == "pruned(3 of 4 inputs, 2 of 3 outputs)");
  context ctx;
  tape<double> t(ctx);
  const auto x = tensor<double, 2>::of({{1, 2, 3, 4}});
  CHECK(test::near(tensor_view<const double, 2>(layer(t, t.constant(x.view())).value), tensor<double, 2>::of({{17.75905442, 20.70223015, 0}}).view(), 4e-10));
}

TEMPLATE_TEST_CASE("a pruned encoder computes what the gated one does, with fewer parameters", "", float, double) {
  for (const std::uint64_t seed : {1, 2, 3})
    for (const double least : {0.0, 0.3, 1.0}) {
      INFO("seed " << seed << ", least " << least);
      auto m = gated_bert<TestType>(seed);
      const auto report = check_pruned(m, {.least = least});
      CHECK(report.gates.layers.size() == 13);
      CHECK(std::abs(report.gates.parameter_sparsity() - 0.64) < 0.08);
      CHECK(report.parameters_after < (least == 1 ? 10 : 4) * report.parameters_before / 10);
    }
  auto with_rank = gated_bert<TestType>(4, 2);
  check_pruned(with_rank);
}

TEMPLATE_TEST_CASE("a pruned decoder computes what the gated one does, with fewer parameters", "", float, double) {
  for (const std::uint64_t seed : {1, 2, 3})
    for (const double least : {0.0, 0.3, 1.0}) {
      INFO("seed " << seed << ", least " << least);
      auto m = gated_llama<TestType>(seed);
      const auto report = check_pruned(m, {.least = least});
      CHECK(report.gates.layers.size() == 14);
      CHECK(report.parameters_after < (least == 1 ? 10 : 4) * report.parameters_before / 10);
    }
}

TEST_CASE("pruned heads are narrow, and heads without values are gone") {
  auto m = gated_bert<double>();
  for (auto& layer : m.encoder.layer) {
    auto* v = layer.attention.self_attention.value.adapters[0].adapter.get<gated<double>>();
    std::fill_n(v->rows.value().begin() + 8, 8, -2.0);  // the second of three heads of 8
  }
  check_pruned(m);
  prune(m);
  for (auto& layer : m.encoder.layer) {
    CHECK(layer.attention.heads == 2);
    const auto* slot = layer.attention.self_attention.query.adapters[0].adapter.get<pruned_linear<double>>();
    REQUIRE(slot != nullptr);
    CHECK(slot->out < 2 * 8);
    CHECK(layer.intermediate.dense.outputs() == layer.output.dense.inputs());
    CHECK(layer.output.dense.inputs() < 30);
  }
}

TEST_CASE("a layer whose gates are all closed can be pruned away") {
  for (const char* name : {"query", "key", "value", "attention.output.dense", "intermediate.dense", "layer.0.output.dense", "pooler.dense"})
    for (const bool rows : {true, false}) {
      INFO(name << (rows ? ", rows" : ", columns"));
      auto m = gated_bert<double>();
      set_logits(m, name, rows ? -5 : keep, rows ? keep : -5);
      const auto report = check_pruned(m);
      CHECK_FALSE(report.gates.closed().empty());
    }
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
    for (const bool rows : {true, false}) {
      INFO(name << (rows ? ", rows" : ", columns"));
      auto m = gated_llama<double>();
      set_logits(m, name, rows ? -5 : keep, rows ? keep : -5);
      CHECK_FALSE(check_pruned(m).gates.closed().empty());
    }
  auto all = gated_llama<double>();
  for (auto& p : trainable(all)) std::ranges::fill(p.parameter->value(), -5.0);
  CHECK(check_pruned(all).parameters_after == 0);
}

TEST_CASE("gates on some layers alone prune those and what reads them") {
  auto m = test::small_bert<double>();
  attach(m, targets({"intermediate.dense"}), gated_options{});
  test::disturb_adapters(m, forty_percent);
  check_pruned(m);
  prune(m);
  for (auto& layer : m.encoder.layer) {
    CHECK(layer.output.dense.inputs() < 36);
    CHECK(layer.output.dense.adapters.empty());
    CHECK(layer.attention.self_attention.query.weight.size() == 24 * 24);
  }
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}) {
    INFO(name);
    auto l = test::small_llama<double>();
    attach(l, targets({name}), gated_options{});
    test::disturb_adapters(l, forty_percent);
    const auto report = check_pruned(l);
    CHECK(report.parameters_after < report.parameters_before);
  }
}

TEST_CASE("open gates below 1 are folded in, and with all gates at 1 nothing is removed") {
  auto m = test::small_bert<double>();
  attach(m, all_linear(), gated_options{});
  const auto untouched = check_pruned(m);
  CHECK(untouched.parameters_after == untouched.parameters_before);
  test::disturb_adapters(m, 0.3);
  const auto folded = check_pruned(m);
  CHECK(folded.parameters_after == folded.parameters_before);
  CHECK(folded.gates.parameter_sparsity() == 0);
}

TEST_CASE("a pruned decoder generates from its cache") {
  auto m = gated_llama<double>();
  prune(m);
  const auto whole = test::random_batch({9});
  const auto expected = output(m, whole);
  context ctx;
  auto cache = m.make_cache(16);
  for (index_t i = 0; i < 9; ++i) {
    tape<double> t(ctx, recording::off);
    token_batch one;
    one.add_with_next_labels(std::vector<std::int32_t>{whole.ids[static_cast<std::size_t>(i)]});
    const auto y = m.logits(t, m.hidden(t, one, &cache));
    CHECK(test::near(tensor_view<const double, 2>(y.value), expected.slice(0, i, i + 1), 1e-12));
  }
}

TEST_CASE("gradients pass through a pruned model as through the gated one") {
  auto m = gated_bert<double>();
  auto small = m;
  prune(small);
  const auto gradient = [](bert<double>& model) {
    freeze(model);
    model.embeddings.word_embeddings.weight.unfreeze();
    context ctx;
    tape<double> t(ctx);
    const auto y = model.pooled(t, test::random_batch({7, 5}), pooling::pooler);
    t.backward(sum(t, multiply(t, y, y)));
    auto& w = model.embeddings.word_embeddings.weight;
    return tensor<double, 2>::copy_of(tensor_view<const double, 2>(w.gradient_values().data(), w.extent()));
  };
  const auto expected = gradient(m);
  CHECK(std::ranges::any_of(expected.span(), [](double v) { return std::abs(v) > 1e-3; }));
  CHECK(test::near(gradient(small), expected, 1e-11));
}

TEST_CASE("what cannot be pruned is refused, and the model stays as it was") {
  auto plain = test::small_llama<float>(1);
  CHECK_THROWS_WITH(prune(plain), "prune: no layer of the model has a gated adapter");
  auto m = gated_llama<float>();
  const auto batch = test::random_batch({6});
  CHECK_THROWS_AS(prune(m, {.least = 2}), option_error);
  auto bad = m;
  bad.model.layers[1].mlp.down_proj.adapters[0].adapter.get<gated<float>>()->rows.value()[3] = std::nanf("");
  CHECK_THROWS_WITH(prune(bad), "gates: logit 3 of model.layers.1.mlp.down_proj is not a number");
  CHECK(bad.model.layers[0].mlp.down_proj.weight.size() == m.model.layers[0].mlp.down_proj.weight.size());

  const auto before = output(m, batch);
  m.model.layers[1].mlp.down_proj.adapters.push_back({"late", pruned_linear<float>{44, 32, {}, {}}});  // a slot that cannot be merged
  CHECK_THROWS_AS(prune(m), state_error);
  CHECK(test::equal_bits(output(m, batch), before));
  m.model.layers[1].mlp.down_proj.adapters.pop_back();
  prune(m);
  CHECK_THROWS_AS(prune(m), state_error);
  CHECK_THROWS_AS(merge_adapters(m), state_error);
}

TEST_CASE("several gated adapters in a slot multiply") {
  auto m = gated_bert<double>();
  const auto first = report_gates(m);
  attach(m, targets({"query"}), gated_options{}, {.name = "second", .seed = 5});
  visit_layers(m, [](std::string_view, adapted_linear<double>& layer) {
    if (layer.adapters.size() == 2) std::fill_n(layer.adapters[1].adapter.get<gated<double>>()->rows.value().begin(), 6, -2.0);
  });
  freeze(m);
  const auto report = check_pruned(m).gates;
  CHECK(report.layers[0].path == "encoder.layer.0.attention.self.query");
  CHECK(report.layers[0].open_rows < first.layers[0].open_rows);
  CHECK(report.layers[0].open_columns == first.layers[0].open_columns);
}

TEST_CASE("the loss of gated training is the task's plus the weighted mean penalty, from its first step on") {
  auto m = gated_llama<double>();
  const auto batch = test::random_batch({6});
  const auto losses = [&](std::uint64_t step, penalty_schedule schedule) {
    context ctx;
    tape<double> t(ctx, recording::off, {.step = step});
    const auto task = m.loss(t, batch);
    return std::pair(*task.value.data, *gated_loss(t, m, task, schedule).value.data);
  };
  double penalty = 0;
  visit_layers(m, [&](std::string_view, adapted_linear<double>& layer) {
    if (layer.adapters.empty()) return;
    const auto* g = layer.adapters[0].adapter.get<gated<double>>();
    for (const auto* u : {&g->rows, &g->columns}) {
      double mean = 0;
      for (const double v : u->value()) mean += open_probability(v, 0.5) / static_cast<double>(u->size());
      penalty += std::abs(mean - 0.6) / 2 / 14;
    }
  });
  const auto [early, unchanged] = losses(9, {.weight = 20, .start = 10});
  CHECK(early == unchanged);
  const auto [task, total] = losses(10, {.weight = 20, .start = 10});
  CHECK(std::abs(total - task - 20 * penalty) < 1e-12);
  CHECK_THROWS_WITH(losses(0, {.weight = -1}), "penalty_schedule: weight is -1, expected 0 or more");
}
