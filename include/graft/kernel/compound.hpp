// SPDX-License-Identifier: Apache-2.0
// Compound matrices: C_k(A) holds the minors of order k of A, and is orthogonal when A is. The subsets that number its rows,
// its building, its gradient. Read next: kernel/compound_apply.hpp, which also applies it without building it.
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "graft/core/context.hpp"
#include "graft/core/tensor.hpp"

namespace graft::kernel {

/// n choose k, or the largest index_t where that is smaller.
constexpr index_t binomial(index_t n, index_t k) noexcept {
  constexpr index_t most = std::numeric_limits<index_t>::max();
  if (k < 0 || k > n) return 0;
  if (k > n - k) k = n - k;
  index_t b = 1;
  for (index_t i = 1; i <= k; ++i) {
    const index_t m = n - k + i, rest = b % i * m / i;  // b m / i, and no product beyond it
    if (b / i > (most - rest) / m) return most;
    b = b / i * m + rest;
  }
  return b;
}

/// The subsets of {0 .. n-1} with k elements, for k = 0 .. K, in lexicographic order, and how they are related.
class subset_tables {
 public:
  subset_tables() = default;
  /// n >= K >= 1. Memory: about 3 k + 2 n k / (n - k) numbers of 32 bits a subset.
  template <class = void>
  subset_tables(index_t n, index_t most) : n_(n), levels_(static_cast<std::size_t>(most) + 1) {
    for (index_t k = 0; k <= most; ++k) {
      list_members(k);
      if (k > 0) relate(k);
    }
  }

  index_t n() const noexcept { return n_; }
  index_t most() const noexcept { return static_cast<index_t>(levels_.size()) - 1; }
  index_t count(index_t k) const noexcept { return level(k).count; }

  /// The k elements of a subset, ascending.
  const std::int32_t* members(index_t k, index_t subset) const noexcept { return level(k).members.data() + subset * k; }
  /// The numbers, among the subsets of k - 1, of a subset without each of its elements in turn.
  const std::int32_t* without(index_t k, index_t subset) const noexcept { return level(k).without.data() + subset * k; }
  /// The numbers, among the subsets of k, of a subset of k - 1 with each of 0 .. n-1 added; -1 for its own elements.
  const std::int32_t* with(index_t k, index_t smaller) const noexcept { return level(k).with.data() + smaller * n_; }

  /// Two subsets that differ in one element: q belongs to the first, q + 1 to the second.
  struct pair {
    std::int32_t first, second;
  };
  /// All such pairs of subsets of k, the C(n-2, k-1) of them.
  const pair* neighbours(index_t k, index_t q) const noexcept { return level(k).neighbours.data() + q * pairs(k); }
  index_t pairs(index_t k) const noexcept { return binomial(n_ - 2, k - 1); }

 private:
  struct tables {
    index_t count = 0;
    std::vector<std::int32_t> members, without, with;
    std::vector<pair> neighbours;
  };
  const tables& level(index_t k) const noexcept { return levels_[static_cast<std::size_t>(k)]; }

