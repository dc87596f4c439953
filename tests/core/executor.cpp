// SPDX-License-Identifier: Apache-2.0
#include "graft/core/executor.hpp"

#include <utility>
#include <vector>

#include "graft/core/context.hpp"
#include "support/catch.hpp"

using namespace graft;

namespace {

/// The least that a host's own pool must have.
struct smallest {
  int calls = 0;
  index_t concurrency() const { return 5; }
  void parallel_for(index_t n, index_t grain, function_ref<void(index_t, index_t)> body) {
    ++calls;
    inline_executor::parallel_for(n, grain, body);
  }
};
struct no_executor {
  void parallel_for(index_t, index_t) {}
};
static_assert(executor<smallest> && executor<inline_executor> && !executor<no_executor> && !executor<int>);

using chunks = std::vector<std::pair<index_t, index_t>>;
chunks taken(const executor_ref& e, index_t n, index_t grain) {
  chunks all;
  e.parallel_for(n, grain, [&](index_t first, index_t last) { all.emplace_back(first, last); });
  return all;
}

}  // namespace

TEST_CASE("without an executor work runs here, chunk by chunk and in order") {
  const executor_ref here;
  CHECK(here.concurrency() == 1);
  CHECK(taken(here, 7, 3) == chunks{{0, 3}, {3, 6}, {6, 7}});
  CHECK(taken(here, 6, 3) == chunks{{0, 3}, {3, 6}});
  CHECK(taken(here, 3, 5) == chunks{{0, 3}});
  CHECK(taken(here, 0, 5).empty());
  CHECK(taken(here, -4, 5).empty());
}

TEST_CASE("any host's executor serves, and is left alone with what is one chunk") {
  smallest host;
  context ctx(host);
  CHECK(ctx.executor().concurrency() == 5);
  CHECK(taken(ctx.executor(), 10, 10) == chunks{{0, 10}});
  CHECK(host.calls == 0);
  CHECK(taken(ctx.executor(), 10, 4) == chunks{{0, 4}, {4, 8}, {8, 10}});
  CHECK(host.calls == 1);
}
