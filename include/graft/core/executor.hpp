// SPDX-License-Identifier: Apache-2.0
// Where parallel work runs: a concept a host's own pool can meet in ten lines. Read next: core/thread_pool.hpp.
#pragma once
#include <concepts>
#include <type_traits>

#include "graft/core/function_ref.hpp"
#include "graft/core/index.hpp"
#include "graft/core/macros.hpp"

namespace graft {

/// body(first, last) runs once for every chunk of `grain` indices of [0, n), on any threads, and all calls have returned
/// when parallel_for does. Chunk boundaries depend on n and grain alone: that is what makes results independent of the
/// number of threads. An exception thrown by body reaches the caller of parallel_for.
template <class E>
concept executor = requires(E& e, index_t n, function_ref<void(index_t, index_t)> body) {
  { e.concurrency() } -> std::convertible_to<index_t>;  // how many bodies may run at once
  e.parallel_for(n, n, body);
};

/// Runs every chunk on the calling thread, in order.
struct inline_executor {
  static constexpr index_t concurrency() noexcept { return 1; }
  static void parallel_for(index_t n, index_t grain, function_ref<void(index_t, index_t)> body) {
    for (index_t first = 0; first < n; first += grain) body(first, first + grain < n ? first + grain : n);
  }
};

/// Refers to an executor somebody else owns; without one, runs on the calling thread.
class executor_ref {
 public:
  executor_ref() noexcept : executor_ref(serial()) {}

  template <executor E>
    requires(!std::same_as<E, executor_ref>)
  executor_ref(E& e) noexcept
      : object_(&e),
        concurrency_([](void* object) -> index_t { return static_cast<E*>(object)->concurrency(); }),
        parallel_for_([](void* object, index_t n, index_t grain, function_ref<void(index_t, index_t)> body) {
          static_cast<E*>(object)->parallel_for(n, grain, body);
        }) {}

  index_t concurrency() const { return concurrency_(object_); }

  void parallel_for(index_t n, index_t grain, function_ref<void(index_t, index_t)> body) const {
    GRAFT_ASSERT(grain > 0);
    if (n <= 0) return;
    if (n <= grain) body(0, n);
    else parallel_for_(object_, n, grain, body);
  }

 private:
  static inline_executor& serial() noexcept {
    static inline_executor e;
    return e;
  }

  void* object_;
  index_t (*concurrency_)(void*);
  void (*parallel_for_)(void*, index_t, index_t, function_ref<void(index_t, index_t)>);
};

}  // namespace graft
