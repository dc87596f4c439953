// SPDX-License-Identifier: Apache-2.0
// Gradients against central differences. Read next: tests/laws in the source tree, which run it over every operation.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "graft/autograd/tape.hpp"

namespace graft {

/// A value that a gradient check varies, and where its gradient arrives.
template <class T>
struct checked_leaf {
  std::span<T> value;
  gradient_slot<T>* slot;
};

struct gradcheck_options {
  double step = 1e-5;        // of the central difference
  index_t most_elements = 64;  // elements tried in every leaf, spread evenly
};

/// The largest |analytic - numeric| over all tried elements of a leaf, relative to the leaf's largest numeric gradient, worst
/// leaf. What rounding does to the differences themselves, some 64 units in the last place of the loss divided by the step,
/// is taken off first: a gradient that is zero (the bias of an attention key, say) has nothing else to be compared with.
/// loss: (tape<T>&) -> var<T, 0>, a deterministic function of the leaves. Meant for T = double, where an exact rule gives
/// about 1e-9. Costs two forward passes an element.
template <class T, class Loss>
double gradient_error(context& ctx, std::span<const checked_leaf<T>> leaves, Loss loss, gradcheck_options o = {}) {
  for (const auto& leaf : leaves) leaf.slot->written = false;
  {
    tape<T> t(ctx);
    t.backward(loss(t));
  }
  const auto value = [&] {
    tape<T> t(ctx, recording::off);
    return static_cast<double>(*loss(t).value.data);
  };
  const double noise = 64 * static_cast<double>(std::numeric_limits<T>::epsilon()) * std::abs(value()) / o.step;
  double worst = 0;
  for (const auto& leaf : leaves) {
    const auto n = static_cast<index_t>(leaf.value.size());
    const index_t stride = std::max<index_t>(1, n / o.most_elements);
    double difference = 0, scale = 0;
    for (index_t i = 0; i < n; i += stride) {
      T& x = leaf.value[static_cast<std::size_t>(i)];
      const T before = x;
      x = before + static_cast<T>(o.step);
      const double above = value();
      x = before - static_cast<T>(o.step);
      const double below = value();
      x = before;
      const double numeric = (above - below) / (2 * o.step);
      const double analytic = leaf.slot->written ? static_cast<double>(leaf.slot->data[i]) : 0.0;
      difference = std::max(difference, std::abs(analytic - numeric));
      scale = std::max(scale, std::abs(numeric));
    }
    if (difference > noise) worst = std::max(worst, (difference - noise) / scale);
  }
  return worst;
}

}  // namespace graft
