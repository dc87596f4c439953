// SPDX-License-Identifier: Apache-2.0
// What this machine can do at most, measured in the same run as everything else. Read next: report.hpp.
#pragma once
#include <cstddef>
#include <string>

namespace bench {

/// One burst of multiply-adds in all registers; returns its flops. One thread.
double fma_burst();

/// Flops a second of one thread when it does nothing but multiply and add, in float: the median of several bursts.
double fma_peak();

/// Bytes a second, read and written, of a plain copy whose two arrays take `footprint` bytes together. Measured once for
/// every footprint.
double copy_bandwidth(std::size_t footprint);

/// Bytes a second of a sum over an array of so many bytes. Measured once for every size.
double read_bandwidth(std::size_t bytes);

/// Instruction set of the kernels, width, peak and bandwidth, in one line.
std::string describe_machine();

/// One thread for every library that was linked and would take more.
void use_one_thread();

/// Largest resident set of this process so far.
double peak_rss_bytes();

}  // namespace bench
