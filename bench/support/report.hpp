// SPDX-License-Identifier: Apache-2.0
// What every kernel's benchmark does after it has verified itself: time, and say how far from the machine's limit it is.
// Read next: kernel/softmax.cpp.
#pragma once
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

#include "graft/core/context.hpp"
#include "shapes.hpp"
#include "support/allocations.hpp"
#include "support/machine.hpp"
#include "support/near.hpp"
#include "support/timing.hpp"

namespace bench {

using graft::tensor;
using graft::test::random_tensor;

/// What one call does at the least: its arithmetic, and the bytes it must read and write, or only read.
struct work {
  double flops = 0, bytes = 0;
  bool only_reads = false;
};

inline constexpr double float_bytes = sizeof(float);

/// Ends the benchmark with an error unless the arrays agree: max|difference| <= relative * max|reference|.
template <class T, class U>
bool verify(benchmark::State& s, std::span<const T> got, std::span<const U> reference, double relative) {
  double difference = 0, scale = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - static_cast<double>(reference[i]));
    difference = std::isnan(d) ? HUGE_VAL : std::max(difference, d);
    scale = std::max(scale, std::abs(static_cast<double>(reference[i])));
  }
  if (got.size() == reference.size() && difference <= relative * scale) return true;
  s.SkipWithError(("wrong: differs by " + std::to_string(difference) + " of " + std::to_string(scale)).c_str());
  return false;
}
template <class T, class U, std::size_t Rank>
bool verify(benchmark::State& s, const tensor<T, Rank>& got, const tensor<U, Rank>& reference, double relative = 1e-5) {
  return verify<T, U>(s, got.span(), reference.span(), relative);
}

/// Times `run`, then against `others` and the machine in turns. Counters: GFLOP/s and `of_peak`, its share of the multiply-add
/// peak; GB/s; `of_limit`, the share of the time that the peak and a plain copy, or read, of as many bytes take, and `of_read` where
/// it only reads; calls of operator new; and for every other, how many times faster `run` is. `vs_oneDNN` is the ratio to the
/// faster of oneDNN's entries. A ratio is the median over rounds; with `_at_best` behind its name, that of the least times.
inline void measure(benchmark::State& s, const work& w, const std::function<void()>& run, std::vector<contender> others = {}, turns how = {7, 0.005}) {
  run();
  const std::size_t before = graft::test::allocations();
  run();
  const std::size_t allocations = graft::test::allocations() - before;
  for (auto _ : s) {
    run();
    benchmark::ClobberMemory();
  }
  const std::size_t footprint = static_cast<std::size_t>(w.bytes), peers = others.size();
  plain_copy copy(w.only_reads ? 0 : footprint);
  const plain_read read(w.only_reads ? footprint : 0);
  others.insert(others.begin(), {"graft", run});
  others.push_back({"peak", [] { fma_burst(); }});
  if (w.bytes != 0) others.push_back({"memory", [&] { w.only_reads ? read() : copy(); }});
  const round_times times = take_turns(others, how);
  const auto put = [&](const std::string& name, std::size_t other, double factor) {
    s.counters[name + "_at_best"] = factor * speed_ratio_at_best(times[0], times[other]);
    return double(s.counters[name] = factor * speed_ratio(times[0], times[other]));
  };
  const double seconds = median(times[0]);
  double of_peak = 0, of_memory = 0;
  if (w.flops != 0) {
    s.counters["GFLOP/s"] = 1e-9 * w.flops / seconds;
    of_peak = put("of_peak", peers + 1, w.flops / fma_burst());
  }
  if (w.bytes != 0) {
    s.counters["GB/s"] = 1e-9 * w.bytes / seconds;
    of_memory = put(w.only_reads ? "of_read" : "of_memory", peers + 2, w.bytes / (w.only_reads ? read.bytes() : copy.bytes()));
  }
  const bool by_flops = of_peak >= of_memory;
  s.counters["of_limit"] = by_flops ? of_peak : of_memory;
  s.counters["of_limit_at_best"] = s.counters[by_flops ? "of_peak_at_best" : w.only_reads ? "of_read_at_best" : "of_memory_at_best"];
  s.counters["allocations"] = static_cast<double>(allocations);
  std::size_t onednn = 0;  // its faster entry
  for (std::size_t i = 1; i <= peers; ++i) {
    const double ratio = put("vs_" + others[i].name, i, 1);
    if (others[i].name.starts_with("oneDNN") && (onednn == 0 || ratio < s.counters["vs_" + others[onednn].name])) onednn = i;
  }
  if (onednn != 0) put("vs_oneDNN", onednn, 1);
}

/// Every entry of a table of shapes.hpp as the arguments of a benchmark, whose name then says the sizes; activation_of() and
/// attention_of() read them back.
inline void every_activation(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "columns"});
  for (const activation_shape& a : activations) b->Args({a.rows, a.columns});
}
inline void every_attention(benchmark::internal::Benchmark* b) {
  b->ArgNames({"tokens", "heads", "kv_heads", "size"});
  for (const attention_shape& a : attention_layers) b->Args({a.sequence, a.heads, a.kv_heads, a.head_size});
}
inline activation_shape activation_of(const benchmark::State& s) { return {s.range(0), s.range(1)}; }
inline attention_shape attention_of(const benchmark::State& s) { return {s.range(0), s.range(1), s.range(2), s.range(3), ""}; }

}  // namespace bench
