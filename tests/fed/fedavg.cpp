// SPDX-License-Identifier: Apache-2.0
#include "graft/fed/fedavg.hpp"

#include "graft/core/random.hpp"
#include "graft/fed/server.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace graft;

namespace {

array values(std::span<const float> v) { return to_array<float, 1>(tensor_view<const float, 1>(v.data(), {std::ssize(v)})); }
state_dict state_of(index_t n) {
  const std::vector<float> zeros(static_cast<std::size_t>(n));
  return {{{"w", values(zeros)}, {"b", values(std::span(zeros).first(1))}}, {}};
}

}  // namespace

TEST_CASE("the mean of a thousand clients is the exact mean, rounded once") {
  constexpr index_t n = 50;
  fed::fedavg rule;
  rule.begin(state_of(n));
  random_stream random(1);
  std::vector<double> exact(n);
  double weight = 0;
  for (fed::client_id c = 0; c < 1000; ++c) {
    std::vector<float> v(n);
    fed::update u{0, c, 1 + random.below(100), {}, {}};
    for (std::size_t i = 0; i < v.size(); ++i) {
      v[i] = static_cast<float>(static_cast<double>(random.below(2001)) - 1000) / 1024;  // so that sums are exact in double as well
      exact[i] += static_cast<double>(v[i]) * static_cast<double>(u.samples);
    }
    weight += static_cast<double>(u.samples);
    u.delta = {{"w", values(v)}, {"b", values(std::span(v).first(1))}};
    REQUIRE_FALSE(rule.accept(u));
  }
  const auto mean = rule.finish();
  std::vector<float> got(n);
  std::memcpy(got.data(), mean[0].second.bytes.data(), mean[0].second.bytes.size());
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == static_cast<float>(exact[i] / weight));
}

TEST_CASE("a thousand replies cost the memory of the sums alone", "[law]") {
  const state_dict state = state_of(20'000);
  fed::update u{0, 0, 3, state.items, {}};
  fed::fedavg rule;
  rule.begin(state);
  std::size_t before = test::allocations();
  for (u.client = 0; u.client < 1000; ++u.client) rule.accept(u);
  CHECK(test::allocations() == before);

  fed::server server(fed::fedavg{}, state);
  server.begin_round();
  before = test::allocations();
  for (u.client = 0; u.client < 1000; ++u.client) REQUIRE_FALSE(server.accept(u));
  CHECK(test::allocations() - before <= 2 * 11);  // who replied, and with how many samples: two lists that double eleven times
  CHECK(server.finish_round().accepted == 1000);
}

TEST_CASE("weights beyond what a sum can hold are refused, and the sum is as it was") {
  const state_dict state = state_of(3);
  fed::fedavg rule;
  rule.begin(state);
  std::vector<float> ones(3, 1.0f);
  fed::update u{0, 1, std::uint64_t{1} << 46, {{"w", values(ones)}, {"b", values(std::span(ones).first(1))}}, {}};
  CHECK_FALSE(rule.accept(u));
  u.samples = 1;
  CHECK(rule.accept(u) == fed::refusal::too_many_samples);
  float first = 0;
  std::memcpy(&first, rule.finish()[0].second.bytes.data(), sizeof first);
  CHECK(first == 1);
}
