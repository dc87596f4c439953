// SPDX-License-Identifier: Apache-2.0
#include "graft/fed/simulation.hpp"

#include <limits>
#include <map>

#include "graft/core/thread_pool.hpp"
#include "graft/fed/client.hpp"
#include "graft/fed/fedavg.hpp"
#include "graft/io/update_codec.hpp"
#include "graft/optim/adamw.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/models.hpp"
#include "support/safetensors.hpp"

using namespace graft;
using fed::refusal;

namespace {

/// Takes the chunks from the last to the first: replies arrive the other way round.
struct backwards {
  static index_t concurrency() { return 1; }
  static void parallel_for(index_t n, index_t grain, function_ref<void(index_t, index_t)> body) {
    for (index_t first = (n - 1) / grain * grain; first >= 0; first -= grain) body(first, std::min(n, first + grain));
  }
};

/// Weighs every message it makes.
struct weighing : safetensors_codec {
  mutable std::mutex lock;
  mutable std::uint64_t down = 0, up = 0;
  mutable int broadcasts = 0;

  std::vector<std::byte> encode(const fed::broadcast& b) const override {
    auto bytes = safetensors_codec::encode(b);
    const std::lock_guard guard(lock);
    down += bytes.size();
    ++broadcasts;
    return bytes;
  }
  std::vector<std::byte> encode(const fed::update& u) const override {
    auto bytes = safetensors_codec::encode(u);
    const std::lock_guard guard(lock);
    up += bytes.size();
    return bytes;
  }
};

struct worker {
  llama<float> model;
  std::unique_ptr<context> ctx = std::make_unique<context>();
};

/// A small federation: every client has a sequence of its own and takes two steps on it.
struct federation {
  llama<float> model = test::small_llama<float>(1);
  fed::simulation_options options{.rounds = 3, .clients = 7};
  weighing codec;

  federation() { attach(model, targets({"q_proj", "down_proj"}), lora_options{.rank = 2}); }
  fed::server<fed::fedavg> server() { return {fed::fedavg{}, fed::shared_part(model)}; }

  fed::update train(worker& w, fed::client_id client, const fed::broadcast& b) const {
    return fed::answer(w.model, b, client, [&](llama<float>& m) {
      const auto batch = test::random_batch({5 + static_cast<index_t>(client)}, client);
      adamw<float> optimizer(trainable(m), {.lr = 1e-2});
      double loss = 0;
      for (int step = 0; step < 2; ++step) {
        tape<float> t(*w.ctx);
        const auto l = m.loss(t, batch);
        loss = static_cast<double>(*l.value.data);
        t.backward(l);
        optimizer.step(*w.ctx);
      }
      return fed::local_result{static_cast<std::uint64_t>(batch.tokens()), {{"loss", loss}}};
    });
  }
  template <class Run, class AfterRound>
  void run(executor_ref executor, fed::server<fed::fedavg>& s, Run change, AfterRound after) {
    fed::simulate(executor, s, codec, options, [&] { return worker{replicate(model)}; },
                  [&](worker& w, fed::client_id c, const fed::broadcast& b) { return change(train(w, c, b)); }, after);
  }
  /// The state's bytes, then its metrics, after all rounds.
  std::vector<std::byte> result(executor_ref executor) {
    auto s = server();
    std::string reports;
    run(executor, s, [](fed::update u) { return u; }, [&](const fed::simulated_round& r) {
      CHECK(r.result.accepted == (options.clients_per_round > 0 ? options.clients_per_round : options.clients));
      for (const auto& [name, v] : r.result.metrics) reports += std::to_string(v) + name;
    });
    auto bytes = to_safetensors(s.checkpoint());
    for (const char c : reports) bytes.push_back(static_cast<std::byte>(c));
    return bytes;
  }
};

}  // namespace

TEST_CASE("parallel clients over one frozen base give the same state on any number of threads and in any order", "[law]") {
  federation f;
  const auto expected = f.result({});
  CHECK(expected != to_safetensors(f.server().checkpoint()));
  backwards last_first;
  CHECK(f.result(last_first) == expected);
  for (const index_t threads : {2, 4}) {
    thread_pool pool(threads);
    CHECK(f.result(pool) == expected);
  }
  f.options.clients_per_round = 3;
  const auto some = f.result({});
  CHECK(some != expected);
  thread_pool pool(4);
  CHECK(f.result(pool) == some);
}

TEST_CASE("a simulation counts the bytes that a network would carry") {
  federation f;
  auto s = f.server();
  std::uint64_t up = 0, down = 0;
  thread_pool pool(3);
  f.run(pool, s, [](fed::update u) { return u; }, [&](const fed::simulated_round& r) {
    up += r.bytes_up;
    down += r.bytes_down;
    CHECK(r.bytes_up > 0);
  });
  CHECK(up == f.codec.up);
  CHECK(f.codec.broadcasts == 3);  // encoded once a round, sent to seven
  CHECK(down == 7 * f.codec.down);
}

