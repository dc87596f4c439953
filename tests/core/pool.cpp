// SPDX-License-Identifier: Apache-2.0
#include "graft/core/pool.hpp"

#include <vector>

#include "support/catch.hpp"

using namespace graft;

TEST_CASE("a buffer returns to its pool with its last handle and is handed out again") {
  activation_pool pool;
  std::byte* first = nullptr;
  {
    const buffer_handle a = pool.take(1000);
    const buffer_handle b = a;  // NOLINT: the copy is the point
    first = a.data();
    CHECK_FALSE(a.unique());
    CHECK(pool.live_bytes() == a.capacity());
  }
  CHECK(pool.live_bytes() == 0);
  CHECK(pool.take(1000).data() == first);
  CHECK(pool.take(990).data() == first);
}

TEST_CASE("capacities waste at most an eighth beyond a cache line, and data is aligned") {
  activation_pool pool;
  for (std::size_t bytes : {1u, 64u, 65u, 127u, 128u, 129u, 1000u, 4096u, 5000u, 1000000u, 33554433u}) {
    const buffer_handle b = pool.take(bytes);
    CHECK(b.capacity() >= bytes);
    CHECK(b.capacity() <= bytes + bytes / 8 + 64);
    CHECK(reinterpret_cast<std::uintptr_t>(b.data()) % 64 == 0);
  }
}

TEST_CASE("memory of sizes no longer asked for is given back") {
  activation_pool pool;
  for (std::size_t mib = 1; mib <= 64; ++mib) pool.take(mib << 20);
  CHECK(pool.free_bytes() <= pool.peak_bytes() * 5 / 4 + (std::size_t{32} << 20));
}

TEST_CASE("scratch slots are distinct while leased") {
  scratch_space scratch(2);
  scratch.reserve(100);
  const auto a = scratch.take();
  const auto b = scratch.take();
  CHECK(a.as<char>() != b.as<char>());
}
