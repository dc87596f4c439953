// SPDX-License-Identifier: Apache-2.0
// Timing on a machine that does other things as well: contenders take turns, medians are compared. Read next: machine.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

namespace bench {

/// Seconds this thread has computed: what other programs take from the machine does not count.
inline double thread_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

inline double wall_seconds() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

/// Something to be timed against others. Runs on the calling thread, unless turns::clock is the wall's.
struct contender {
  std::string name;
  std::function<void()> run;
};

struct turns {
  int rounds = 7;
  double seconds = 0.01;  // of one turn, at least
  double (*clock)() = thread_seconds;
};

/// BENCH_SMOKE in the environment: everything is verified, and timed once.
inline bool only_verifies() { return std::getenv("BENCH_SMOKE") != nullptr; }

/// Seconds of one call, in every round, for every contender: times[contender][round].
using round_times = std::vector<std::vector<double>>;

/// Runs the contenders in turns, A B C A B C ..., each turn long enough to be measured; three rounds do where calls are long.
inline round_times take_turns(const std::vector<contender>& contenders, turns how = {}) {
  if (only_verifies()) how.rounds = 1, how.seconds = 0;
  std::vector<long> calls;
  double longest = 0;
  for (const contender& c : contenders) {
    c.run();  // warm
    const double start = how.clock();
    c.run();
    const double once = std::max(how.clock() - start, 1e-7);
    calls.push_back(std::max(1L, std::lround(how.seconds / once)));
    longest = std::max(longest, once);
  }
  if (longest > 0.1) how.rounds = std::min(how.rounds, 3);
  round_times times(contenders.size());
  for (int round = 0; round < how.rounds; ++round)
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      const double start = how.clock();
      for (long n = 0; n < calls[i]; ++n) contenders[i].run();
      times[i].push_back((how.clock() - start) / static_cast<double>(calls[i]));
    }
  return times;
}

/// How many times faster `ours` is: the median over rounds of the ratio within a round, where both met the same machine.
inline double speed_ratio(const std::vector<double>& ours, const std::vector<double>& theirs) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < ours.size(); ++i) ratios.push_back(theirs[i] / ours[i]);
  return median(ratios);
}

/// The same where each is taken in its least disturbed round: neighbours on a shared processor only ever add time.
inline double speed_ratio_at_best(const std::vector<double>& ours, const std::vector<double>& theirs) {
  return *std::min_element(theirs.begin(), theirs.end()) / *std::min_element(ours.begin(), ours.end());
}

}  // namespace bench