TEST_CASE("a federation that was killed goes on from its checkpoint to the same end") {
  federation f;
  f.options.rounds = 5;
  const auto unchanged = [](fed::update u) { return u; };
  const auto nothing_more = [](const fed::simulated_round&) {};
  auto whole = f.server();
  f.run({}, whole, unchanged, nothing_more);

  const test::temporary_folder folder;
  const auto file = folder / "round.safetensors";
  struct killed {};
  {
    auto s = f.server();
    CHECK_THROWS_AS(f.run({}, s, unchanged,
                          [&](const fed::simulated_round& r) {
                            save_safetensors(file, s.checkpoint());
                            if (r.result.round == 1) throw killed{};
                          }),
                    killed);
  }
  const auto saved = load_safetensors(file);
  for (const bool from_checkpoint : {false, true}) {  // the state a new server starts with is the model's, or the checkpoint itself
    fed::server<fed::fedavg> s(fed::fedavg{}, from_checkpoint ? saved : fed::shared_part(f.model));
    s.restore(saved);
    CHECK(s.round() == 2);
    f.run({}, s, unchanged, [&](const fed::simulated_round&) { save_safetensors(folder / "again.safetensors", s.checkpoint()); });
    CHECK(s.round() == 5);
    for (const auto& [name, a] : whole.state().items) CHECK(test::same(a, *find(s.state().items, name)));
    CHECK(*find(load_safetensors(folder / "again.safetensors").metadata, "round") == "5");
  }
}

TEST_CASE("replies that cannot be used are counted by reason, and the others make the round") {
  federation f;
  f.options.rounds = 1, f.options.clients = 10;
  const auto poison = [](fed::update& u, float v) { std::memcpy(u.delta[1].second.bytes.data() + 4, &v, sizeof v); };
  const std::map<fed::client_id, std::pair<refusal, std::function<void(fed::update&)>>> bad{
      {0, {refusal::not_finite, [&](fed::update& u) { poison(u, std::numeric_limits<float>::quiet_NaN()); }}},
      {1, {refusal::not_finite, [&](fed::update& u) { poison(u, std::numeric_limits<float>::infinity()); }}},
      {2, {refusal::wrong_shape, [](fed::update& u) { std::ranges::reverse(u.delta[0].second.shape); }}},
      {3, {refusal::unexpected_array, [](fed::update& u) { u.delta.emplace_back("other", u.delta[0].second); }}},
      {4, {refusal::missing_array, [](fed::update& u) { u.delta.pop_back(); }}},
      {5, {refusal::duplicate_client, [](fed::update& u) { u.client = 9; }}},
      {6, {refusal::no_samples, [](fed::update& u) { u.samples = 0; }}},
      {7, {refusal::wrong_round, [](fed::update& u) { u.round = 1; }}},
      {8, {refusal::malformed, [](fed::update& u) { u.metrics[0].second = std::numeric_limits<double>::quiet_NaN(); }}},
  };
  backwards last_first;  // so that client 9 is there before the one that poses as it
  auto s = f.server();
  f.run(last_first, s, [&](fed::update u) {
    if (const auto b = bad.find(u.client); b != bad.end()) b->second.second(u);
    return u;
  }, [&](const fed::simulated_round& r) {
    CHECK(r.result.accepted == 1);
    CHECK(r.result.refused_in_all() == bad.size());
    std::map<refusal, std::uint64_t> expected;
    for (const auto& [client, b] : bad) ++expected[b.first];
    for (std::size_t i = 0; i < r.result.refused.size(); ++i) {
      INFO(name_of(static_cast<refusal>(i)));
      CHECK(r.result.refused[i] == expected[static_cast<refusal>(i)]);
    }
  });
  // What is left is client 9 alone.
  auto alone = f.server();
  worker w{replicate(f.model)};
  alone.begin_round();
  REQUIRE_FALSE(alone.accept(f.train(w, 9, {0, alone.state()})));
  alone.finish_round();
  CHECK(to_safetensors(s.checkpoint()) == to_safetensors(alone.checkpoint()));
}

TEST_CASE("a round in which every reply is refused ends the simulation with the state untouched") {
  federation f;
  auto s = f.server();
  const auto before = to_safetensors(s.checkpoint());
  CHECK_THROWS_WITH(f.run({}, s, [](fed::update u) { return u.samples = 0, u; }, [](const fed::simulated_round&) {}),
                    "simulate: round 0 got 0 usable replies");
  CHECK(to_safetensors(s.checkpoint()) == before);
  f.options.clients = 0;
  CHECK_THROWS_WITH(f.run({}, s, [](fed::update u) { return u; }, [](const fed::simulated_round&) {}), "simulate: clients is 0, expected 1 or more");
}

TEST_CASE("who takes part in a round follows from the seed and the round's number") {
  const fed::simulation_options o{.clients = 20, .clients_per_round = 6, .seed = 3};
  const auto drawn = fed::draw_clients(o, 4);
  CHECK(drawn.size() == 6);
  CHECK(std::ranges::is_sorted(drawn));
  CHECK(std::ranges::adjacent_find(drawn) == drawn.end());
  CHECK(drawn.back() < 20);
  CHECK(drawn == fed::draw_clients(o, 4));
  CHECK(drawn != fed::draw_clients(o, 5));
  std::vector<int> times(20);
  for (std::uint64_t round = 0; round < 1000; ++round)
    for (const auto c : fed::draw_clients(o, round)) ++times[c];
  for (const int n : times) CHECK(std::abs(n - 300) < 5 * std::sqrt(1000 * 0.3 * 0.7));
}
