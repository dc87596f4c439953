// SPDX-License-Identifier: Apache-2.0
#include "graft/core/blocks.hpp"

#include <cstring>
#include <limits>
#include <vector>

#include "graft/core/finite.hpp"
#include "graft/core/frozen_array.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"

using namespace graft;

namespace {

std::vector<std::byte> to_bytes(std::vector<int> values) {
  std::vector<std::byte> bytes;
  for (int v : values) bytes.push_back(static_cast<std::byte>(v));
  return bytes;
}
template <class B>
B block_from(const std::vector<int>& values) {
  const auto bytes = to_bytes(values);
  REQUIRE(bytes.size() == sizeof(B));
  B b;
  std::memcpy(&b, bytes.data(), sizeof b);
  return b;
}

}  // namespace

TEST_CASE("a block of q8_0 is a half-precision scale, then 32 signed bytes") {
  std::vector<int> bytes{0x00, 0x38};  // 0.5, little-endian
  for (int i = 0; i < 32; ++i) bytes.push_back(i == 0 ? 127 : i == 31 ? 0x80 : i - 16);
  const auto b = block_from<q8_0_block>(bytes);
  CHECK(value_at(b, 0) == 63.5f);
  CHECK(value_at(b, 1) == -7.5f);
  CHECK(value_at(b, 30) == 7);
  CHECK(value_at(b, 31) == -64);
}

TEST_CASE("a block of q4_0 is a half-precision scale, then 16 bytes: the low nibbles are the first half") {
  std::vector<int> bytes{0x00, 0xc0};  // -2
  for (int i = 0; i < 16; ++i) bytes.push_back(16 * (15 - i) + i);
  const auto b = block_from<q4_0_block>(bytes);
  for (int i = 0; i < 16; ++i) {
    CHECK(value_at(b, i) == -2.0f * static_cast<float>(i - 8));
    CHECK(value_at(b, i + 16) == -2.0f * static_cast<float>(15 - i - 8));
  }
}

TEST_CASE("a block of nf4 is a float, then 32 bytes of places in the table of NormalFloat") {
  std::vector<int> bytes{0x00, 0x00, 0x00, 0x40};  // 2
  for (int i = 0; i < 32; ++i) bytes.push_back(i < 16 ? 16 * (15 - i) + i : 0x7f);
  const auto b = block_from<nf4_block>(bytes);
  for (int i = 0; i < 16; ++i) {
    CHECK(value_at(b, i) == 2 * nf4_levels[i]);
    CHECK(value_at(b, i + 16) == 2 * nf4_levels[15 - i]);
    CHECK(value_at(b, i + 32) == 2);
    CHECK(value_at(b, i + 48) == 0);
  }
  // A few of the published numbers.
  CHECK((nf4_levels[0] == -1 && nf4_levels[6] == -0.09105003625154495f && nf4_levels[7] == 0 && nf4_levels[8] == 0.07958029955625534f));
  CHECK((nf4_levels[14] == 0.7229568362236023f && nf4_levels[15] == 1));
}

TEST_CASE("rows are whole blocks, and sizes that would overflow are refused") {
  CHECK(row_bytes(dtype::q8_0, 32) == 34);
  CHECK(row_bytes(dtype::q8_0, 33) == 68);
  CHECK(row_bytes(dtype::q4_0, 0) == 0);
  CHECK(row_bytes(dtype::nf4, 65) == 72);
  CHECK(row_bytes(dtype::bf16, 5) == 10);
  CHECK(array_bytes(dtype::q4_0, extents<2>{3, 40}) == 3 * 36);
  CHECK(checked_bytes(dtype::q4_0, extents<2>{3, 40}) == 3 * 36);
  CHECK(checked_bytes(dtype::f32, extents<2>{3, 40}) == 480);
  CHECK(checked_bytes(dtype::q8_0, extents<2>{0, 40}) == 0);
  CHECK((bytes_of(dtype::q8_0) == 0 && alignment_of(dtype::q8_0) == 2 && alignment_of(dtype::nf4) == 4 && alignment_of(dtype::f64) == 8));
  const index_t most = std::numeric_limits<index_t>::max();
  for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::nf4}) {
    CHECK_THROWS_AS(checked_bytes(type, extents<2>{2, -1}), shape_error);
    CHECK_THROWS_AS(checked_bytes(type, extents<2>{most / 16, 1}), shape_error);  // few values, but a block each
    CHECK_THROWS_AS(checked_bytes(type, extents<2>{0, most}), shape_error);
    CHECK_THROWS_AS(checked_bytes(type, extents<2>{most / 72, 64}), shape_error);  // 4-bit bytes would fit, their values not be counted
    CHECK_THROWS_AS(checked_bytes(type, extents<2>{most / 2, 4}), shape_error);
    CHECK_THROWS_AS(visit_dtype(type, []<class E>(E*) {}), dtype_error);
  }
  CHECK_THROWS_WITH(visit_blocks(dtype::f16, []<class B>(B*) {}), "f16 is not a block format");
}

TEMPLATE_LIST_TEST_CASE("an array in blocks gives its values one by one, as a matrix and as a tensor", "", test::every_block_format) {
  const auto a = test::random_blocks<TestType>({5, 100}, 1);
  CHECK(a.type() == dtype_of<TestType>);
  CHECK(a.size() == 500);
  CHECK(a.bytes().size() == static_cast<std::size_t>(5 * row_bytes(a.type(), 100)));
  const auto m = a.matrix();
  CHECK((m.rows == 5 && m.cols == 100 && m.row_bytes == row_bytes(a.type(), 100)));
  const auto view = block_matrix<TestType>(m);
  const auto values = a.template to_tensor<float, 2>();
  const auto wide = a.template to_tensor<double, 2>();
  for (index_t i = 0; i < 5; ++i)
    for (index_t j = 0; j < 100; ++j) {
      TestType b;
      std::memcpy(&b, a.bytes().data() + i * m.row_bytes + j / TestType::count * static_cast<index_t>(sizeof b), sizeof b);
      REQUIRE(values(i, j) == value_at(b, j % TestType::count));
      REQUIRE(wide(i, j) == static_cast<double>(values(i, j)));
      REQUIRE(view(i, j) == values(i, j));
    }
  CHECK(visit_matrix(m, [](auto v) { return v.shape; }) == extents<2>{5, 100});
  float one;
  CHECK_THROWS_AS(convert_elements(a.type(), a.bytes().data(), 1, &one), dtype_error);
}

TEMPLATE_LIST_TEST_CASE("a block whose scale is not finite is found", "", test::every_block_format) {
  const auto a = test::random_blocks<TestType>({3, 130}, 1);
  std::vector<std::byte> bytes(a.bytes().begin(), a.bytes().end());
  CHECK(first_not_finite(a.type(), bytes) == -1);
  const index_t block = std::ssize(bytes) / static_cast<index_t>(sizeof(TestType)) - 1;
  const std::size_t high = static_cast<std::size_t>(block) * sizeof(TestType) + (a.type() == dtype::nf4 ? 2 : 0);
  bytes[high] = std::byte{0x80};
  bytes[high + 1] = std::byte{0x7f};
  CHECK(first_not_finite(a.type(), bytes) == block * TestType::count);
}
