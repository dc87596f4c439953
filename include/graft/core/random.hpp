// SPDX-License-Identifier: Apache-2.0
// Random numbers that are a pure function of (seed, stream, position): replay needs no saved state. Read next: nn/init.hpp.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "graft/core/extents.hpp"

namespace graft {

/// Philox4x32-10: four words from a 128-bit counter and a 64-bit key. Source: Salmon et al. 2011.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> k) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

/// A 64-bit name for a stream, from text (FNV-1a): the dropout of a layer is keyed by the layer's path.
constexpr std::uint64_t stream_of(std::string_view name) noexcept {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

/// Mixes two 64-bit values into one (splitmix64's finaliser).
constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t z = a + 0x9e3779b97f4a7c15u * (b + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// One stream of random numbers. `at(i)` is random access; the drawing functions advance a position of their own.
/// Draws of other types share the position, so a sequence of calls is what repeats for a seed.
class random_stream {
 public:
  explicit constexpr random_stream(std::uint64_t seed = 0, std::uint64_t stream = 0) noexcept
      : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}, stream_(stream) {}

  /// An independent stream of the same seed, named by text.
  constexpr random_stream substream(std::string_view name) const noexcept { return substream(stream_of(name)); }
  constexpr random_stream substream(std::uint64_t number) const noexcept {
    random_stream s = *this;
    s.stream_ = mix(stream_, number);
    s.position_ = 0;
    return s;
  }

  /// The i-th block of four 32-bit words.
  constexpr std::array<std::uint32_t, 4> block(std::uint64_t i) const noexcept {
    return philox({static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32),
                   static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)},
                  key_);
  }

  constexpr std::uint64_t bits() noexcept {
    const auto b = block(position_++);
    return std::uint64_t{b[0]} << 32 | b[1];
  }

  /// Uniform in [0, 1), with 53 random bits.
  constexpr double uniform() noexcept { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  constexpr double uniform(double low, double high) noexcept { return low + (high - low) * uniform(); }

  /// Uniform in [0, n), without bias. n > 0.
  constexpr std::uint64_t below(std::uint64_t n) noexcept {
    const std::uint64_t limit = ~std::uint64_t{0} - (~std::uint64_t{0} % n + 1) % n;  // last value of a whole cycle
    std::uint64_t v = bits();
    while (v > limit) v = bits();
    return v % n;
  }

  /// Standard normal, by Box and Muller; one block a draw.
  double normal() noexcept {
    const auto b = block(position_++);
    const double u = (static_cast<double>(std::uint64_t{b[0]} << 32 | b[1]) + 1.0) * 0x1p-64;
    const double angle = 2.0 * 3.14159265358979323846 * static_cast<double>(std::uint64_t{b[2]} << 32 | b[3]) * 0x1p-64;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(angle);
  }

  /// Shuffles in place (Fisher and Yates).
  template <class T>
  constexpr void shuffle(std::span<T> items) noexcept {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint64_t stream_;
  std::uint64_t position_ = 0;
};

}  // namespace graft
