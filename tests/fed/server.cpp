// SPDX-License-Identifier: Apache-2.0
#include "graft/fed/server.hpp"

#include <limits>

#include "graft/core/random.hpp"
#include "graft/fed/fedavg.hpp"
#include "support/catch.hpp"

using namespace graft;
using fed::refusal;

namespace {

array values(std::vector<float> v) {
  return to_array<float, 1>(tensor_view<const float, 1>(v.data(), {static_cast<index_t>(v.size())}));
}
std::vector<float> numbers(const array& a) {
  std::vector<float> v(a.bytes.size() / sizeof(float));
  std::memcpy(v.data(), a.bytes.data(), a.bytes.size());
  return v;
}
state_dict start() { return {{{"w", values({1, -2})}, {"b", values({0})}}, {}}; }
fed::update reply(std::uint64_t round, fed::client_id client, std::uint64_t samples, std::vector<float> w, float b = 0) {
  return {round, client, samples, {{"w", values(std::move(w))}, {"b", values({b})}}, {{"loss", static_cast<double>(client)}}};
}

}  // namespace

TEST_CASE("fedavg gives the published example") {  // x=[1,-2], y1=[2,-1] n=1, y2=[0,-4] n=3
  fed::server server(fed::fedavg{}, start());
  server.begin_round();
  CHECK_FALSE(server.accept(reply(0, 1, 1, {1, 1})));
  CHECK_FALSE(server.accept(reply(0, 2, 3, {-1, -2})));
  const auto result = server.finish_round();
  CHECK(result.applied);
  CHECK(result.accepted == 2);
  CHECK(numbers(server.state().items[0].second) == std::vector<float>{0.5f, -3.25f});
  CHECK(*find(result.metrics, "loss") == Approx(1.75));
  CHECK(server.round() == 1);
}

TEST_CASE("uniform weights count every client alike") {
  fed::server server(fed::fedavg({.weights = fed::weighting::uniform}), start());
  server.begin_round();
  server.accept(reply(0, 1, 1, {1, 1}));
  server.accept(reply(0, 2, 3, {-1, -2}));
  server.finish_round();
  CHECK(numbers(server.state().items[0].second) == std::vector<float>{1.0f, -2.5f});
}

TEST_CASE("the result does not depend on the order of arrival, to the bit") {
  random_stream random(3);
  std::vector<fed::update> replies;
  for (fed::client_id c = 0; c < 40; ++c)
    replies.push_back(reply(0, c, 1 + random.below(1000), {static_cast<float>(random.normal() * 1e-3), static_cast<float>(random.normal() * 1e3)},
                            static_cast<float>(random.normal())));
  std::vector<float> expected;
  for (int order = 0; order < 10; ++order) {
    fed::server server(fed::fedavg{}, start());
    server.begin_round();
    for (const auto& u : replies) REQUIRE_FALSE(server.accept(u));
    const auto metrics = server.finish_round().metrics;
    auto got = numbers(server.state().items[0].second);
    got.push_back(numbers(server.state().items[1].second)[0]);
    got.push_back(static_cast<float>(metrics[0].second));
    if (order == 0) expected = got;
    CHECK(got == expected);
    random.shuffle(std::span(replies));
  }
}

TEST_CASE("bad replies are refused with a counted reason and change nothing") {
  fed::server server(fed::fedavg{}, start(), {.max_samples = 100});
  server.begin_round();
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  CHECK_FALSE(server.accept(reply(0, 1, 10, {1, 1})));

  auto missing = reply(0, 2, 10, {1, 1}), extra = missing, renamed = missing, reshaped = missing, retyped = missing, short_bytes = missing;
  missing.delta.pop_back();
  extra.delta.emplace_back("c", values({1}));
  renamed.delta[1].first = "c";
  reshaped.delta[0].second = values({1, 1, 1});
  retyped.delta[0].second.type = dtype::i32;
  short_bytes.delta[0].second.bytes.resize(4);
  const std::vector<std::pair<fed::update, refusal>> bad{
      {reply(1, 2, 10, {1, 1}), refusal::wrong_round},     {reply(0, 1, 10, {1, 1}), refusal::duplicate_client},
      {reply(0, 2, 0, {1, 1}), refusal::no_samples},       {reply(0, 2, 101, {1, 1}), refusal::too_many_samples},
      {missing, refusal::missing_array},                   {extra, refusal::unexpected_array},
      {renamed, refusal::missing_array},                   {reshaped, refusal::wrong_shape},
      {retyped, refusal::wrong_type},                      {short_bytes, refusal::malformed},
      {reply(0, 2, 10, {1, nan}), refusal::not_finite},    {reply(0, 2, 10, {inf, 1}), refusal::not_finite},
      {reply(0, 2, 10, {1, 0x1p24f}), refusal::too_large},
  };
  for (const auto& [u, reason] : bad) {
    const auto got = server.accept(u);
    INFO(name_of(reason));
    REQUIRE(got);
    CHECK(*got == reason);
  }
  CHECK_FALSE(server.accept(reply(0, 2, 10, {3, 3})));
  const auto result = server.finish_round();
  CHECK(result.refused_in_all() == bad.size());
  CHECK(result.refused[static_cast<std::size_t>(refusal::not_finite)] == 2);
  CHECK(result.accepted == 2);
  CHECK(numbers(server.state().items[0].second) == std::vector<float>{3, 0});
}

TEST_CASE("a round with too few replies leaves everything as it was") {
  fed::server server(fed::fedavg{}, start(), {.min_replies = 2});
  server.begin_round();
  CHECK_THROWS_AS(server.begin_round(), state_error);
  server.accept(reply(0, 1, 10, {1, 1}));
  CHECK_FALSE(server.finish_round().applied);
  CHECK(server.round() == 0);
  CHECK(numbers(server.state().items[0].second) == std::vector<float>{1, -2});
  CHECK_THROWS_AS(server.accept(reply(0, 1, 10, {1, 1})), state_error);
}

TEST_CASE("a server goes on from its checkpoint, and from nothing else") {
  fed::server a(fed::fedavg{}, start());
  a.begin_round();
  a.accept(reply(0, 1, 1, {1, 1}));
  a.finish_round();
  fed::server b(fed::fedavg{}, start());
  b.restore(a.checkpoint());
  CHECK(b.round() == 1);
  CHECK(numbers(b.state().items[0].second) == numbers(a.state().items[0].second));
  auto bad = a.checkpoint();
  bad.metadata.back().second = "12x";
  CHECK_THROWS_AS(b.restore(bad), format_error);
  bad = a.checkpoint();
  bad.items[0].second.shape = {1, 2};
  CHECK_THROWS_WITH(b.restore(bad), "fed::server: the checkpoint has no f32 array w of shape (2)");
  CHECK(b.round() == 1);
}

