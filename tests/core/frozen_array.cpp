// SPDX-License-Identifier: Apache-2.0
#include "graft/core/frozen_array.hpp"

#include <memory>
#include <vector>

#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;

TEST_CASE("a frozen array shares its elements and outlives who made it") {
  frozen_array copy;
  CHECK(copy.bytes().empty());
  {
    auto t = tensor<float, 2>::of({{1, 2, 3}, {4, 5, 6}});
    const float* elements = t.data();
    const frozen_array a(std::move(t));
    CHECK(reinterpret_cast<const float*>(a.bytes().data()) == elements);  // taken over, not copied
    copy = a;
    CHECK(copy.bytes().data() == a.bytes().data());
  }
  CHECK(copy.type() == dtype::f32);
  CHECK(copy.size() == 6);
  CHECK(copy.holds<float>());
  CHECK_FALSE(copy.holds<double>());
  CHECK(copy.view<float, 2>()(1, 0) == 4);
  CHECK(copy.to_tensor<double, 2>()(1, 2) == 6);
  CHECK(copy.matrix().rows == 2);
  CHECK(copy.matrix().cols == 3);
}

TEST_CASE("five dimensions are refused") {
  const std::vector<index_t> shape(5, 1);
  const std::byte byte{};
  CHECK_THROWS_WITH(frozen_array(dtype::u8, shape, &byte, nullptr), "an array of shape (1, 1, 1, 1, 1) has more than four dimensions");
}

TEST_CASE("elements are converted from any address") {
  std::vector<std::byte> bytes(1 + 3 * sizeof(double));
  const double values[] = {1.5, -2, 1e10};
  std::memcpy(bytes.data() + 1, values, sizeof values);
  float to[3];
  convert_elements(dtype::f64, bytes.data() + 1, 3, to);
  CHECK((to[0] == 1.5f && to[1] == -2 && to[2] == 1e10f));
}

TEST_CASE("a matrix of integers is no operand") {
  const frozen_array a(tensor<std::int32_t, 2>::of({{1, 2}}));
  CHECK_THROWS_AS(visit_matrix(a.matrix(), [](auto) {}), dtype_error);
}
