// SPDX-License-Identifier: Apache-2.0
// What a step costs: flops, time and bytes saved for backward, by module path and by operation, counted and not sampled.
// Read next: autograd/cost_table.hpp, autograd/tape.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/extents.hpp"

namespace graft {

/// Set context::cost to one of these and every tape and optimiser of that context reports to it. Counts accumulate until
/// reset(). Time is that of a clock on the wall, from the end of one operation to the end of the next, so that all of it is
/// somebody's: what a program does between steps is outside_seconds(). Cost: some 50 ns an operation.
class meter {
 public:
  struct row {
    std::string name;                // of a module: its path, as the modules' scopes spell it, "" outside any
    std::uint64_t calls = 0;         // forward passes; recomputation counts again, here and below
    std::uint64_t flops = 0;         // of forward passes
    std::uint64_t nodes = 0;         // operations recorded for backward
    double forward_seconds = 0, backward_seconds = 0;
    std::size_t saved_bytes = 0;     // kept for backward at this moment, each buffer once, where it was kept first
    std::size_t peak_saved_bytes = 0;
  };

  /// One row for every path that reported, in order of first report.
  const std::vector<row>& modules() const noexcept { return modules_; }
  /// The same costs by operation: "linear", "attention", and so on.
  const std::vector<row>& operations() const noexcept { return operations_; }
  /// What passed since the reset and belongs to no operation: preparing batches, walking modules, whatever the host does.
  double outside_seconds() const noexcept { return outside_; }

  /// Sums over all modules whose path is `prefix` or lies below it; "" means everything.
  row total(std::string_view prefix = {}) const {
    row sum{std::string(prefix)};
    for (const row& r : modules_) {
      const bool below = prefix.empty() || (r.name.starts_with(prefix) &&
                                            (r.name.size() == prefix.size() || r.name[prefix.size()] == '.'));
      if (!below) continue;
      sum.calls += r.calls;
      sum.flops += r.flops;
      sum.nodes += r.nodes;
      sum.forward_seconds += r.forward_seconds;
      sum.backward_seconds += r.backward_seconds;
      sum.saved_bytes += r.saved_bytes;
      sum.peak_saved_bytes += r.peak_saved_bytes;
    }
    if (prefix.empty()) sum.peak_saved_bytes = peak_saved_;
    return sum;
  }

  void reset() { *this = meter{}; }

  // What tapes and optimisers call. A place is a row of either list.
  struct place {
    std::uint32_t module = 0, operation = 0;
  };
  std::uint32_t module_row(std::string_view path) { return row_of(modules_, path); }
  std::uint32_t operation_row(std::string_view name) { return row_of(operations_, name); }

  void count_forward(place at, std::uint64_t flops, bool recorded) {
    const double seconds = lap();
    for_both(at, [&](row& r) {
      ++r.calls;
      r.flops += flops;
      r.nodes += recorded;
      r.forward_seconds += seconds;
    });
  }
  void count_backward(place at) {
    const double seconds = lap();
    for_both(at, [&](row& r) { r.backward_seconds += seconds; });
  }
  void count_outside() { outside_ += lap(); }
  void save(place at, std::size_t bytes) {
    for_both(at, [&](row& r) {
      r.saved_bytes += bytes;
      r.peak_saved_bytes = std::max(r.peak_saved_bytes, r.saved_bytes);
    });
    saved_ += bytes;
    peak_saved_ = std::max(peak_saved_, saved_);
  }
  void release(place at, std::size_t bytes) {
    for_both(at, [&](row& r) { r.saved_bytes -= std::min(r.saved_bytes, bytes); });
    saved_ -= std::min(saved_, bytes);
  }

 private:
  static std::uint32_t row_of(std::vector<row>& rows, std::string_view name) {
    const auto found = std::find_if(rows.begin(), rows.end(), [&](const row& r) { return r.name == name; });
    const auto at = static_cast<std::uint32_t>(found - rows.begin());
    if (found == rows.end()) rows.push_back({std::string(name)});
    return at;
  }
  template <class F>
  void for_both(place at, F f) {  // a place from before a reset is nobody's
    if (at.module < modules_.size()) f(modules_[at.module]);
    if (at.operation < operations_.size()) f(operations_[at.operation]);
  }

  static double now() {
    std::timespec t{};
#if defined(CLOCK_MONOTONIC)
    ::clock_gettime(CLOCK_MONOTONIC, &t);
#else
    std::timespec_get(&t, TIME_UTC);
#endif
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
  double lap() {
    const double before = std::exchange(mark_, now());
    return mark_ - before;
  }

  std::vector<row> modules_, operations_;
  std::size_t saved_ = 0, peak_saved_ = 0;
  double mark_ = now(), outside_ = 0;
};

/// While it lives, work that is no operation of a tape goes on, an optimiser's step: a meter, where one listens, counts it
/// under this name.
class metered_work {
 public:
  metered_work(meter* m, std::string_view name) : meter_(m) {
    if (meter_ == nullptr) return;
    meter_->count_outside();
    at_ = {meter_->module_row({}), meter_->operation_row(name)};
  }
  metered_work(const metered_work&) = delete;
  ~metered_work() {
    if (meter_ != nullptr) meter_->count_forward(at_, 0, false);
  }

 private:
  meter* meter_;
  meter::place at_;
};

}  // namespace graft
