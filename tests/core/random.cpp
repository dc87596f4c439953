// SPDX-License-Identifier: Apache-2.0
#include "graft/core/random.hpp"

#include <algorithm>
#include <vector>

#include "support/catch.hpp"

using namespace graft;

TEST_CASE("philox gives the published values") {  // known answers of the Random123 distribution
  using words = std::array<std::uint32_t, 4>;
  constexpr std::uint32_t ones = 0xffffffffu;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({ones, ones, ones, ones}, {ones, ones}) == words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("streams repeat, and differ from one another") {
  random_stream a(7), b(7), c = a.substream("weights"), d = a.substream("noise");
  CHECK(a.bits() == b.bits());
  CHECK(a.uniform() == b.uniform());
  CHECK(c.bits() != d.bits());
  CHECK(random_stream(7).substream("weights").bits() == random_stream(7).substream("weights").bits());
}

TEST_CASE("draws have the moments of their distribution") {
  random_stream s(1);
  const int n = 200000;
  double uniform = 0, normal = 0, square = 0;
  std::vector<int> faces(6);
  for (int i = 0; i < n; ++i) {
    uniform += s.uniform();
    const double z = s.normal();
    normal += z;
    square += z * z;
    ++faces[s.below(6)];
  }
  const double sigma = 1 / std::sqrt(static_cast<double>(n));  // of a mean of n draws of variance 1
  CHECK(std::abs(uniform / n - 0.5) < 5 * sigma * std::sqrt(1.0 / 12));
  CHECK(std::abs(normal / n) < 5 * sigma);
  CHECK(std::abs(square / n - 1) < 5 * sigma * std::sqrt(2.0));
  for (int f : faces) CHECK(std::abs(f - n / 6.0) < 5 * std::sqrt(n * 5.0 / 36));
}

TEST_CASE("a shuffle is a permutation") {
  std::vector<int> v(100);
  for (int i = 0; i < 100; ++i) v[static_cast<std::size_t>(i)] = i;
  random_stream s(3);
  s.shuffle(std::span<int>(v));
  CHECK_FALSE(std::is_sorted(v.begin(), v.end()));
  std::sort(v.begin(), v.end());
  for (int i = 0; i < 100; ++i) CHECK(v[static_cast<std::size_t>(i)] == i);
}
