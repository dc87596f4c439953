// SPDX-License-Identifier: Apache-2.0
// The server's side of a round as a state machine without sockets: messages in, messages out. Read next: fed/client.hpp.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "graft/core/finite.hpp"
#include "graft/fed/aggregator.hpp"

namespace graft::fed {

struct server_options {
  index_t min_replies = 1;                  // a round with fewer leaves the state as it was
  std::uint64_t max_samples = 1u << 30;     // a reply that claims more is refused
};

struct round_result {
  std::uint64_t round = 0;
  bool applied = false;  // false: too few replies, the state is unchanged
  index_t accepted = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(refusal::count_)> refused{};  // this round's, by reason
  records<double> metrics;  // mean over accepted clients, weighted by samples, of every metric all of them reported

  std::uint64_t refused_in_all() const {
    std::uint64_t n = 0;
    for (const auto r : refused) n += r;
    return n;
  }
};

/// Holds the shared state, hands it out, takes replies and averages them by the rule A. Replies are checked here, once for
/// all rules: a bad one is refused with a counted reason and changes nothing. Shared state is float.
template <aggregator A>
class server {
 public:
  /// Throws option_error for bad options, dtype_error unless every array of the state is f32.
  server(A rule, state_dict state, server_options o = {}) : rule_(std::move(rule)), state_(std::move(state)), options_(o) {
    rule_.check();
    if (o.min_replies < 1) throw_error<option_error>("fed::server: min_replies is ", o.min_replies, ", expected 1 or more");
    for (const auto& [name, a] : state_.items)
      if (a.type != dtype::f32) throw_error<dtype_error>("fed::server: ", name, " is ", name_of(a.type), ", shared state is f32");
  }

  /// Opens a round. Throws state_error when one is open.
  broadcast begin_round() {
    if (open_) throw_error<state_error>("fed::server: round ", round_, " is still open");
    open_ = true;
    result_ = {};
    result_.round = round_;
    clients_.clear();
    reports_.clear();
    rule_.begin(state_);
    return {round_, state_};
  }

  /// Takes a reply, or says why not. Throws state_error when no round is open.
  std::optional<refusal> accept(const update& u) {
    if (!open_) throw_error<state_error>("fed::server: no round is open");
    auto reason = check(u);
    if (!reason) reason = rule_.accept(u);
    if (reason) return refuse(*reason);
    clients_.insert(std::ranges::lower_bound(clients_, u.client), u.client);
    reports_.push_back({u.client, u.samples, u.metrics});
    ++result_.accepted;
    return std::nullopt;
  }
  /// The same from bytes; what does not decode is refused as malformed.
  std::optional<refusal> accept(std::span<const std::byte> bytes, const codec& c) {
    if (!open_) throw_error<state_error>("fed::server: no round is open");
    update u;
    try {
      u = c.decode_update(bytes);
    } catch (const error&) {
      return refuse(refusal::malformed);
    }
    return accept(u);
  }

  /// Closes the round and applies the change, unless there were too few replies.
  round_result finish_round() {
    if (!open_) throw_error<state_error>("fed::server: no round is open");
    open_ = false;
    if (result_.accepted >= options_.min_replies) {
      apply(rule_.finish());
      result_.applied = true;
      result_.metrics = mean_metrics();
      ++round_;
    }
    return result_;
  }

  std::uint64_t round() const noexcept { return round_; }
  const state_dict& state() const noexcept { return state_; }

  /// Everything a new process needs to go on after the last finished round.
  state_dict checkpoint() const {
    if (open_) throw_error<state_error>("fed::server: round ", round_, " is still open");
    state_dict s = state_;
    std::erase_if(s.metadata, [](const auto& m) { return m.first == "round"; });  // the state may be a checkpoint itself
    s.metadata.emplace_back("round", std::to_string(round_));
    return s;
  }
  /// Goes on from a checkpoint of a server with the same state. Throws format_error when it is not one.
  void restore(const state_dict& s) {
    if (open_) throw_error<state_error>("fed::server: round ", round_, " is still open");
    const std::string* round = find(s.metadata, "round");
    std::uint64_t number = 0;
    const bool parsed = round != nullptr && !round->empty() && round->size() < 19 && std::ranges::all_of(*round, [](char c) { return c >= '0' && c <= '9'; });
    if (!parsed) throw_error<format_error>("fed::server: the checkpoint names no round");
    for (const char c : *round) number = number * 10 + static_cast<std::uint64_t>(c - '0');
    records<const array*> found;
    for (const auto& [name, a] : state_.items) {
      const array* other = find(s.items, name);
      if (other == nullptr || other->type != a.type || other->shape != a.shape)
        throw_error<format_error>("fed::server: the checkpoint has no ", name_of(a.type), " array ", name, " of shape ", to_string(a.shape));
      found.emplace_back(name, other);
    }
    for (std::size_t i = 0; i < found.size(); ++i) state_.items[i].second = *found[i].second;
    round_ = number;
  }

 private:
  std::optional<refusal> check(const update& u) const {
    if (u.round != round_) return refusal::wrong_round;
    if (std::ranges::binary_search(clients_, u.client)) return refusal::duplicate_client;
    if (u.samples == 0) return refusal::no_samples;
    if (u.samples > options_.max_samples) return refusal::too_many_samples;
    for (const auto& [name, a] : state_.items)
      if (find(u.delta, name) == nullptr) return refusal::missing_array;
    if (u.delta.size() != state_.items.size()) return refusal::unexpected_array;
    for (const auto& [name, a] : u.delta) {
      const array* own = find(state_.items, name);
      if (own == nullptr) return refusal::unexpected_array;
      if (a.shape != own->shape) return refusal::wrong_shape;
      if (a.type != dtype::f32) return refusal::wrong_type;
      if (a.bytes.size() != own->bytes.size()) return refusal::malformed;
      if (first_not_finite(a.type, a.bytes) >= 0) return refusal::not_finite;
    }
    return std::nullopt;
  }
  std::optional<refusal> refuse(refusal r) {
    ++result_.refused[static_cast<std::size_t>(r)];
    return r;
  }
  void apply(const records<array>& change) {
    for (auto& [name, a] : state_.items) {
      const array& d = *find(change, name);
      for (std::size_t i = 0; i < a.bytes.size(); i += sizeof(float)) {
        float x, dx;
        std::memcpy(&x, a.bytes.data() + i, sizeof x);
        std::memcpy(&dx, d.bytes.data() + i, sizeof dx);
        x += dx;
        std::memcpy(a.bytes.data() + i, &x, sizeof x);
      }
    }
  }
  records<double> mean_metrics() {
    std::ranges::sort(reports_, {}, &report::client);  // floating-point sums in an order that does not depend on arrival
    records<double> means;
    for (const auto& [name, unused] : reports_.front().metrics) {
      double sum = 0, weight = 0;
      bool everywhere = true;
      for (const report& r : reports_) {
        const double* v = find(r.metrics, name);
        everywhere = everywhere && v != nullptr;
        if (v == nullptr) break;
        sum += *v * static_cast<double>(r.samples);
        weight += static_cast<double>(r.samples);
      }
      if (everywhere) means.emplace_back(name, sum / weight);
    }
    return means;
  }

  struct report {
    client_id client;
    std::uint64_t samples;
    records<double> metrics;
  };
  A rule_;
  state_dict state_;
  server_options options_;
  std::uint64_t round_ = 0;
  bool open_ = false;
  round_result result_;
  std::vector<client_id> clients_;  // sorted
  std::vector<report> reports_;
};

}  // namespace graft::fed
