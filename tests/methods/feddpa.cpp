// SPDX-License-Identifier: Apache-2.0
#include "graft/methods/feddpa.hpp"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <vector>

#include "graft/fed/fedavg.hpp"
#include "graft/fed/server.hpp"
#include "graft/ops/reduce.hpp"
#include "graft/optim/sgd.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

tensor<float, 2> rows_of(std::vector<std::vector<float>> rows) {
  tensor<float, 2> t({std::ssize(rows), std::ssize(rows.front())});
  for (index_t r = 0; r < t.shape()[0]; ++r)
    for (index_t c = 0; c < t.shape()[1]; ++c) t(r, c) = rows[static_cast<std::size_t>(r)][static_cast<std::size_t>(c)];
  return t;
}
instance_weights_result weights_of(const tensor<float, 2>& inputs, const tensor<float, 2>& references, const instance_weight_options& o) {
  return instance_weights<float>(inputs.view(), references.view(), o);
}

bool same(const state_dict& a, const state_dict& b) {
  return std::ranges::equal(a.items, b.items, [](const auto& x, const auto& y) { return x.first == y.first && x.second.bytes == y.second.bytes; });
}
array floats(std::vector<index_t> shape, const std::vector<float>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {dtype::f32, std::move(shape), {bytes.begin(), bytes.end()}};
}
std::vector<float> values(const array& a) {
  std::vector<float> v(a.bytes.size() / sizeof(float));
  std::memcpy(v.data(), a.bytes.data(), a.bytes.size());
  return v;
}

llama<float> dual_llama() {
  auto m = test::small_llama<float>(2);
  attach(m, targets({"q_proj", "v_proj"}), dual_options{.shared = {.rank = 2, .alpha = 4}, .local = {.rank = 2, .alpha = 4}});
  return m;
}

/// Moves everything that trains by 0.25 and notes what the model held in every phase.
struct recorder {
  struct phase {
    dual_phase which;
    state_dict base, shared, local;  // before training
    std::size_t trained;
  };
  std::vector<phase> phases;

  fed::local_result operator()(llama<float>& m, dual_phase p) {
    phases.push_back({p, save_state(m, tagged("base")), save_state(m, tagged("shared")), save_state(m, tagged("local")), trainable(m).size()});
    for (auto& q : trainable(m))
      for (float& v : q.parameter->value()) v += 0.25f;
    return {7, {}};
  }
};

/// One linear layer, frozen, with a dual adapter.
struct toy {
  using value_type = float;
  adapted_linear<float> layer{6, 4};
  static void visit(auto& self, auto& v) { v("layer", self.layer); }

  toy() {
    layer.weight = parameter<float, 2>(test::random_tensor<float, 2>({4, 6}, 1));
    attach(*this, all_linear(), dual_options{.shared = {.rank = 2, .alpha = 2}, .local = {.rank = 2, .alpha = 2}, .local_weight = std::nullopt});
  }
};

/// A client's task: the toy's own map changed by a part that all clients share and one of its own; its inputs lie about a centre of their own.
struct task {
  tensor<float, 2> x, y;
  task(const toy& model, fed::client_id client, std::uint64_t draw) : x({64, 6}), y({64, 4}) {
    const auto common = test::random_tensor<float, 2>({2, 6}, 50), own = test::random_tensor<float, 2>({2, 6}, 60 + client);
    random_stream random = random_stream(draw).substream(client);
    for (index_t n = 0; n < 64; ++n) {
      for (index_t i = 0; i < 6; ++i) x(n, i) = static_cast<float>(random.normal() + (i == static_cast<index_t>(client) ? 3.0 : 0.0));
      for (index_t o = 0; o < 4; ++o) {
        y(n, o) = 0;
        for (index_t i = 0; i < 6; ++i)
          y(n, o) += x(n, i) * (model.layer.weight.view()(o, i) + (o % 2 == 0 ? 1.0f : -0.5f) * common(0, i) + (o < 2 ? 0.8f : -0.4f) * own(1, i));
      }
    }
  }
};

double error_of(toy& model, const task& data, double local_weight) {
  context ctx;
  tape<float> t(ctx, recording::off, {.local_weights = {&local_weight, 1}});
  return static_cast<double>(mean_squared_error(t, model.layer(t, t.constant(data.x.view())), data.y.view()).item());
}

