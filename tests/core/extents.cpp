// SPDX-License-Identifier: Apache-2.0
#include "graft/core/extents.hpp"

#include <limits>

#include "support/catch.hpp"

using namespace graft;

TEST_CASE("a shape has a volume, strides and a text") {
  CHECK(volume(extents<0>{}) == 1);
  CHECK(volume(extents<3>{2, 3, 4}) == 24);
  CHECK(volume(extents<2>{5, 0}) == 0);
  CHECK(row_major_strides(extents<3>{2, 3, 4}) == extents<3>{12, 4, 1});
  CHECK(to_string(extents<3>{2, 3, 4}) == "(2, 3, 4)");
  CHECK(to_string(extents<0>{}) == "()");
}

TEST_CASE("sizes that no memory has are refused before anybody asks for it") {
  constexpr index_t most = std::numeric_limits<index_t>::max();
  CHECK(checked_bytes(extents<2>{3, 5}, 4) == 60);
  CHECK(checked_bytes(extents<2>{0, most}, 8) == 0);
  CHECK(checked_bytes(extents<1>{most}, 1) == static_cast<std::size_t>(most));
  CHECK_THROWS_WITH(checked_bytes(extents<2>{2, -1}, 4), "shape (2, -1) of 4-byte elements is negative or too large");
  CHECK_THROWS_AS(checked_bytes(extents<1>{most}, 2), shape_error);
  CHECK_THROWS_AS(checked_bytes(extents<2>{index_t{1} << 32, index_t{1} << 32}, 1), shape_error);
  CHECK_THROWS_AS(checked_bytes(extents<4>{index_t{1} << 16, index_t{1} << 16, index_t{1} << 16, index_t{1} << 15}, 1), shape_error);
}
