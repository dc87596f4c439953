// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/operand.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"

using namespace graft;

TEST_CASE("tensors and their views are operands, other things are not") {
  STATIC_REQUIRE(tensor_like<tensor<float, 2>>);
  STATIC_REQUIRE(tensor_like<const tensor<float, 0>&>);
  STATIC_REQUIRE(tensor_like<tensor_view<const std::int32_t, 3>>);
  STATIC_REQUIRE_FALSE(tensor_like<float>);
  STATIC_REQUIRE_FALSE(tensor_like<std::vector<float>>);
  STATIC_REQUIRE_FALSE(tensor_like<tensor_view<float, 2>*>);
  STATIC_REQUIRE(std::same_as<element_of<tensor_view<const float, 2>>, float>);
  STATIC_REQUIRE(rank_of<const tensor<float, 3>&> == 3);
}

TEST_CASE("axes count from either end") {
  CHECK(detail::checked_axis("f", 0, 3) == 0);
  CHECK(detail::checked_axis("f", 2, 3) == 2);
  CHECK(detail::checked_axis("f", -1, 3) == 2);
  CHECK(detail::checked_axis("f", -3, 3) == 0);
  CHECK_THROWS_WITH(detail::checked_axis("f", 3, 3), "f: axis 3 of a tensor of rank 3");
  CHECK_THROWS_WITH(detail::checked_axis("f", -4, 3), "f: axis -4 of a tensor of rank 3");
  CHECK_THROWS_AS(detail::checked_axis("f", 0, 0), shape_error);
}

TEST_CASE("an axis goes last and comes back") {
  for (std::size_t axis = 0; axis < 4; ++axis) {
    const auto last = detail::axis_last<4>(axis), back = detail::axis_back<4>(axis);
    CHECK(last[3] == axis);
    for (std::size_t i = 0; i < 4; ++i) CHECK(last[back[i]] == i);
  }
}
