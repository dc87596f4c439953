// SPDX-License-Identifier: Apache-2.0
#include "graft/core/thread_pool.hpp"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <vector>

#include "support/catch.hpp"

using namespace graft;

TEST_CASE("every chunk runs exactly once, with boundaries that do not depend on the threads") {
  for (index_t threads : {1, 2, 5}) {
    thread_pool pool(threads);
    CHECK(pool.concurrency() == threads);
    for (int repeat = 0; repeat < 300; ++repeat) {
      const index_t n = 1 + repeat % 37, grain = 1 + repeat % 5;
      std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
      std::atomic<bool> aligned{true};
      executor_ref(pool).parallel_for(n, grain, [&](index_t first, index_t last) {
        if (n > grain && (first % grain != 0 || last - first > grain)) aligned = false;
        for (index_t i = first; i < last; ++i) ++visits[static_cast<std::size_t>(i)];
      });
      bool once = aligned;
      for (const auto& v : visits) once = once && v == 1;
      REQUIRE(once);
    }
  }
}

TEST_CASE("workers wake up after they have gone to sleep") {
  thread_pool pool(3);
  std::atomic<int> sum{0};
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    pool.parallel_for(6, 1, [&](index_t, index_t) { ++sum; });
  }
  CHECK(sum == 120);
}

TEST_CASE("an exception in a chunk reaches the caller, and the pool goes on") {
  thread_pool pool(3);
  CHECK_THROWS_WITH(pool.parallel_for(8, 1, [](index_t i, index_t) { if (i == 5) throw std::runtime_error("chunk 5"); }), "chunk 5");
  std::atomic<int> sum{0};
  pool.parallel_for(8, 1, [&](index_t, index_t) { ++sum; });
  CHECK(sum == 8);
}

TEST_CASE("a nested parallel_for runs on its own thread") {
  thread_pool pool(3);
  std::atomic<int> sum{0};
  pool.parallel_for(4, 1, [&](index_t, index_t) { pool.parallel_for(5, 1, [&](index_t, index_t) { ++sum; }); });
  CHECK(sum == 20);
}
