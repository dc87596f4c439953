// SPDX-License-Identifier: Apache-2.0
// The client's side of a round: take the shared state in, train, give the change back. Read next: fed/simulation.hpp.
#pragma once
#include <cstring>
#include <utility>

#include "graft/fed/message.hpp"
#include "graft/nn/state.hpp"

namespace graft::fed {

/// What local training reports.
struct local_result {
  std::uint64_t samples = 0;  // that were learned from: the weight of the reply
  records<double> metrics;
};

/// The part of a model that is federated, as the server starts with it: trainable parameters unless the filter says else.
template <module M>
state_dict shared_part(M& model, parameter_filter<typename M::value_type> shared = is_trainable) { return save_state(model, shared); }

/// Loads a broadcast into the shared parameters, runs train(model) -> local_result, and returns the change.
/// Throws format_error when the broadcast does not fit the model.
template <module M, class Train>
update answer(M& model, const broadcast& b, client_id client, Train train, parameter_filter<typename M::value_type> shared = is_trainable) {
  load_state(model, view(b.state), {}, shared);
  const local_result local = train(model);
  update u{b.round, client, local.samples, save_state(model, shared).items, local.metrics};
  for (auto& [name, a] : u.delta) {
    const array& start = *find(b.state.items, name);
    for (std::size_t i = 0; i < a.bytes.size(); i += sizeof(float)) {
      float now, before;
      std::memcpy(&now, a.bytes.data() + i, sizeof now);
      std::memcpy(&before, start.bytes.data() + i, sizeof before);
      now -= before;
      std::memcpy(a.bytes.data() + i, &now, sizeof now);
    }
  }
  return u;
}

}  // namespace graft::fed
