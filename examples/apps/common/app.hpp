// SPDX-License-Identifier: Apache-2.0
// What every program shares: arguments, exit codes, progress, results as JSON. Read next: ../generate.cpp.
#pragma once
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "graft/core/thread_pool.hpp"
#include "graft/io/atomic_file.hpp"

namespace app {

using results = nlohmann::ordered_json;

/// Parses arguments and runs the program: exit code 0, 1 when the run failed, 2 for bad arguments. Errors go to stderr.
template <class Run>
int main(CLI::App& cli, int argc, char** argv, Run run) {
  try {
    cli.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const bool asked = e.get_exit_code() == 0;  // --help
    cli.exit(e);
    return asked ? 0 : 2;
  }
  try {
    run();
    return 0;
  } catch (const graft::option_error& e) {
    std::fprintf(stderr, "%s: %s\n", cli.get_name().c_str(), e.what());
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", cli.get_name().c_str(), e.what());
    return 1;
  }
}

/// Options every program has.
struct common_options {
  std::string json;
  graft::index_t threads = 0;

  void add_to(CLI::App& cli) {
    cli.add_option("--json", json, "Write the results to this file");
    cli.add_option("--threads", threads, "Threads to compute with; 0: one per hardware thread")->check(CLI::Range(0, 1024));
  }
  void write(const results& r) const {
    if (!json.empty()) graft::write_file_atomically(json, r.dump(2) + "\n");
  }
};

class stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// One line on a terminal, rewritten at most ten times a second: how far, how fast, how long still. Silent when piped.
class progress {
 public:
  progress(std::string title, double total, std::string unit)
      : title_(std::move(title)), unit_(std::move(unit)), total_(total), on_(::isatty(STDERR_FILENO) == 1) {}
  progress(const progress&) = delete;
  ~progress() {
    if (on_ && drawn_ >= 0) std::fprintf(stderr, "\r\033[K");
  }
  void at(double done, const std::string& remark = {}) {
    const double now = clock_.seconds();
    if (!on_ || (drawn_ >= 0 && now - drawn_ < 0.1)) return;
    drawn_ = now;
    const double rate = now > 0 ? done / now : 0, left = rate > 0 ? (total_ - done) / rate : 0;
    std::fprintf(stderr, "\r\033[K%s %3.0f%%  %.1f %s/s  %.0f s left  %s", title_.c_str(), 100 * done / total_, rate, unit_.c_str(), left,
                 remark.c_str());
  }

 private:
  std::string title_, unit_;
  double total_;
  bool on_;
  double drawn_ = -1;
  stopwatch clock_;
};

/// The most memory this process has held, in bytes.
inline std::uint64_t peak_rss_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

/// A whole text file. Throws io_error naming it; option_error when it is empty.
inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) graft::throw_error<graft::io_error>("cannot read \"", path.string(), "\"");
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (text.empty()) graft::throw_error<graft::format_error>("\"", path.string(), "\" is empty");
  return text;
}

}  // namespace app
