// SPDX-License-Identifier: Apache-2.0
// Bounding the length of a gradient. Read next: optim/adamw.hpp.
#pragma once
#include <cmath>
#include <span>
#include <vector>

#include "graft/nn/parameter.hpp"

namespace graft {

/// Scales all gradients together so that their joint Euclidean norm is at most `limit`, and returns the norm before.
/// A norm that is not finite leaves the gradients alone: check it.
template <class T>
double clip_gradients(std::span<const parameter_ref<T>> parameters, double limit) {
  double square = 0;
  for (const auto& p : parameters)
    for (const T g : p.parameter->gradient_values()) square += static_cast<double>(g) * static_cast<double>(g);
  const double norm = std::sqrt(square);
  if (std::isfinite(norm) && norm > limit)
    for (const auto& p : parameters)
      for (T& g : p.parameter->gradient_values()) g *= static_cast<T>(limit / norm);
  return norm;
}
template <class T>
double clip_gradients(const std::vector<parameter_ref<T>>& parameters, double limit) {
  return clip_gradients(std::span<const parameter_ref<T>>(parameters), limit);
}

}  // namespace graft
