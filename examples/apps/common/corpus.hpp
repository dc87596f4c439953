// SPDX-License-Identifier: Apache-2.0
// Token ids as training windows and held-out scores. Read next: ../finetune.cpp.
#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "app.hpp"
#include "graft/autograd/tape.hpp"
#include "graft/core/random.hpp"
#include "graft/nn/batch.hpp"

namespace app {

using graft::index_t;
using ids = std::vector<std::int32_t>;
using ids_view = std::span<const std::int32_t>;

/// Adds windows drawn at random, a function of (seed, step): the same for every way of training they are used for.
inline void add_windows(ids_view tokens, index_t sequence, index_t count, std::uint64_t seed, std::uint64_t step, graft::token_batch& batch) {
  const auto length = std::min<std::size_t>(static_cast<std::size_t>(sequence), tokens.size());
  auto random = graft::random_stream(seed).substream("windows").substream(step);
  for (index_t i = 0; i < count; ++i) {
    const auto first = static_cast<std::size_t>(random.below(tokens.size() - length + 1));
    batch.add_with_next_labels(tokens.subspan(first, length));
  }
}

struct score {
  double nll = 0;  // mean over scored tokens, in nats
  index_t tokens = 0;
};

/// The mean next-token negative log-likelihood over disjoint windows: all tokens of a window but the first are scored, in the
/// last, short window too. `limit` bounds the scored tokens; 0: all.
template <class M>
score evaluate(graft::context& ctx, M& model, ids_view tokens, index_t sequence, index_t limit = 0, progress* p = nullptr) {
  constexpr index_t together = 8;  // windows a pass
  score s;
  double sum = 0;
  graft::token_batch batch;
  index_t pending = 0;
  const auto flush = [&] {
    if (pending == 0) return;
    graft::tape<typename M::value_type> t(ctx, graft::recording::off);
    sum += static_cast<double>(model.loss(t, batch).item()) * static_cast<double>(pending);
    s.tokens += pending;
    pending = 0;
    batch.clear();
    if (p != nullptr) p->at(static_cast<double>(s.tokens));
  };
  for (std::size_t first = 0; first + 1 < tokens.size(); first += static_cast<std::size_t>(sequence)) {
    const index_t scored_before = s.tokens + pending;
    if (limit > 0 && scored_before >= limit) break;
    auto window = tokens.subspan(first, std::min<std::size_t>(static_cast<std::size_t>(sequence), tokens.size() - first));
    if (limit > 0) window = window.first(std::min(window.size(), static_cast<std::size_t>(limit - scored_before) + 1));
    if (window.size() < 2) break;
    batch.add_with_next_labels(window);
    pending += static_cast<index_t>(window.size()) - 1;
    if (batch.sequences() == together) flush();
  }
  flush();
  if (s.tokens > 0) s.nll = sum / static_cast<double>(s.tokens);
  return s;
}

}  // namespace app
