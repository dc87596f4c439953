// SPDX-License-Identifier: Apache-2.0
// Factors for the learning rate over a run. Read next: optim/adamw.hpp, whose step() takes them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace graft {

/// Rises linearly to 1 over `warmup` steps, then falls along half a cosine to `floor` at step `total`. Steps count from 0.
inline double cosine_schedule(std::int64_t step, std::int64_t total, std::int64_t warmup = 0, double floor = 0) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double done = std::clamp(static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, total - warmup)), 0.0, 1.0);
  return floor + (1 - floor) * 0.5 * (1 + std::cos(3.14159265358979323846 * done));
}

/// Rises linearly to 1 over `warmup` steps, then falls linearly to 0 at step `total`.
inline double linear_schedule(std::int64_t step, std::int64_t total, std::int64_t warmup = 0) {
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  return std::clamp(static_cast<double>(total - step) / static_cast<double>(std::max<std::int64_t>(1, total - warmup)), 0.0, 1.0);
}

}  // namespace graft
