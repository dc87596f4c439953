// SPDX-License-Identifier: Apache-2.0
// Timing of whole training steps, for programs that run alone and print `name value` lines for compare.sh. C++17: the
// programs of peers include it too. Read next: end_to_end/lora_step.cpp.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include "support/timing.hpp"

namespace bench {

/// The step every program of a comparison takes.
struct step_options {
  int warm = 2, steps = 10;
  long tokens = 256;
};

/// --steps N, --tokens N; anything else ends the program.
inline step_options parse_step_options(int argc, char** argv) {
  step_options o;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    const long value = i + 1 < argc ? std::atol(argv[i + 1]) : 0;
    if (value < 1 || (name != "--steps" && name != "--tokens")) {
      std::fprintf(stderr, "usage: %s [--steps N] [--tokens N]\n", argv[0]);
      std::exit(2);
    }
    if (name == "--steps") o.steps = static_cast<int>(value);
    else o.tokens = value;
  }
  return o;
}

struct step_times {
  std::vector<double> wall, computed;  // seconds of every step; `computed` is processor time of all threads
};

/// Runs step() a few times unmeasured, then measured.
template <class F>
step_times time_steps(const step_options& o, F step) {
  const auto processor_seconds = [] {
    timespec t{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  for (int n = 0; n < o.warm; ++n) step();
  step_times times;
  for (int n = 0; n < o.steps; ++n) {
    const double wall = wall_seconds(), computed = processor_seconds();
    step();
    times.wall.push_back(wall_seconds() - wall);
    times.computed.push_back(processor_seconds() - computed);
  }
  return times;
}

inline void print_value(const char* name, double value) { std::printf("%-26s %.6g\n", name, value); }

/// The median rates: by the clock, and by the seconds that the processor spent on this program.
inline void print_rates(const step_options& o, const step_times& times) {
  print_value("tokens_per_second", static_cast<double>(o.tokens) / median(times.wall));
  print_value("tokens_per_cpu_second", static_cast<double>(o.tokens) / median(times.computed));
}

}  // namespace bench
