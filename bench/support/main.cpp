// SPDX-License-Identifier: Apache-2.0
// Google Benchmark's main, which first says what the machine can do.
#include <benchmark/benchmark.h>

#include <cstdio>

#include "support/machine.hpp"

int main(int argc, char** argv) {
  bench::use_one_thread();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  std::fprintf(stderr, "%s\n", bench::describe_machine().c_str());
  benchmark::RunSpecifiedBenchmarks();
}
