// SPDX-License-Identifier: Apache-2.0
// First values of parameters, a function of (seed, path) alone. Read next: models/llama.hpp.
#pragma once
#include <cmath>
#include <span>

#include "graft/core/random.hpp"
#include "graft/nn/filter.hpp"

namespace graft {

/// Independent uniform values in [-bound, bound), four from every block of the stream.
template <class T>
void fill_uniform(std::span<T> values, const random_stream& random, double bound) {
  for (std::size_t i = 0; i < values.size(); i += 4) {
    const auto words = random.block(i / 4);
    for (std::size_t j = i; j < std::min(i + 4, values.size()); ++j)
      values[j] = static_cast<T>((static_cast<double>(words[j - i]) * 0x1p-31 - 1.0) * bound);
  }
}

/// Normal values of this deviation.
template <class T>
void fill_normal(std::span<T> values, random_stream random, double deviation) {
  for (T& v : values) v = static_cast<T>(deviation * random.normal());
}

/// Gives every parameter its starting values and leaves it trainable: matrices uniform with the given standard deviation,
/// vectors named "bias" zeros, other vectors, the gains of norms, ones.
template <module M>
void initialize(M& m, std::uint64_t seed, double deviation = 0.02) {
  for (auto& p : parameters(m)) {
    p.parameter->reset();
    const auto values = p.parameter->value();
    if (p.shape().size() >= 2) fill_uniform(values, random_stream(seed).substream(p.path), deviation * std::sqrt(3.0));
    else std::ranges::fill(values, p.path.ends_with("bias") ? 0 : 1);
  }
}

}  // namespace graft
