// SPDX-License-Identifier: Apache-2.0
#include "graft/io/text_batches.hpp"

#include <vector>

#include "support/catch.hpp"

namespace {

std::vector<std::int32_t> counting(std::int32_t n) {
  std::vector<std::int32_t> v;
  for (std::int32_t i = 0; i < n; ++i) v.push_back(i);
  return v;
}

TEST_CASE("every token but the first of a window is a label once", "[text_batches]") {
  // 23 tokens in windows of 5: 5 5 5 5 3, two windows a batch.
  std::vector<std::vector<std::int32_t>> batches, labels;
  for (const auto& b : graft::text_batches(counting(23), {.sequence = 5, .batch = 2})) {
    batches.push_back(b.ids);
    labels.push_back(b.labels);
  }
  REQUIRE(batches.size() == 3);
  CHECK(batches[0] == counting(10));
  CHECK(batches[2] == std::vector<std::int32_t>{20, 21, 22});
  const auto none = graft::kernel::ignored_label;
  CHECK(labels[0] == std::vector<std::int32_t>{1, 2, 3, 4, none, 6, 7, 8, 9, none});
  CHECK(labels[2] == std::vector<std::int32_t>{21, 22, none});
}

TEST_CASE("a last token alone is dropped, and ends the loop", "[text_batches]") {
  int n = 0;
  for (const auto& b : graft::text_batches(counting(11), {.sequence = 5})) n += static_cast<int>(b.tokens());
  CHECK(n == 10);
  for (const auto& b : graft::text_batches(counting(1))) FAIL(b.tokens());
}

TEST_CASE("windows that cannot hold a label are refused", "[text_batches]") {
  CHECK_THROWS_AS(graft::text_batches(counting(9), {.sequence = 1}), graft::option_error);
  CHECK_THROWS_AS(graft::text_batches(counting(9), {.batch = 0}), graft::option_error);
}

}  // namespace