auto train_on(const task& data) {
  return [&data](toy& m, dual_phase) {
    context ctx;
    sgd<float> optimizer(trainable(m), {.lr = 0.02});
    for (int step = 0; step < 60; ++step) {
      tape<float> t(ctx, recording::on, {.training = true});
      t.backward(mean_squared_error(t, m.layer(t, t.constant(data.x.view())), data.y.view()));
      optimizer.step(ctx);
    }
    return fed::local_result{64, {}};
  };
}

}  // namespace

TEST_CASE("the worked example of instance weights") {
  const auto inputs = rows_of({{1, 0, 1, 0}, {-1, 0, 0, 0}});
  const auto references = rows_of({{1, 0, 0, 0}, {1, 0, 1, 1}, {0, 1, -1, 0}});
  const auto half = weights_of(inputs, references, {}), whole = weights_of(inputs, references, {.scaling = 1});
  REQUIRE(half.weights.size() == 2);
  CHECK(half.weights[0] == Approx(0.17060056).margin(5e-9));
  CHECK(whole.weights[0] == Approx(0.34120112).margin(5e-9));
  CHECK(half.weights[1] == 0);  // clamped
  CHECK(half.without_direction == 0);
  const double cosines[] = {0.70710678, 0.81649658, -0.5};  // one by one; the negative one against the reference turned round
  for (std::size_t r = 0; r < 3; ++r) {
    tensor<float, 2> reference({1, 4}), input({1, 4});
    for (index_t i = 0; i < 4; ++i) {
      reference(0, i) = (cosines[r] < 0 ? -1.0f : 1.0f) * references(static_cast<index_t>(r), i);
      input(0, i) = inputs(0, i);
    }
    CHECK(weights_of(input, reference, {.scaling = 1}).weights[0] == Approx(std::abs(cosines[r])).margin(5e-9));
  }
  auto turned = rows_of({{1, 0, 0, 0}});  // (-1, 0, 0, 0) turned round: what was clamped
  CHECK(weights_of(turned, references, {}).weights[0] == Approx(0.26289171).margin(5e-9));
  CHECK(weights_of(turned, references, {.scaling = 1}).weights[0] == Approx(0.52578342).margin(5e-9));
  const auto released = weights_of(inputs, references, {.drives = similarity_drives::global});
  CHECK(released.weights[0] == Approx(1 - 0.17060056).margin(5e-9));
  CHECK(released.weights[1] == 1);
}

TEST_CASE("embeddings without a direction count as similarity 0, and are counted") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const auto inputs = rows_of({{1, 0}, {0, 0}, {nan, 1}, {1, infinity}});
  const auto result = weights_of(inputs, rows_of({{1, 0}, {0, 0}, {nan, 0}, {2, 0}}), {.scaling = 1});
  CHECK(result.weights == std::vector<double>{0.5, 0, 0, 0});
  CHECK(result.without_direction == 3 + 2);
}

TEST_CASE("references are drawn once, all of them when there are no more") {
  CHECK(draw_references(3, {}, random_stream(1)) == std::vector<index_t>{0, 1, 2});
  const auto five = draw_references(100, {}, random_stream(1));
  CHECK(five.size() == 5);
  CHECK(std::ranges::adjacent_find(five, std::greater_equal<>{}) == five.end());
  CHECK(five == draw_references(100, {}, random_stream(1)));
  CHECK(five != draw_references(100, {}, random_stream(2)));
  CHECK(draw_references(0, {.fallback = 0.25}, random_stream(1)).empty());
  CHECK_THROWS_WITH(draw_references(0, {}, random_stream(1)), "feddpa: there are 0 training prompts to draw references from, expected 1 or more, or a fallback");
  CHECK_THROWS_WITH(draw_references(9, {.references = 0}, random_stream(1)), "feddpa: references is 0, expected 1 or more, or a fallback");
  CHECK(draw_references(9, {.references = 0, .fallback = 0.25}, random_stream(1)).empty());

  const auto input = rows_of({{1, 0}, {0, 1}});
  const tensor<float, 2> none({0, 2});
  CHECK(weights_of(input, none, {.fallback = 0.25}).weights == std::vector<double>{0.25, 0.25});
  CHECK_THROWS_WITH(weights_of(input, none, {}), "feddpa: there are 0 references, expected 1 or more, or a fallback");
  CHECK_THROWS_WITH(weights_of(input, input, {.scaling = 1.5}), "feddpa: scaling is 1.5, expected 0 to 1");
  CHECK_THROWS_WITH(weights_of(input, input, {.fallback = -1.0}), "feddpa: fallback is -1, expected 0 to 1");
  CHECK_THROWS_WITH(weights_of(input, input, {.references = -1}), "feddpa: references is -1, expected 0 or more");
  CHECK_THROWS_AS(weights_of(input, rows_of({{1, 0, 0}}), {}), shape_error);
}

