// SPDX-License-Identifier: Apache-2.0
#include "support/machine.hpp"

#include <sys/resource.h>

#include <cstdio>

#include "graft/simd/simd.hpp"
#include "support/timing.hpp"

// Present when oneDNN or OpenBLAS was linked.
extern "C" void omp_set_num_threads(int) __attribute__((weak));
extern "C" void openblas_set_num_threads(int) __attribute__((weak));

namespace bench {

using batch = graft::simd::batch<float>;

double fma_burst() {
  constexpr int accumulators = graft::simd::registers == 32 ? 24 : 12;  // more than latency times issue width
  constexpr int steps = 20000;
  float factor = 0.999f, term = 0.001f;
  asm volatile("" : "+m"(factor), "+m"(term));
  const batch by(factor), plus(term);
  batch acc[accumulators];
  GRAFT_UNROLL
  for (int i = 0; i < accumulators; ++i) acc[i] = batch(static_cast<float>(i));
  for (int n = 0; n < steps; ++n) {
    GRAFT_UNROLL
    for (int i = 0; i < accumulators; ++i) acc[i] = graft::simd::fma(acc[i], by, plus);
  }
  batch sum(0.0f);
  GRAFT_UNROLL
  for (int i = 0; i < accumulators; ++i) sum += acc[i];
  volatile float sink = graft::simd::sum(sum);
  (void)sink;
  return 2.0 * accumulators * steps * static_cast<double>(graft::simd::width<float>);
}

double fma_peak() {
  static const double peak = [] {
    const auto times = take_turns({{"fma", [] { fma_burst(); }}}, {21, 0.005});
    return fma_burst() / median(times[0]);
  }();
  return peak;
}

void plain_copy::operator()() {
  constexpr std::size_t w = graft::simd::width<float>;
  for (std::size_t i = 0; i + w <= from_.size(); i += w) graft::simd::store(to_.data() + i, graft::simd::load(from_.data() + i));
  asm volatile("" : : "r"(to_.data()) : "memory");
}

void plain_read::operator()() const {
  constexpr std::size_t streams = 8, w = graft::simd::width<float>;  // apart, so that more than one page is under way
  const std::size_t each = from_.size() / streams / w * w;
  batch sum[streams];
  for (batch& s : sum) s = batch(0.0f);
  for (std::size_t i = 0; i < each; i += w)
    for (std::size_t s = 0; s < streams; ++s) sum[s] += graft::simd::load(from_.data() + s * each + i);
  for (std::size_t s = 1; s < streams; ++s) sum[0] += sum[s];
  volatile float sink = graft::simd::sum(sum[0]);
  (void)sink;
}

double copy_bandwidth(std::size_t footprint) {
  plain_copy copy(footprint);
  return copy.bytes() / median(take_turns({{"copy", [&] { copy(); }}})[0]);
}

double read_bandwidth(std::size_t bytes) {
  const plain_read read(bytes);
  return read.bytes() / median(take_turns({{"read", [&] { read(); }}})[0]);
}

std::string describe_machine() {
  char line[200];
  std::snprintf(line, sizeof line, "%s, %td floats a vector, multiply-add peak %.0f GFLOP/s, copy %.1f GB/s and read %.1f GB/s from memory (one thread)",
                xsimd::default_arch::name(), graft::simd::width<float>, fma_peak() * 1e-9, copy_bandwidth(std::size_t{256} << 20) * 1e-9,
                read_bandwidth(std::size_t{256} << 20) * 1e-9);
  return line;
}

void use_one_thread() {
  if (omp_set_num_threads != nullptr) omp_set_num_threads(1);
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
}

double peak_rss_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

}  // namespace bench
