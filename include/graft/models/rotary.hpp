// SPDX-License-Identifier: Apache-2.0
// Frequencies of rotary position embeddings, plain and scaled, and their tables. Read next: models/llama.hpp.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "graft/core/tensor.hpp"

namespace graft {

/// The rotary part of a published config.
struct rotary_config {
  double theta = 10000;
  std::string scaling = "default";  // "default", "linear" or "llama3"
  double factor = 1;                // linear, llama3
  double low_frequency_factor = 1, high_frequency_factor = 4;  // llama3
  index_t original_max_positions = 8192;                       // llama3
};

/// Angle per position of each pair of a head, after scaling. Throws option_error for an unknown scaling.
/// llama3: long wavelengths are stretched by `factor`, short ones kept, a smooth blend between.
inline std::vector<double> rotary_frequencies(const rotary_config& c, index_t head_size) {
  constexpr double two_pi = 6.283185307179586477;
  std::vector<double> frequencies;
  for (index_t i = 0; i < head_size / 2; ++i) {
    double f = std::pow(c.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_size));
    if (c.scaling == "linear") {
      f /= c.factor;
    } else if (c.scaling == "llama3") {
      const double wavelength = two_pi / f, positions = static_cast<double>(c.original_max_positions);
      const double blend = (positions / wavelength - c.low_frequency_factor) / (c.high_frequency_factor - c.low_frequency_factor);
      if (wavelength > positions / c.low_frequency_factor) f /= c.factor;
      else if (wavelength >= positions / c.high_frequency_factor) f *= (1 - blend) / c.factor + blend;
    } else if (c.scaling != "default") {
      throw_error<option_error>("rotary scaling \"", c.scaling, "\" is not one of default, linear, llama3");
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

/// Cosines and sines of the first positions, (P, D / 2), grown when longer sequences come. Tapes look into the tables, so
/// outgrown ones stay until the end: together they are no larger than the last.
template <class T>
class rotary_table {
 public:
  rotary_table(const rotary_config& c, index_t head_size) : frequencies_(rotary_frequencies(c, head_size)) {}
  rotary_table(const rotary_table& o) : frequencies_(o.frequencies_) {}
  rotary_table(rotary_table&&) noexcept = default;
  rotary_table& operator=(rotary_table o) noexcept {
    frequencies_ = std::move(o.frequencies_);
    tables_ = std::move(o.tables_);
    return *this;
  }

  /// Makes the tables cover positions below `positions`. Allocates only when they did not.
  void cover(index_t positions) {
    index_t rows = tables_.empty() ? 0 : tables_.back().cosine.shape()[0];
    if (positions <= rows) return;
    for (rows = std::max<index_t>(rows, 64); rows < positions;) rows *= 2;
    const auto half = static_cast<index_t>(frequencies_.size());
    table t{tensor<T, 2>({rows, half}), tensor<T, 2>({rows, half})};
    for (index_t p = 0; p < rows; ++p)
      for (index_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * frequencies_[static_cast<std::size_t>(i)];
        t.cosine(p, i) = static_cast<T>(std::cos(angle));
        t.sine(p, i) = static_cast<T>(std::sin(angle));
      }
    tables_.push_back(std::move(t));
  }
  tensor_view<const T, 2> cosine() const { return tables_.back().cosine.view(); }
  tensor_view<const T, 2> sine() const { return tables_.back().sine.view(); }

 private:
  struct table {
    tensor<T, 2> cosine, sine;
  };
  std::vector<double> frequencies_;
  std::vector<table> tables_;
};

}  // namespace graft
