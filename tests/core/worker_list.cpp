// SPDX-License-Identifier: Apache-2.0
#include "graft/core/worker_list.hpp"

#include <atomic>
#include <stdexcept>

#include "graft/core/thread_pool.hpp"
#include "support/catch.hpp"

using namespace graft;

TEST_CASE("a worker that is idle again is lent before another is made") {
  worker_list<int> workers;
  int made = 0;
  const auto make = [&] { return ++made; };
  {
    const auto a = workers.take(make), b = workers.take(make);
    CHECK(*a == 1);
    CHECK(*b == 2);
  }
  const auto c = workers.take(make), d = workers.take(make);
  CHECK(*c + *d == 3);
  CHECK(made == 2);
}

TEST_CASE("a worker comes back from a body that throws") {
  worker_list<int> workers;
  int made = 0;
  const auto make = [&] { return ++made; };
  CHECK_THROWS_AS([&] { const auto w = workers.take(make); throw std::runtime_error("stop"); }(), std::runtime_error);
  CHECK(*workers.take(make) == 1);
  CHECK_THROWS_AS(worker_list<int>().take([]() -> int { throw std::runtime_error("cannot"); }), std::runtime_error);
}

TEST_CASE("no two bodies hold the same worker at once") {
  struct worker {
    bool busy = false;
  };
  worker_list<worker> workers;
  thread_pool pool(7);
  std::atomic<int> made = 0, clashes = 0;
  pool.parallel_for(2000, 1, [&](index_t, index_t) {
    const auto w = workers.take([&] { ++made; return worker{}; });
    clashes += std::exchange(w->busy, true);
    w->busy = false;
  });
  CHECK(clashes == 0);
  CHECK(made <= 7);
}
