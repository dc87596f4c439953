// SPDX-License-Identifier: Apache-2.0
#include "graft/linalg/eigen_view.hpp"

#include "support/catch.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::layouts;
using test::some;

TEMPLATE_TEST_CASE("Eigen sees the elements of a tensor where they are, in every layout", "", float, double, std::int32_t) {
  const auto t = some<TestType>(extents<2>{4, 7}, 1);
  for (auto& l : layouts(t)) {
    auto m = as_eigen(l.view);
    REQUIRE(m.rows() == 4);
    REQUIRE(m.cols() == 7);
    for (index_t i = 0; i < 4; ++i)
      for (index_t j = 0; j < 7; ++j) REQUIRE(&m(i, j) == &l.view(i, j));
    m(2, 3) = TestType(42);
    CHECK(l.view(2, 3) == TestType(42));
  }
  const auto v = some<TestType>(extents<1>{9}, 1);
  for (const auto& l : layouts(v)) {
    const auto e = as_eigen(l.view);
    REQUIRE(e.size() == 9);
    for (index_t i = 0; i < 9; ++i) REQUIRE(&e(i) == &l.view(i));
  }
}

TEST_CASE("Eigen computes on tensors, and reads const ones") {
  auto a = some<double>(extents<2>{5, 3}, 1);
  const auto b = some<double>(extents<2>{3, 4}, 2);
  auto c = tensor<double, 2>::zeros({5, 4});
  as_eigen(c).noalias() = as_eigen(a) * as_eigen(b);
  for (index_t i = 0; i < 5; ++i)
    for (index_t j = 0; j < 4; ++j) {
      double sum = 0;
      for (index_t k = 0; k < 3; ++k) sum += a(i, k) * b(k, j);
      CHECK(c(i, j) == Approx(sum));
    }
  STATIC_REQUIRE(std::is_const_v<std::remove_pointer_t<decltype(as_eigen(b).data())>>);
  STATIC_REQUIRE_FALSE(std::is_const_v<std::remove_pointer_t<decltype(as_eigen(a).data())>>);
  as_eigen(a.select(1, 2)).setConstant(7);
  CHECK(a(4, 2) == 7);
}

TEST_CASE("graft sees the elements of Eigen's matrices, blocks and maps where they are") {
  const auto same_place = [](auto&& m, auto view) {
    REQUIRE(view.shape == extents<2>{m.rows(), m.cols()});
    for (index_t i = 0; i < m.rows(); ++i)
      for (index_t j = 0; j < m.cols(); ++j) REQUIRE(view(i, j) == m(i, j));
    if (m.size() > 0) CHECK(&view(0, 0) == m.data());
  };
  Eigen::MatrixXf columns = Eigen::MatrixXf::Random(5, 6);
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows = decltype(rows)::Random(3, 4);
  Eigen::Matrix<int, 2, 3> fixed;
  fixed << 1, 2, 3, 4, 5, 6;
  Eigen::ArrayXXf array = Eigen::ArrayXXf::Random(4, 4);
  same_place(columns, as_view(columns));
  same_place(std::as_const(columns), as_view(std::as_const(columns)));
  same_place(rows, as_view(rows));
  same_place(fixed, as_view(fixed));
  same_place(array, as_view(array));
  same_place(columns.transpose(), as_view(columns.transpose()));
  same_place(columns.block(1, 2, 3, 2), as_view(columns.block(1, 2, 3, 2)));
  same_place(rows.middleRows(1, 2), as_view(rows.middleRows(1, 2)));
  same_place(Eigen::MatrixXf(0, 3), as_view(Eigen::Map<Eigen::MatrixXf>(nullptr, 0, 3)));

  as_view(columns)(1, 2) = 42;
  CHECK(columns(1, 2) == 42);
  as_view(columns.block(2, 2, 2, 2))(0, 0) = 43;
  CHECK(columns(2, 2) == 43);
  STATIC_REQUIRE(std::same_as<decltype(as_view(std::as_const(columns))), tensor_view<const float, 2>>);
}

TEST_CASE("what Eigen knows to be a vector is one") {
  Eigen::VectorXd v = Eigen::VectorXd::LinSpaced(4, 0, 3);
  Eigen::MatrixXd m = Eigen::MatrixXd::Random(3, 4);
  STATIC_REQUIRE(std::same_as<decltype(as_view(v)), tensor_view<double, 1>>);
  CHECK(as_view(v)(3) == 3);
  CHECK(as_view(m.row(1)).stride[0] == 3);
  CHECK(as_view(m.row(1))(2) == m(1, 2));
  CHECK(as_view(m.col(2))(1) == m(1, 2));
  CHECK(as_view(v.segment(1, 2))(1) == 2);
}

TEST_CASE("there and back is the same memory") {
  auto t = some<float>(extents<2>{3, 5}, 1);
  const auto back = as_view(as_eigen(t.transpose()));
  CHECK(&back(4, 2) == &t(2, 4));
  CHECK(back.shape == extents<2>{5, 3});
}
