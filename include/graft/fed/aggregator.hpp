// SPDX-License-Identifier: Apache-2.0
// What an aggregation rule is. Read next: fed/fedavg.hpp.
#pragma once
#include <concepts>
#include <cstdint>
#include <optional>
#include <string_view>

#include "graft/fed/message.hpp"

namespace graft::fed {

/// Why a reply was refused. Every reason has a counter at the server.
enum class refusal : std::uint8_t {
  malformed, wrong_round, duplicate_client, no_samples, too_many_samples, missing_array, unexpected_array, wrong_shape, wrong_type, not_finite, too_large,
  count_
};
constexpr std::string_view name_of(refusal r) noexcept {
  constexpr std::string_view names[] = {"malformed", "wrong round", "duplicate client", "no samples", "too many samples", "missing array",
                                        "unexpected array", "wrong shape", "wrong type", "not finite", "too large"};
  return names[static_cast<std::size_t>(r)];
}

/// A rule turns a round's updates into the change of the shared state. begin() learns names and shapes from the state.
/// accept() gets updates that the server has checked: right names, shapes and types, finite, from distinct clients. It may
/// refuse one still, and must then be unchanged. finish() gives the change to add, in the order of the state, and must not
/// depend on the order in which updates came. check() throws option_error for options out of range.
template <class A>
concept aggregator = requires(A& a, const A& c, const state_dict& state, const update& u) {
  c.check();
  a.begin(state);
  { a.accept(u) } -> std::same_as<std::optional<refusal>>;
  { a.finish() } -> std::same_as<records<array>>;
};

}  // namespace graft::fed
