// SPDX-License-Identifier: Apache-2.0
// A disk that is full, without one.
#pragma once
#include <sys/resource.h>

#include <csignal>
#include <cstdlib>

namespace graft::test {

/// While it lives, no file of this process can grow beyond `bytes`: to a writer the disk is full.
class small_disk {
 public:
  explicit small_disk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    if (::getrlimit(RLIMIT_FSIZE, &before_) != 0) std::abort();
    const rlimit small{bytes, before_.rlim_max};
    if (::setrlimit(RLIMIT_FSIZE, &small) != 0) std::abort();
  }
  small_disk(const small_disk&) = delete;
  ~small_disk() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

}  // namespace graft::test