  template <class = void>
  void list_members(index_t k) {
    tables& t = levels_[static_cast<std::size_t>(k)];
    t.count = binomial(n_, k);
    std::vector<std::int32_t> s(static_cast<std::size_t>(k));
    for (index_t i = 0; i < k; ++i) s[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
    t.members.reserve(static_cast<std::size_t>(t.count * k));
    for (index_t c = 0; c < t.count; ++c) {
      t.members.insert(t.members.end(), s.begin(), s.end());
      index_t i = k - 1;  // the next: the last element that can grow grows, those after it follow closely
      while (i >= 0 && s[static_cast<std::size_t>(i)] == n_ - k + i) --i;
      if (i < 0) break;
      std::int32_t v = ++s[static_cast<std::size_t>(i)];
      while (++i < k) s[static_cast<std::size_t>(i)] = ++v;
    }
  }

  /// Lexicographic number of a subset of k without the element at `skipped`.
  template <class = void>
  index_t number_without(index_t k, const std::int32_t* s, index_t skipped) const noexcept {
    index_t number = 0, before = -1, left = k - 1;
    for (index_t i = 0; i < k; ++i) {
      if (i == skipped) continue;
      number += binomial(n_ - 1 - before, left) - binomial(n_ - s[i], left);  // those whose element here is smaller
      before = s[i];
      --left;
    }
    return number;
  }

  template <class = void>
  void relate(index_t k) {
    tables& t = levels_[static_cast<std::size_t>(k)];
    t.without.resize(t.members.size());
    t.with.assign(static_cast<std::size_t>(count(k - 1) * n_), -1);
    for (index_t c = 0; c < t.count; ++c)
      for (index_t i = 0; i < k; ++i) {
        const index_t smaller = number_without(k, members(k, c), i);
        t.without[static_cast<std::size_t>(c * k + i)] = static_cast<std::int32_t>(smaller);
        t.with[static_cast<std::size_t>(smaller * n_ + members(k, c)[i])] = static_cast<std::int32_t>(c);
      }
    for (index_t q = 0; q + 1 < n_; ++q)
      for (index_t s = 0; s < count(k - 1); ++s)
        if (const std::int32_t *w = with(k, s), i = w[q], j = w[q + 1]; i >= 0 && j >= 0) t.neighbours.push_back({i, j});
  }

  index_t n_ = 0;
  std::vector<tables> levels_;
};

/// C_k(A) from A and the one before, by expansion along the first row. Shapes: a (n, n), previous (C(n,k-1))^2, c (C(n,k))^2; no
/// previous for k = 1. Cost: (2k - 1) C(n,k)^2 flops, each on a number that is looked up.
template <class To>
void compound_matrix(context& ctx, const subset_tables& subsets, index_t k, const double* a, const double* previous, To* c) {
  const index_t n = subsets.n(), size = subsets.count(k), smaller = subsets.count(k - 1);
  if (k == 1) {
    for (index_t i = 0; i < n * n; ++i) c[i] = static_cast<To>(a[i]);
    return;
  }
  ctx.executor().parallel_for(size, 1 + 16384 / (size * k), [&](index_t begin, index_t end) {
    for (index_t i = begin; i < end; ++i) {
      const double* const row = a + subsets.members(k, i)[0] * n;
      const double* const rest = previous + subsets.without(k, i)[0] * smaller;
      const std::int32_t *columns = subsets.members(k, 0), *others = subsets.without(k, 0);
      for (index_t j = 0; j < size; ++j, columns += k, others += k) {
        double sum = 0;
        for (index_t e = 0; e < k; ++e) {
          const double term = row[columns[e]] * rest[others[e]];
          sum += e % 2 == 0 ? term : -term;
        }
        c[i * size + j] = static_cast<To>(sum);
      }
    }
  });
}

/// da += the gradient of A, given that of C_k(A): cofactors, which are minors of order k - 1, so nothing is divided and nothing
/// fails at the identity. Shapes: as above, dc (C(n,k))^2, da (n, n). Cost: 2 k^2 C(n,k)^2 flops.
template <class T>
void compound_matrix_gradient(context& ctx, const subset_tables& subsets, index_t k, const double* previous, const T* dc, double* da) {
  const index_t n = subsets.n(), size = subsets.count(k), smaller = subsets.count(k - 1);
  if (k == 1) {
    for (index_t i = 0; i < n * n; ++i) da[i] += static_cast<double>(dc[i]);
    return;
  }
  ctx.executor().parallel_for(n, 1, [&](index_t r, index_t) {  // row r of da: all subsets that hold r
    for (index_t s = 0; s < smaller; ++s) {
      const std::int32_t i = subsets.with(k, s)[r];
      if (i < 0) continue;
      index_t position = 0;
      while (subsets.members(k, i)[position] != r) ++position;
      const T* const gradient = dc + i * size;
      const double* const rest = previous + s * smaller;
      const std::int32_t *columns = subsets.members(k, 0), *others = subsets.without(k, 0);
      for (index_t j = 0; j < size; ++j, columns += k, others += k)
        for (index_t e = 0; e < k; ++e) {
          const double term = static_cast<double>(gradient[j]) * rest[others[e]];
          da[r * n + columns[e]] += (e + position) % 2 == 0 ? term : -term;
        }
    }
  });
}

}  // namespace graft::kernel