TEST_CASE("a prompt's embedding is its own last hidden state or its mean, by the local branch") {
  auto model = dual_llama();
  unfreeze(model, either(tagged("shared"), tagged("local")));
  test::disturb_adapters(model);
  const auto prompts = test::random_batch({5, 1, 8});
  context ctx;
  CHECK_THROWS_WITH(embed_prompts(ctx, model, prompts), "embed_prompts: the adapter of model.layers.0.self_attn.q_proj is in phase train_shared, expected mixed");
  set_phase(model, dual_phase::mixed);
  const auto last = embed_prompts(ctx, model, prompts), mean = embed_prompts(ctx, model, prompts, prompt_embedding::mean);
  const auto shared_last = embed_prompts(ctx, model, prompts, prompt_embedding::last, 0);
  set_phase(model, dual_phase::local_alone);
  tape<float> t(ctx, recording::off);
  const auto h = model.hidden(t, prompts).value.clone();
  for (index_t s = 0; s < 3; ++s) {
    const index_t first = prompts.offsets[static_cast<std::size_t>(s)], end = prompts.offsets[static_cast<std::size_t>(s) + 1];
    CHECK(test::equal_bits(last.row(s), h.row(end - 1)));
    CHECK_FALSE(test::near(shared_last.row(s), h.row(end - 1), 1e-3));
    for (index_t c = 0; c < 32; ++c) {
      double sum = 0;
      for (index_t r = first; r < end; ++r) sum += static_cast<double>(h(r, c));
      REQUIRE(static_cast<double>(mean(s, c)) == Approx(sum / static_cast<double>(end - first)).margin(1e-5));
    }
  }
  set_phase(model, dual_phase::mixed);
  auto empty = prompts;
  empty.add({});
  CHECK_THROWS_WITH(embed_prompts(ctx, model, empty), "embed_prompts: sequence 3 has no tokens");
}

TEST_CASE("in every phase of a FedDPA-T round only the right part changes, and only the shared change leaves") {
  for (const auto order : {local_phase::before_global, local_phase::after_global}) {
    auto model = dual_llama();
    const auto base = save_state(model, tagged("base"));
    fed::server server(fed::fedavg({.weights = fed::weighting::uniform}), fed::shared_part(model));
    state_dict local;
    for (std::uint64_t round = 0; round < 3; ++round) {
      const auto received = server.begin_round();
      const auto kept = local;
      recorder record;
      const auto u = feddpa_t_round(model, received, 3, local, std::ref(record), {.order = order});
      const bool before = order == local_phase::before_global, has_local = !before || round > 0;
      REQUIRE(record.phases.size() == (has_local ? 2u : 1u));
      const auto& global = record.phases[has_local && before ? 1 : 0];
      CHECK(global.which == dual_phase::train_shared);
      CHECK(global.trained == 8);
      CHECK(same(global.shared, received.state));  // as received, though a local phase went before
      CHECK(u.delta.size() == 8);
      for (const auto& [name, a] : u.delta) {
        CHECK(name.find(".shared.") != name.npos);
        for (const float v : values(a)) REQUIRE(v == Approx(0.25f));
      }
      if (has_local) {
        const auto& own = record.phases[before ? 0 : 1];
        CHECK(own.which == dual_phase::train_local);
        CHECK(own.trained == 8);
        CHECK(same(own.shared, received.state) == before);  // beside what came, or beside what was just trained
        if (!kept.items.empty()) CHECK(same(own.local, kept));
        REQUIRE(local.items.size() == 8);
        for (std::size_t i = 0; i < 8; ++i)
          for (std::size_t j = 0; j < values(local.items[i].second).size(); ++j)
            REQUIRE(values(local.items[i].second)[j] == values(own.local.items[i].second)[j] + 0.25f);
      } else {
        CHECK(local.items.empty());
      }
      CHECK(same(save_state(model, tagged("base")), base));
      CHECK_FALSE(server.accept(u).has_value());
      server.finish_round();
    }
  }
}

