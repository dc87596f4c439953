// SPDX-License-Identifier: Apache-2.0
// A small pool for programs that have none of their own; the only header with <thread>. Read next: core/context.hpp.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "graft/core/executor.hpp"

namespace graft {

namespace detail {

inline void spin_pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace detail

/// Runs chunks on a fixed set of threads and on the calling thread. Workers spin for some 50 us after the last job, then
/// sleep: a hand-off costs 0.2 us while work keeps coming and 40-90 us from sleep. One parallel_for at a time; a nested
/// call, or one from a second thread while a job runs, does its chunks on its own thread.
class thread_pool {
 public:
  /// `threads` counts the calling thread; 0 means one per hardware thread.
  explicit thread_pool(index_t threads = 0) {
    if (threads <= 0) threads = static_cast<index_t>(std::thread::hardware_concurrency());
    for (index_t i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;

  ~thread_pool() {
    stop_.store(true);
    wake_.fetch_add(1);
    wake_.notify_all();
    for (std::thread& w : workers_) w.join();
  }

  index_t concurrency() const noexcept { return static_cast<index_t>(workers_.size()) + 1; }

  void parallel_for(index_t n, index_t grain, function_ref<void(index_t, index_t)> body) {
    if (workers_.empty() || busy_.exchange(true, std::memory_order_acquire)) {
      inline_executor::parallel_for(n, grain, body);
      return;
    }
    const auto chunks = static_cast<std::uint32_t>((n + grain - 1) / grain);
    failed_.store(false, std::memory_order_relaxed);
    error_ = nullptr;
    done_.store(0, std::memory_order_relaxed);
    body_.store(&body, std::memory_order_relaxed);
    n_.store(n, std::memory_order_relaxed);
    grain_.store(grain, std::memory_order_relaxed);
    chunks_.store(chunks, std::memory_order_relaxed);
    const std::uint64_t epoch = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(epoch << 32 | chunks, std::memory_order_release);
    wake_.fetch_add(1);  // sequentially consistent: a worker either sees this or is counted as a sleeper
    if (sleepers_.load() != 0) wake_.notify_all();

    while (run_one_chunk()) {}
    for (int pauses = 0; done_.load(std::memory_order_acquire) != chunks; ++pauses) {
      if (pauses < 200) detail::spin_pause();
      else std::this_thread::yield();
    }
    const std::exception_ptr failure = failed_.load(std::memory_order_acquire) ? error_ : nullptr;
    busy_.store(false, std::memory_order_release);
    if (failure) std::rethrow_exception(failure);
  }

 private:
  // A ticket holds the job's number in its upper half and the count of unclaimed chunks in its lower half. A claim that
  // succeeds proves that the job was unfinished all along, so that the parameters read before it are that job's.
  bool run_one_chunk() {
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
      const auto unclaimed = static_cast<std::uint32_t>(ticket);
      if (unclaimed == 0) return false;
      const auto* body = body_.load(std::memory_order_relaxed);
      const index_t n = n_.load(std::memory_order_relaxed), grain = grain_.load(std::memory_order_relaxed);
      const std::uint32_t chunks = chunks_.load(std::memory_order_relaxed);
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) continue;
      const index_t first = static_cast<index_t>(chunks - unclaimed) * grain;
      try {
        (*body)(first, first + grain < n ? first + grain : n);
      } catch (...) {
        if (!failed_.exchange(true, std::memory_order_acq_rel)) error_ = std::current_exception();
      }
      done_.fetch_add(1, std::memory_order_acq_rel);
      return true;
    }
  }

  void work() {
    constexpr int spins = 2000;  // about 50 us
    std::uint32_t seen = wake_.load();
    while (!stop_.load()) {
      while (run_one_chunk()) {}
      for (int i = 0; i < spins && wake_.load() == seen; ++i) detail::spin_pause();
      if (wake_.load() == seen) {
        sleepers_.fetch_add(1);
        wake_.wait(seen);
        sleepers_.fetch_sub(1);
      }
      seen = wake_.load();
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<bool> stop_{false}, busy_{false}, failed_{false};
  std::exception_ptr error_;
  alignas(64) std::atomic<std::uint32_t> wake_{0};
  std::atomic<std::uint32_t> sleepers_{0};
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  std::atomic<std::uint32_t> chunks_{0};
  std::atomic<const function_ref<void(index_t, index_t)>*> body_{nullptr};
  std::atomic<index_t> n_{0}, grain_{1};
  alignas(64) std::atomic<std::uint32_t> done_{0};
};

}  // namespace graft
