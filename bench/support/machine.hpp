// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most, measured in the same run as everything else. Read next: report.hpp.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace bench {

/// One burst of multiply-adds in all registers; returns its flops. One thread.
double fma_burst();

/// Flops a second of one thread when it does nothing but multiply and add, in float: the median of several bursts.
double fma_peak();

/// A plain copy between two arrays, by vectors loaded and stored as kernels do; `footprint` bytes together. A call copies once.
class plain_copy {
 public:
  explicit plain_copy(std::size_t footprint) : from_(footprint / 2 / sizeof(float), 1.0f), to_(from_.size()) {}
  void operator()();
  double bytes() const { return static_cast<double>(2 * sizeof(float) * from_.size()); }  ///< read and written

 private:
  std::vector<float> from_, to_;
};

/// The sum over an array of so many bytes. A call reads it once.
class plain_read {
 public:
  explicit plain_read(std::size_t bytes) : from_(bytes / sizeof(float), 1.0f) {}
  void operator()() const;
  double bytes() const { return static_cast<double>(sizeof(float) * from_.size()); }

 private:
  std::vector<float> from_;
};

/// Bytes a second of a plain copy, read and written, and of a plain read of so many bytes.
double copy_bandwidth(std::size_t footprint);
double read_bandwidth(std::size_t bytes);

/// Instruction set of the kernels, width, peak and bandwidth, in one line.
std::string describe_machine();

/// One thread for every library that was linked and would take more.
void use_one_thread();

/// Largest resident set of this process so far.
double peak_rss_bytes();

}  // namespace bench
