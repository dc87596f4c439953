// SPDX-License-Identifier: Apache-2.0
// Thinning dense weight updates and combining them by an elected sign: what TIES and DARE are made of.
// Read next: methods/merge.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "graft/core/random.hpp"
#include "graft/core/tensor.hpp"

namespace graft {

/// How updates vote on the sign of an entry: by the sum of their values, or each with one vote. A tie elects plus.
enum class sign_election { total, frequency };

/// Throws option_error unless the density, a share of entries, is above 0 and at most 1.
inline void check_density(std::string_view what, double density) {
  if (!(density > 0 && density <= 1)) throw_error<option_error>(what, ": density is ", density, ", expected above 0 to 1");
}

/// Zeroes all but the floor(density * size) entries of largest magnitude, and leaves one at least; of equal ones the earlier
/// stay. The entries are finite. Memory: their magnitudes. Source: the trimming of Yadav et al. 2023.
template <class T>
void keep_largest(std::span<T> x, double density) {
  check_density("keep_largest", density);
  const auto kept = std::max<std::size_t>(1, static_cast<std::size_t>(density * static_cast<double>(x.size())));
  if (kept >= x.size()) return;
  std::vector<T> sizes(x.size());
  std::ranges::transform(x, sizes.begin(), [](T v) { return std::abs(v); });
  const auto last = sizes.begin() + static_cast<std::ptrdiff_t>(kept - 1);
  std::ranges::nth_element(sizes, last, std::greater<T>{});
  const T least = *last;
  auto room = std::ranges::count(sizes.begin(), last + 1, least);  // for entries just as large
  for (T& v : x)
    if (std::abs(v) < least || (std::abs(v) == least && room-- <= 0)) v = 0;
}

/// Keeps entry i, divided by the density, when word i of the stream is below density * 2^32, and zeroes it otherwise: the mean
/// over seeds is x. Word i is element i % 4 of block i / 4. Source: Yu et al. 2024 (DARE).
template <class T>
void drop_at_random(std::span<T> x, double density, const random_stream& random) {
  check_density("drop_at_random", density);
  const double limit = density * 0x1p32;
  for (std::size_t i = 0; i < x.size(); i += 4) {
    const auto words = random.block(i / 4);
    for (std::size_t j = 0; j < 4 && i + j < x.size(); ++j)
      x[i + j] = words[j] < limit ? static_cast<T>(static_cast<double>(x[i + j]) / density) : T(0);
  }
}

/// Entry by entry: a sign is elected among the updates as they are, then out is the mean of weight * value over the updates of
/// that sign, zero where none has it. A zero has no sign. All updates have the size of out.
/// Source: Yadav et al. 2023; weights after the election as PEFT applies them.
template <class T>
void merge_by_sign(std::span<const std::span<const T>> updates, std::span<const double> weights, sign_election election, std::span<T> out) {
  GRAFT_ASSERT(updates.size() == weights.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    double votes = 0, sum = 0;
    index_t agreeing = 0;
    for (const auto& u : updates) {
      const auto v = static_cast<double>(u[i]);
      votes += election == sign_election::total ? v : (v > 0) - (v < 0);
    }
    for (std::size_t k = 0; k < updates.size(); ++k)
      if (const auto v = static_cast<double>(updates[k][i]); votes >= 0 ? v > 0 : v < 0) {
        sum += weights[k] * v;
        ++agreeing;
      }
    out[i] = static_cast<T>(agreeing == 0 ? 0 : sum / static_cast<double>(agreeing));
  }
}

}  // namespace graft
