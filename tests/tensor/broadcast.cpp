// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/broadcast.hpp"

#include "support/catch.hpp"

using namespace graft;
using detail::broadcast_shape;

TEST_CASE("shapes meet from the last axis backwards") {
  CHECK(broadcast_shape("f", extents<2>{2, 3}, extents<2>{2, 3}) == extents<2>{2, 3});
  CHECK(broadcast_shape("f", extents<2>{2, 3}, extents<1>{3}) == extents<2>{2, 3});
  CHECK(broadcast_shape("f", extents<2>{4, 1}, extents<2>{1, 5}) == extents<2>{4, 5});
  CHECK(broadcast_shape("f", extents<0>{}, extents<3>{2, 1, 7}) == extents<3>{2, 1, 7});
  CHECK(broadcast_shape("f", extents<4>{8, 1, 6, 1}, extents<3>{7, 1, 5}) == extents<4>{8, 7, 6, 5});
  CHECK(broadcast_shape("f", extents<2>{0, 3}, extents<2>{1, 3}) == extents<2>{0, 3});
  CHECK(broadcast_shape("f", extents<1>{1}, extents<1>{0}) == extents<1>{0});
  CHECK(broadcast_shape("f", extents<0>{}, extents<0>{}) == extents<0>{});
}

TEST_CASE("shapes that do not meet are named, with the axis") {
  CHECK_THROWS_WITH(broadcast_shape("add", extents<2>{2, 3}, extents<2>{2, 4}), "add: shapes (2, 3) and (2, 4) do not broadcast at axis 1");
  CHECK_THROWS_WITH(broadcast_shape("add", extents<2>{2, 3}, extents<1>{2}), "add: shapes (2, 3) and (2) do not broadcast at axis 1");
  CHECK_THROWS_WITH(broadcast_shape("f", extents<2>{2, 3}, extents<1>{1}, extents<3>{1, 5, 3}),
                    "f: shapes (2, 3), (1) and (1, 5, 3) do not broadcast at axis 1");
  CHECK_THROWS_AS(broadcast_shape("f", extents<1>{0}, extents<1>{2}), shape_error);
}

TEST_CASE("a stretched view repeats its elements") {
  const auto t = tensor<int, 2>::of({{1}, {2}});
  const auto wide = detail::broadcast_to("f", t.view(), extents<3>{4, 2, 3});
  CHECK(wide.shape == extents<3>{4, 2, 3});
  CHECK(wide(3, 0, 2) == 1);
  CHECK(wide(0, 1, 1) == 2);
  CHECK_THROWS_WITH(detail::broadcast_to("f", t.view(), extents<2>{3, 1}), "f: shape (2, 1) does not broadcast to (3, 1)");
  CHECK_THROWS_WITH(detail::broadcast_to("f", t.view(), extents<1>{2}), "f: shape (2, 1) does not broadcast to (2)");
}

TEST_CASE("writing in place disturbs what overlaps it otherwise") {
  auto t = tensor<float, 2>::zeros({4, 4});
  const auto v = t.view();
  CHECK_FALSE(detail::disturbs(v, v));
  CHECK(detail::disturbs(v, v.transpose()));
  CHECK(detail::disturbs(v.slice(0, 1, 4), v.slice(0, 0, 3)));
  CHECK_FALSE(detail::disturbs(v.slice(0, 0, 2), v.slice(0, 2, 4)));
  CHECK(detail::disturbs(v, detail::broadcast_to("f", v.slice(0, 0, 1), extents<2>{4, 4})));
  CHECK_FALSE(detail::disturbs(v.slice(0, 1, 2), v.slice(0, 1, 2)));
  CHECK_FALSE(detail::disturbs(v, tensor<float, 2>::zeros({4, 4}).view()));
}
