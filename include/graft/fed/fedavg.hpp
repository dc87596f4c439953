// SPDX-License-Identifier: Apache-2.0
// Federated averaging, streaming: memory for one model, however many clients. Read next: fed/server.hpp.
#pragma once
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "graft/fed/aggregator.hpp"

namespace graft::fed {

namespace detail {

__extension__ typedef __int128 wide_integer;

/// Sums of weighted values as integers in units of 2^-56. Integer addition has no order, so neither has the result. With
/// |value| below 2^24 and a total weight below 2^46 no sum can overflow.
class fixed_point_sum {
 public:
  static constexpr double unit = 0x1p56, largest_value = 0x1p24;
  static constexpr std::uint64_t largest_weight = std::uint64_t{1} << 46;

  explicit fixed_point_sum(index_t n) : sums_(static_cast<std::size_t>(n)) {}

  /// Bits of a value below the unit are dropped, the same way for every client.
  void add(std::size_t i, float value, std::uint64_t weight) noexcept {
    sums_[i] += static_cast<wide_integer>(static_cast<double>(value) * unit) * static_cast<wide_integer>(weight);
  }
  double mean(std::size_t i, std::uint64_t weight) const noexcept {
    return static_cast<double>(sums_[i]) / static_cast<double>(weight) / unit;
  }

 private:
  std::vector<wide_integer> sums_;
};

}  // namespace detail

enum class weighting { samples, uniform };

struct fedavg_options {
  weighting weights = weighting::samples;
};

/// The mean of the clients' changes, each weighted by its samples or all alike. Memory: 16 bytes a value, whatever the number
/// of clients. The result is the same to the bit for any order of arrival. Source: McMahan et al. 2017.
class fedavg {
 public:
  explicit fedavg(fedavg_options o = {}) : options_(o) {}

  void check() const {}

  void begin(const state_dict& state) {
    sums_.clear();
    weight_ = 0;
    for (const auto& [name, a] : state.items) sums_.push_back({name, a.shape, detail::fixed_point_sum(volume(a.shape))});
  }

  std::optional<refusal> accept(const update& u) {
    const std::uint64_t weight = options_.weights == weighting::samples ? u.samples : 1;
    if (weight > detail::fixed_point_sum::largest_weight - weight_) return refusal::too_many_samples;
    for (const auto& [name, a] : u.delta)
      for (index_t i = 0; i < volume(a.shape); ++i)
        if (std::abs(value(a, i)) >= detail::fixed_point_sum::largest_value) return refusal::too_large;
    for (auto& s : sums_) {
      const array& a = *find(u.delta, s.name);
      for (index_t i = 0; i < volume(a.shape); ++i) s.sum.add(static_cast<std::size_t>(i), value(a, i), weight);
    }
    weight_ += weight;
    return std::nullopt;
  }

  records<array> finish() {
    records<array> change;
    for (const auto& s : sums_) {
      array a{dtype::f32, s.shape, std::vector<std::byte>(checked_bytes(s.shape, sizeof(float)))};
      for (index_t i = 0; i < volume(s.shape); ++i) {
        const float mean = weight_ == 0 ? 0 : static_cast<float>(s.sum.mean(static_cast<std::size_t>(i), weight_));
        std::memcpy(a.bytes.data() + static_cast<std::size_t>(i) * sizeof mean, &mean, sizeof mean);
      }
      change.emplace_back(s.name, std::move(a));
    }
    return change;
  }

 private:
  static float value(const array& a, index_t i) {
    float v;
    std::memcpy(&v, a.bytes.data() + static_cast<std::size_t>(i) * sizeof v, sizeof v);
    return v;
  }

  struct entry {
    std::string name;
    std::vector<index_t> shape;
    detail::fixed_point_sum sum;
  };
  fedavg_options options_;
  std::vector<entry> sums_;
  std::uint64_t weight_ = 0;
};

}  // namespace graft::fed
