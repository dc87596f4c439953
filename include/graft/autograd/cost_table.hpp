// SPDX-License-Identifier: Apache-2.0
// A meter's counts as a table for people. Read next: autograd/meter.hpp.
#pragma once
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "graft/autograd/meter.hpp"

namespace graft {

/// Time and memory by operation, the costliest first; the rows add up to the last line, which is all the time since the
/// meter was made or reset. GFLOP/s are of the forward pass, "kept" is the most that an operation kept for backward at once.
inline std::string cost_table(const meter& m) {
  std::vector<meter::row> rows = m.operations();
  const auto seconds = [](const meter::row& r) { return r.forward_seconds + r.backward_seconds; };
  std::stable_sort(rows.begin(), rows.end(), [&](const auto& a, const auto& b) { return seconds(a) > seconds(b); });
  meter::row sum = m.total();
  const double all = seconds(sum) + m.outside_seconds();

  std::string table;
  char line[160];
  const auto write = [&](const char* name, const meter::row& r) {
    std::snprintf(line, sizeof line, "%-22s %8llu %11.3f %12.3f %7.1f %9.1f %11.1f\n", name, static_cast<unsigned long long>(r.calls),
                  r.forward_seconds * 1e3, r.backward_seconds * 1e3, 100 * seconds(r) / all,
                  r.forward_seconds > 0 ? static_cast<double>(r.flops) * 1e-9 / r.forward_seconds : 0.0,
                  static_cast<double>(r.peak_saved_bytes) / 1024);
    table += line;
  };
  std::snprintf(line, sizeof line, "%-22s %8s %11s %12s %7s %9s %11s\n", "operation", "calls", "forward ms", "backward ms", "share %",
                "GFLOP/s", "kept KiB");
  table += line;
  for (const meter::row& r : rows) write(r.name.c_str(), r);
  meter::row outside;
  outside.forward_seconds = m.outside_seconds();
  write("outside operations", outside);
  sum.forward_seconds += m.outside_seconds();
  write("all", sum);
  return table;
}

}  // namespace graft
