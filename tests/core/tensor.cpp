// SPDX-License-Identifier: Apache-2.0
#include "graft/core/tensor.hpp"

#include <vector>

#include "support/catch.hpp"

using namespace graft;

TEST_CASE("a tensor takes nested lists, and refuses ragged ones") {
  const auto t = tensor<int, 2>::of({{1, 2, 3}, {4, 5, 6}});
  CHECK(t.shape() == extents<2>{2, 3});
  CHECK(t(1, 2) == 6);
  CHECK_THROWS_WITH((tensor<int, 2>::of({{1, 2}, {3}})), "tensor: nested lists differ in length: 1 where 2 came first");
}

TEST_CASE("views share elements") {
  tensor<float, 3> t({2, 3, 4});
  for (index_t i = 0; i < t.size(); ++i) t.data()[i] = static_cast<float>(i);

  CHECK(t.transpose()(1, 3, 2) == t(1, 2, 3));
  CHECK(t.permute({2, 0, 1})(3, 1, 2) == t(1, 2, 3));
  CHECK(t.select(1, 2)(1, 3) == t(1, 2, 3));
  CHECK(t.row(1)(2, 3) == t(1, 2, 3));
  CHECK(t.slice(2, 1, 4, 2)(1, 2, 1) == t(1, 2, 3));
  CHECK(t.slice(2, 1, 4, 2).shape == extents<3>{2, 3, 2});
  CHECK(t.reshape(6, 4)(5, 3) == t(1, 2, 3));
  t.row(1)(2, 3) = -1;
  CHECK(t(1, 2, 3) == -1);
  CHECK(tensor<float, 3>::copy_of(t.permute({2, 0, 1}))(3, 1, 2) == -1);
}

TEST_CASE("views name what does not fit") {
  const tensor<float, 2> t = tensor<float, 2>::zeros({2, 3});
  CHECK_THROWS_WITH(t.slice(1, 2, 4), "slice: [2, 4) step 1 does not lie in axis 1 of (2, 3)");
  CHECK_THROWS_WITH(t.row(2), "select: position 2 does not lie in axis 0 of (2, 3)");
  CHECK_THROWS_WITH(t.reshape(4, 2), "reshape: (2, 3) has 6 elements, (4, 2) has 8");
  CHECK_THROWS_WITH(t.transpose().reshape(6), "reshape: a view of shape (3, 2) is not contiguous; clone() it first");
  CHECK_THROWS_AS(t.permute({0, 0}), shape_error);
}

TEST_CASE("a span becomes a view without a copy") {
  std::vector<double> v{1, 2, 3, 4, 5, 6};
  const tensor_view<double, 2> m(std::span<double>(v), {2, 3});
  m(1, 0) = 40;
  CHECK(v[3] == 40);
  CHECK_THROWS_WITH((tensor_view<double, 2>(std::span<double>(v), {2, 2})), "tensor_view: 6 elements cannot be seen as (2, 2)");
}

TEST_CASE("impossible shapes are refused before memory is asked for") {
  CHECK_THROWS_AS((tensor<float, 2>({-1, 3})), shape_error);
  CHECK_THROWS_AS((tensor<float, 2>({index_t{1} << 40, index_t{1} << 40})), shape_error);
}

TEST_CASE("moving leaves an empty tensor behind") {
  auto a = tensor<float, 1>::of({1, 2, 3});
  const tensor<float, 1> b = std::move(a);
  CHECK(b.size() == 3);
  CHECK(a.size() == 0);  // NOLINT: the moved-from state is documented
}
