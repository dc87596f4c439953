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

namespace detail {

/// Parameters tagged "local" never leave their client, whatever a filter says.
template <module M>
void refuse_local(M& model, parameter_filter<typename M::value_type> shared) {
  for (const auto& p : select(model, shared))
    if (p.tag() == "local") throw_error<state_error>("fed: ", p.path, " is local and cannot leave its client; share what is tagged(\"shared\")");
}

}  // namespace detail

/// The part of a model that is federated, as the server starts with it: trainable parameters unless the filter says else.
/// Throws state_error, naming it, when a parameter tagged "local" is among them.
template <module M>
state_dict shared_part(M& model, parameter_filter<typename M::value_type> shared = is_trainable) {
  detail::refuse_local(model, shared);
  return save_state(model, shared);
}

/// Loads a broadcast into the shared parameters, runs train(model) -> local_result, and returns the change.
/// Throws format_error when the broadcast does not fit the model, state_error when a parameter tagged "local" would be sent, before
/// training or after, or when training changed which parameters are shared.
template <module M, class Train>
update answer(M& model, const broadcast& b, client_id client, Train train, parameter_filter<typename M::value_type> shared = is_trainable) {
  detail::refuse_local(model, shared);
  load_state(model, view(b.state), {}, shared);
  const local_result local = train(model);
  update u{b.round, client, local.samples, shared_part(model, shared).items, local.metrics};
  if (u.delta.size() != b.state.items.size())
    throw_error<state_error>("fed::answer: ", b.state.items.size(), " parameters were shared before training, ", u.delta.size(), " after it");
  for (auto& [name, a] : u.delta) {
    const array* before_training = find(b.state.items, name);
    if (before_training == nullptr) throw_error<state_error>("fed::answer: ", name, " was not shared before training");
    const array& start = *before_training;
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
