// SPDX-License-Identifier: Apache-2.0
// What server and clients say to each other, and who turns it into bytes. Read next: fed/server.hpp, io/update_codec.hpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "graft/nn/state_dict.hpp"

namespace graft::fed {

using client_id = std::uint64_t;

/// Server to clients: where everybody starts this round.
struct broadcast {
  std::uint64_t round = 0;
  state_dict state;
};

/// Client to server: what changed, and on how many samples it was learned.
struct update {
  std::uint64_t round = 0;
  client_id client = 0;
  std::uint64_t samples = 0;
  records<array> delta;     // new values minus broadcast values, under the broadcast's names
  records<double> metrics;  // anything the client wants to report, by name
};

/// Bytes to messages and back. Decoding throws format_error on anything that is not exactly a message.
struct codec {
  virtual ~codec() = default;
  virtual std::vector<std::byte> encode(const broadcast& b) const = 0;
  virtual std::vector<std::byte> encode(const update& u) const = 0;
  virtual broadcast decode_broadcast(std::span<const std::byte> bytes) const = 0;
  virtual update decode_update(std::span<const std::byte> bytes) const = 0;
};

}  // namespace graft::fed