TEST_CASE("a client resumes its own local branch after rounds without it, and a failed round changes nothing") {
  auto model = dual_llama();
  auto shared = fed::shared_part(model);
  std::map<fed::client_id, state_dict> local;
  std::map<fed::client_id, std::vector<state_dict>> began;
  const std::vector<std::vector<fed::client_id>> rounds{{1, 2}, {1, 2}, {2}, {2}, {1, 2}};
  for (std::uint64_t r = 0; r < rounds.size(); ++r)
    for (const auto c : rounds[r]) {
      const auto before = local[c];
      recorder record;
      feddpa_t_round(model, {r, shared}, c, local[c], std::ref(record));
      if (r == 0) continue;
      began[c].push_back(record.phases[0].local);
      if (!before.items.empty()) CHECK(same(began[c].back(), before));
    }
  CHECK(began[1].size() == 2);
  CHECK(began[2].size() == 4);
  CHECK_FALSE(same(began[1][0], began[2][0]));  // each client's first values are its own
  for (const auto& [name, a] : began[1][0].items)  // random A, zero B
    CHECK(std::ranges::all_of(values(a), [](float v) { return v == 0; }) == (name.find("lora_B") != name.npos));
  CHECK(std::ranges::all_of(values(local[1].items[1].second), [](float v) { return v == 0.5f; }));
  CHECK(std::ranges::all_of(values(local[2].items[1].second), [](float v) { return v == 1.0f; }));

  const auto kept = local[1];
  int calls = 0;
  CHECK_THROWS_AS(feddpa_t_round(model, {5, shared}, 1, local[1], [&](llama<float>& m, dual_phase p) {
    if (++calls == 2) throw_error<state_error>("stopped");
    return recorder{}(m, p);
  }), state_error);
  CHECK(calls == 2);
  CHECK(same(local[1], kept));
}

TEST_CASE("FedDPA-F trains the shared branch, then tunes a copy of it alone") {
  auto model = dual_llama();
  auto shared = fed::shared_part(model);
  recorder record;
  const auto u = feddpa_f_round(model, {4, shared}, 2, std::ref(record));
  REQUIRE(record.phases.size() == 1);
  CHECK(record.phases[0].which == dual_phase::train_shared);
  CHECK(same(record.phases[0].shared, shared));
  CHECK(u.delta.size() == 8);
  CHECK(u.samples == 7);

  const auto local = feddpa_f_tune(model, shared, std::ref(record));
  REQUIRE(record.phases.size() == 2);
  CHECK(record.phases[1].which == dual_phase::local_alone);
  CHECK(record.phases[1].trained == 8);
  REQUIRE(local.items.size() == 8);
  for (std::size_t i = 0; i < 8; ++i) {
    CHECK(local.items[i].first.find(".local.") != std::string::npos);
    CHECK(record.phases[1].local.items[i].second.bytes == shared.items[i].second.bytes);
    REQUIRE(values(local.items[i].second)[0] == values(shared.items[i].second)[0] + 0.25f);
  }
  CHECK(same(save_state(model, tagged("shared")), shared));
  for (auto& p : trainable(model)) std::ranges::fill(p.parameter->value(), 9.0f);
  load_personal(model, shared, local);
  CHECK(same(save_state(model, tagged("local")), local));
  CHECK(trainable(model).empty());
  CHECK_THROWS_AS(load_personal(model, local, shared), format_error);
}

