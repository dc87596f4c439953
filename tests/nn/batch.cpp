// SPDX-License-Identifier: Apache-2.0
#include "graft/nn/batch.hpp"

#include "support/catch.hpp"

using namespace graft;
using ids = std::vector<std::int32_t>;

TEST_CASE("sequences stand one after another, each from position zero") {
  token_batch b;
  CHECK(b.sequences() == 0);
  CHECK(b.tokens() == 0);
  CHECK(b.longest() == 0);
  b.add(ids{5, 6, 7});
  b.add(ids{8}, ids{1});
  CHECK(b.ids == ids{5, 6, 7, 8});
  CHECK(b.offsets == std::vector<index_t>{0, 3, 4});
  CHECK(b.positions == ids{0, 1, 2, 0});
  CHECK(b.types == ids{0, 0, 0, 1});
  CHECK(b.sequences() == 2);
  CHECK(b.longest() == 3);
  CHECK_THROWS_WITH(b.add(ids{1, 2}, ids{0}), "token_batch: 2 tokens have 1 types");
  CHECK(b.tokens() == 4);
  b.clear();
  CHECK(b.offsets == std::vector<index_t>{0});
  CHECK(b.tokens() == 0);
}

TEST_CASE("labels are the next tokens, and the last token has none") {
  token_batch b;
  b.add_with_next_labels(ids{5, 6, 7});
  b.add_with_next_labels(ids{8});
  CHECK(b.labels == ids{6, 7, kernel::ignored_label, kernel::ignored_label});
}

TEST_CASE("an empty text is a sequence without tokens, labels or positions") {
  token_batch b;
  b.add({});
  b.add_with_next_labels({});
  CHECK(b.sequences() == 2);
  CHECK(b.tokens() == 0);
  CHECK(b.labels.empty());
}

TEST_CASE("padded rows lose their padding, wherever it is, and keep the positions of their columns") {
  const auto padded = tensor<std::int32_t, 2>::of({{1, 2, 0}, {0, 3, 4}, {0, 0, 0}});
  const auto mask = tensor<std::int32_t, 2>::of({{1, 1, 0}, {0, 1, 1}, {0, 0, 0}});
  const auto types = tensor<std::int32_t, 2>::of({{0, 1, 0}, {0, 1, 0}, {0, 0, 0}});
  const auto b = drop_padding(padded, mask, types);
  CHECK(b.ids == ids{1, 2, 3, 4});
  CHECK(b.positions == ids{0, 1, 1, 2});
  CHECK(b.types == ids{0, 1, 1, 0});
  CHECK(b.offsets == std::vector<index_t>{0, 2, 4, 4});
  CHECK(drop_padding(padded, mask).types == ids{0, 0, 0, 0});
  CHECK_THROWS_WITH(drop_padding(padded, tensor<std::int32_t, 2>::of({{1, 1, 0}})), "drop_padding: ids are (3, 3), the mask is (1, 3)");
}

TEST_CASE("some sequences of a batch are a batch, with labels by token or by sequence") {
  token_batch all;
  all.add_with_next_labels(ids{5, 6, 7});
  all.add_with_next_labels(ids{8, 9});
  all.add_with_next_labels(ids{4});
  token_batch b;
  b.assign_sequences(all, 1, 3);
  CHECK(b.ids == ids{8, 9, 4});
  CHECK(b.offsets == std::vector<index_t>{0, 2, 3});
  CHECK(b.positions == ids{0, 1, 0});
  CHECK(b.types == ids{0, 0, 0});
  CHECK(b.labels == ids{9, kernel::ignored_label, kernel::ignored_label});
  all.labels = {3, 1, 2};
  b.assign_sequences(all, 0, 2);
  CHECK(b.labels == ids{3, 1});
  all.labels.clear();
  b.assign_sequences(all, 0, 1);
  CHECK(b.labels.empty());
  CHECK(b.ids == ids{5, 6, 7});
  all.labels = {1, 2};
  CHECK_THROWS_WITH(b.assign_sequences(all, 0, 1), "token_batch: 6 tokens in 3 sequences have 2 labels");
}
