// SPDX-License-Identifier: Apache-2.0
// What a step costs: flops and bytes saved for backward, by module path, counted and not sampled.
// Read next: autograd/tape.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "graft/core/extents.hpp"

namespace graft {

/// Set context::cost to one of these and every tape of that context reports to it. Counts accumulate until reset().
class meter {
 public:
  struct row {
    std::string path;                // module path, as the modules' scopes spell it; "" outside any
    std::uint64_t flops = 0;         // of forward passes; recomputation counts again
    std::uint64_t nodes = 0;         // operations recorded for backward
    std::size_t saved_bytes = 0;     // kept for backward at this moment, each buffer once
    std::size_t peak_saved_bytes = 0;
  };

  /// One row for every path that reported, in order of first report.
  const std::vector<row>& rows() const noexcept { return rows_; }

  /// Sums over all rows whose path is `prefix` or lies below it; "" means everything.
  row total(std::string_view prefix = {}) const {
    row sum{std::string(prefix)};
    for (const row& r : rows_) {
      const bool below = prefix.empty() || (r.path.starts_with(prefix) &&
                                            (r.path.size() == prefix.size() || r.path[prefix.size()] == '.'));
      if (!below) continue;
      sum.flops += r.flops;
      sum.nodes += r.nodes;
      sum.saved_bytes += r.saved_bytes;
      sum.peak_saved_bytes += r.peak_saved_bytes;
    }
    if (prefix.empty()) sum.peak_saved_bytes = peak_saved_;
    return sum;
  }

  void reset() { *this = meter{}; }

  // What tapes call.
  std::size_t row_of(std::string_view path) {
    const auto found = std::find_if(rows_.begin(), rows_.end(), [&](const row& r) { return r.path == path; });
    if (found != rows_.end()) return static_cast<std::size_t>(found - rows_.begin());
    rows_.push_back({std::string(path)});
    return rows_.size() - 1;
  }
  void count_flops(std::size_t at, std::uint64_t flops) { rows_[at].flops += flops; }
  void count_node(std::size_t at) { ++rows_[at].nodes; }
  void save(std::size_t at, std::size_t bytes) {
    row& r = rows_[at];
    r.saved_bytes += bytes;
    r.peak_saved_bytes = std::max(r.peak_saved_bytes, r.saved_bytes);
    saved_ += bytes;
    peak_saved_ = std::max(peak_saved_, saved_);
  }
  void release(std::size_t at, std::size_t bytes) {
    if (at >= rows_.size()) return;  // reset while a tape was alive
    rows_[at].saved_bytes -= std::min(rows_[at].saved_bytes, bytes);
    saved_ -= std::min(saved_, bytes);
  }

 private:
  std::vector<row> rows_;
  std::size_t saved_ = 0, peak_saved_ = 0;
};

}  // namespace graft
