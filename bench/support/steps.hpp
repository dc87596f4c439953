// SPDX-License-Identifier: Apache-2.0
// What the programs that time whole training steps share: options, the example data, timing, and `name value` lines for
// compare.py. C++17: the programs of peers include it too. Read next: end_to_end/lora_step.cpp.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "support/timing.hpp"

namespace bench {

/// The step every program of a comparison takes.
struct step_options {
  std::string model = "smollm-135m";  // or stories-260k, minilm
  std::string verify;                 // a folder with a model and an adapter: print the losses of a few steps from there
  int warm = 2, steps = 10;
  long batch = 1, tokens = 256;  // sequences, and tokens of each
  int threads = 1;
  bool checkpointing = false;

  // Ours only.
  bool bf16 = false;         // products of bf16 pairs
  bool int16 = false;        // a token's rows rounded to 16 bits where weights are in blocks
  bool int16_saved = false;  // what is kept for the backward pass rounded to 16 bits
  bool cost = false;         // print time and memory by operation
  bool last_only = false;    // LoRA on the last layer alone
  bool dora = false;         // DoRA instead of LoRA
  bool adapter = false;      // decoding with LoRA attached
  long micro_batch = -1;     // sequences a thread takes at a time; 0: as many as graft takes unasked; -1: all threads take the batch together
  long memory_budget = 0;    // MiB: as few layers are computed twice as that needs; 0: without limit
  std::string dtype;         // of the frozen weights, which then come from a file
};

constexpr double step_rate = 1e-3;   // of AdamW, everything else as PyTorch's default
constexpr int verified_steps = 3;
constexpr int decode_prompt = 8, verified_tokens = 12;

/// Ends the program with its usage unless every argument is known.
inline step_options parse_step_options(int argc, char** argv) {
  step_options o;
  const auto usage = [&] {
    std::fprintf(stderr, "usage: %s [--model NAME] [--verify FOLDER] [--warm N] [--steps N] [--batch N] [--tokens N] [--threads N] [--checkpointing]\n"
                 "       ours also: [--bf16] [--int16] [--int16-saved] [--cost] [--last-only] [--dora] [--adapter] [--micro-batch N] [--memory-budget MIB] [--dtype bf16|f16|q8_0|q4_0|nf4]\n",
                 argv[0]);
    std::exit(2);
  };
  using options = step_options;
  constexpr std::pair<const char*, bool options::*> flags[] = {
      {"--checkpointing", &options::checkpointing}, {"--bf16", &options::bf16}, {"--int16", &options::int16}, {"--int16-saved", &options::int16_saved},
      {"--cost", &options::cost}, {"--last-only", &options::last_only}, {"--dora", &options::dora}, {"--adapter", &options::adapter}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    const auto flag = std::find_if(std::begin(flags), std::end(flags), [&](const auto& f) { return name == f.first; });
    if (flag != std::end(flags)) {
      o.*flag->second = true;
      continue;
    }
    if (++i == argc) usage();
    const long value = std::atol(argv[i]);
    if (name == "--model") o.model = argv[i];
    else if (name == "--verify") o.verify = argv[i];
    else if (name == "--dtype") o.dtype = argv[i];
    else if (name == "--warm" && std::strcmp(argv[i], "0") == 0) o.warm = 0;
    else if (name == "--micro-batch" && std::strcmp(argv[i], "0") == 0) o.micro_batch = 0;
    else if (value < 1) usage();
    else if (name == "--warm") o.warm = static_cast<int>(value);
    else if (name == "--steps") o.steps = static_cast<int>(value);
    else if (name == "--batch") o.batch = value;
    else if (name == "--micro-batch") o.micro_batch = value;
    else if (name == "--memory-budget") o.memory_budget = value;
    else if (name == "--tokens") o.tokens = value;
    else if (name == "--threads") o.threads = static_cast<int>(value);
    else usage();
  }
  return o;
}

/// Token n of a batch, counted over its sequences; every program draws the same.
inline long example_token(long n, long vocabulary) { return (31 * n * n + 7919 * n + 13) % vocabulary; }

struct step_times {
  std::vector<double> wall, computed;  // seconds of every step; `computed` is processor time of all threads
};

/// Processor time of all threads.
inline double processor_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Runs step() a few times unmeasured, then measured.
template <class F>
step_times time_steps(const step_options& o, F step) {
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

inline void print_value(const char* name, double value) { std::printf("%-26s %.9g\n", name, value); }

/// The median rates: by the clock, and by the seconds that the processor spent on this program.
inline void print_rates(const step_options& o, const step_times& times) {
  const double sequences = static_cast<double>(o.batch), tokens = sequences * static_cast<double>(o.tokens);
  print_value("tokens_per_second", tokens / median(times.wall));
  print_value("tokens_per_cpu_second", tokens / median(times.computed));
  print_value("samples_per_cpu_second", sequences / median(times.computed));
}

}  // namespace bench
