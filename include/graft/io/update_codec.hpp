// SPDX-License-Identifier: Apache-2.0
// Federated messages as safetensors files in memory: one format, one parser. Read next: fed/server.hpp.
#pragma once
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "graft/fed/message.hpp"
#include "graft/io/safetensors.hpp"

namespace graft {

/// Arrays as tensors, everything else as metadata: "graft" ("update" or "broadcast"), "version" ("1"), "round", "client",
/// "samples", and "metric.<name>". Bytes are the same every time. Decoding throws format_error on anything else.
class safetensors_codec : public fed::codec {
 public:
  std::vector<std::byte> encode(const fed::broadcast& b) const override {
    records<array_ref> items;
    for (const auto& [name, a] : b.state.items) items.emplace_back(name, array_ref(a));
    return to_safetensors(items, {{"graft", "broadcast"}, {"version", "1"}, {"round", std::to_string(b.round)}});
  }

  std::vector<std::byte> encode(const fed::update& u) const override {
    records<array_ref> items;
    for (const auto& [name, a] : u.delta) items.emplace_back(name, array_ref(a));
    records<std::string> metadata{{"graft", "update"},
                                  {"version", "1"},
                                  {"round", std::to_string(u.round)},
                                  {"client", std::to_string(u.client)},
                                  {"samples", std::to_string(u.samples)}};
    for (const auto& [name, value] : u.metrics) {
      char text[32];
      metadata.emplace_back("metric." + name, std::string(text, std::to_chars(text, text + sizeof text, value).ptr));
    }
    return to_safetensors(items, metadata);
  }

  fed::broadcast decode_broadcast(std::span<const std::byte> bytes) const override {
    state_dict s = arrays(bytes, "broadcast");
    require(s.metadata, "graft", "broadcast");
    require(s.metadata, "version", "1");
    const auto round = number<std::uint64_t>(s.metadata, "round");
    return {round, {std::move(s.items), {}}};
  }

  fed::update decode_update(std::span<const std::byte> bytes) const override {
    state_dict s = arrays(bytes, "update");
    require(s.metadata, "graft", "update");
    require(s.metadata, "version", "1");
    fed::update u{number<std::uint64_t>(s.metadata, "round"), number<std::uint64_t>(s.metadata, "client"),
                  number<std::uint64_t>(s.metadata, "samples"), std::move(s.items), {}};
    for (const auto& [key, text] : s.metadata)
      if (key.starts_with("metric.")) u.metrics.emplace_back(key.substr(7), number<double>(s.metadata, key));
    return u;
  }

 private:
  static state_dict arrays(std::span<const std::byte> bytes, std::string_view name) {
    try {
      return from_safetensors(bytes, name);
    } catch (const dtype_error& e) {
      throw_error<format_error>(e.what());
    }
  }
  static const std::string& value(const records<std::string>& metadata, std::string_view key) {
    const std::string* v = find(metadata, key);
    if (v == nullptr) throw_error<format_error>("message: has no ", detail::in_quotes(key));
    return *v;
  }
  static void require(const records<std::string>& metadata, std::string_view key, std::string_view expected) {
    if (const std::string& v = value(metadata, key); v != expected)
      throw_error<format_error>("message: ", key, " is ", detail::in_quotes(v), ", expected ", detail::in_quotes(expected));
  }
  template <class N>
  static N number(const records<std::string>& metadata, std::string_view key) {
    const std::string& v = value(metadata, key);
    N n{};
    const auto [end, failure] = std::from_chars(v.data(), v.data() + v.size(), n);
    bool good = failure == std::errc{} && end == v.data() + v.size();
    if constexpr (std::floating_point<N>) good = good && std::isfinite(n);
    if (!good) throw_error<format_error>("message: ", key, " is ", detail::in_quotes(v), ", expected a number");
    return n;
  }
};

}  // namespace graft
