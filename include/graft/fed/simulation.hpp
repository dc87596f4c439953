// SPDX-License-Identifier: Apache-2.0
// A federation in one process: clients in parallel, every message really encoded. Read next: examples/apps/federate.cpp.
#pragma once
#include <algorithm>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "graft/core/executor.hpp"
#include "graft/core/random.hpp"
#include "graft/core/worker_list.hpp"
#include "graft/fed/server.hpp"

namespace graft::fed {

struct simulation_options {
  std::uint64_t rounds = 10;        // in all, those of an earlier process that was resumed included
  index_t clients = 16;
  index_t clients_per_round = 0;    // drawn anew every round from the seed; 0: all
  std::uint64_t seed = 0;
};

/// A round as it went, with what it cost on the wire.
struct simulated_round {
  round_result result;
  std::uint64_t bytes_down = 0, bytes_up = 0;  // all clients together
};

/// The clients that take part in a round: a function of the seed and the round's number.
inline std::vector<client_id> draw_clients(const simulation_options& o, std::uint64_t round) {
  std::vector<client_id> all(static_cast<std::size_t>(o.clients));
  std::iota(all.begin(), all.end(), client_id{0});
  if (o.clients_per_round > 0 && o.clients_per_round < o.clients) {
    random_stream(o.seed).substream("clients").substream(round).shuffle(std::span(all));
    all.resize(static_cast<std::size_t>(o.clients_per_round));
    std::ranges::sort(all);
  }
  return all;
}

/// Runs rounds until server.round() reaches options.rounds; a server restored from a checkpoint goes on where it stood.
/// make_worker() gives what one thread needs, a replica of the model and a context; at most executor.concurrency() exist.
/// run(worker, client, broadcast) -> update trains one client. Messages pass through the codec both ways, so byte counts are
/// what a network would carry. after_round(simulated_round) sees every round, with the server between rounds: the place to
/// save a checkpoint. Results do not depend on the number of threads. Throws state_error when a round fails for want of replies.
template <aggregator A, class MakeWorker, class Run, class AfterRound>
void simulate(executor_ref executor, server<A>& server, const codec& codec, const simulation_options& o, MakeWorker make_worker, Run run,
              AfterRound after_round) {
  if (o.clients < 1) throw_error<option_error>("simulate: clients is ", o.clients, ", expected 1 or more");
  using worker = decltype(make_worker());
  worker_list<worker> workers;
  std::mutex lock;
  while (server.round() < o.rounds) {
    simulated_round r;
    const std::vector<std::byte> down = codec.encode(server.begin_round());
    const auto clients = draw_clients(o, server.round());
    executor.parallel_for(static_cast<index_t>(clients.size()), 1, [&](index_t i, index_t) {
      const auto w = workers.take(make_worker);
      const std::vector<std::byte> up = codec.encode(run(*w, clients[static_cast<std::size_t>(i)], codec.decode_broadcast(down)));
      const std::lock_guard guard(lock);
      r.bytes_down += down.size();
      r.bytes_up += up.size();
      server.accept(std::span(up), codec);
    });
    r.result = server.finish_round();
    if (!r.result.applied) throw_error<state_error>("simulate: round ", r.result.round, " got ", r.result.accepted, " usable replies");
    after_round(std::as_const(r));
  }
}

}  // namespace graft::fed