TEST_CASE("a server refuses a reply that holds local arrays, and averages factors by themselves") {
  state_dict start;
  start.items = {{"l.adapters.d.shared.lora_A.weight", floats({1, 2}, {0, 0})}, {"l.adapters.d.shared.lora_B.weight", floats({2, 1}, {0, 0})}};
  const auto reply = [&](fed::client_id c, std::uint64_t samples, std::vector<float> a, std::vector<float> b) {
    return fed::update{0, c, samples, {{start.items[0].first, floats({1, 2}, a)}, {start.items[1].first, floats({2, 1}, b)}}, {}};
  };
  for (const bool by_samples : {false, true}) {
    fed::server server(fed::fedavg({.weights = by_samples ? fed::weighting::samples : fed::weighting::uniform}), start);
    server.begin_round();
    auto leaky = reply(9, 5, {7, 7}, {7, 7});
    leaky.delta.emplace_back("l.adapters.d.local.lora_A.weight", floats({1, 2}, {1, 1}));
    CHECK(server.accept(leaky) == fed::refusal::unexpected_array);
    auto instead = reply(9, 5, {7, 7}, {7, 7});
    instead.delta[0].first = "l.adapters.d.local.lora_A.weight";
    CHECK(server.accept(instead) == fed::refusal::missing_array);
    CHECK_FALSE(server.accept(reply(1, 1, {1, 0}, {2, 0})).has_value());
    CHECK_FALSE(server.accept(reply(2, 3, {0, 1}, {0, 4})).has_value());
    CHECK(server.finish_round().refused_in_all() == 2);
    const auto a = values(server.state().items[0].second), b = values(server.state().items[1].second);
    CHECK(a == (by_samples ? std::vector<float>{0.25f, 0.75f} : std::vector<float>{0.5f, 0.5f}));
    CHECK(b == (by_samples ? std::vector<float>{0.5f, 3} : std::vector<float>{1, 2}));
  }
}

TEST_CASE("on a toy federation the local branch is better at home, the shared one abroad, and similarity tells which") {
  constexpr fed::client_id clients = 4;
  toy model;
  std::vector<task> train, test;
  for (fed::client_id c = 0; c < clients; ++c) {
    train.emplace_back(model, c, 1);
    test.emplace_back(model, c, 2);
  }
  const auto start = fed::shared_part(model);
  for (const bool iterative : {false, true}) {
    fed::server server(fed::fedavg({.weights = fed::weighting::uniform}), start);
    std::vector<state_dict> local(clients);
    while (server.round() < 12) {
      const auto b = server.begin_round();
      for (fed::client_id c = 0; c < clients; ++c)
        REQUIRE_FALSE(server.accept(iterative ? feddpa_t_round(model, b, c, local[c], train_on(train[c])) : feddpa_f_round(model, b, c, train_on(train[c]))).has_value());
      server.finish_round();
    }
    const double personal = iterative ? 0.5 : 1;  // how the local branch was trained
    for (fed::client_id c = 0; c < clients; ++c) {
      if (!iterative) local[c] = feddpa_f_tune(model, server.state(), train_on(train[c]));
      load_personal(model, server.state(), local[c]);
      double local_abroad = 0, shared_abroad = 0;
      for (fed::client_id other = 0; other < clients; ++other) {
        if (other == c) continue;
        local_abroad += error_of(model, test[other], personal);
        shared_abroad += error_of(model, test[other], 0);
      }
      INFO("client " << c << (iterative ? ", iterative" : ", sequential") << ", at home " << error_of(model, test[c], personal) << " and " << error_of(model, test[c], 0)
                     << ", abroad " << local_abroad << " and " << shared_abroad);
      CHECK(error_of(model, test[c], personal) < error_of(model, test[c], 0));
      CHECK(shared_abroad < local_abroad);

      const auto references = tensor<float, 2>::copy_of(train[c].x.slice(0, 0, 5));
      const auto mean_weight = [&](const task& of) {
        const auto w = weights_of(of.x, references, {.scaling = 1}).weights;
        return std::accumulate(w.begin(), w.end(), 0.0) / static_cast<double>(w.size());
      };
      for (fed::client_id other = 0; other < clients; ++other)
        if (other != c) CHECK(mean_weight(test[c]) > mean_weight(test[other]));
    }
  }
}
