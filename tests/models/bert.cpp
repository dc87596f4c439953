// SPDX-License-Identifier: Apache-2.0
#include "graft/models/bert.hpp"

#include "graft/autograd/meter.hpp"
#include "graft/ops/reduce.hpp"
#include "graft/peft/dual.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

tensor<double, 2> pooled(bert<double>& m, const token_batch& batch, pooling how) {
  context ctx;
  tape<double> t(ctx, recording::off);
  return tensor<double, 2>::copy_of(m.pooled(t, batch, how).value);
}

}  // namespace

TEST_CASE("a sequence has the same vector alone and beside longer ones that pad it") {
  auto model = test::small_bert<double>();
  const auto ids = tensor<std::int32_t, 2>::of({{5, 6, 7, 0, 0, 0}, {9, 8, 3, 2, 1, 4}, {11, 0, 0, 0, 0, 0}});
  const auto mask = tensor<std::int32_t, 2>::of({{1, 1, 1, 0, 0, 0}, {1, 1, 1, 1, 1, 1}, {1, 0, 0, 0, 0, 0}});
  const auto types = tensor<std::int32_t, 2>::of({{0, 0, 1, 0, 0, 0}, {0, 0, 0, 1, 1, 1}, {0, 0, 0, 0, 0, 0}});
  for (const pooling how : {pooling::mean, pooling::cls, pooling::pooler}) {
    const auto together = pooled(model, drop_padding(ids, mask, types), how);
    for (index_t s = 0; s < 3; ++s) {
      std::vector<std::int32_t> own, own_types;
      for (index_t i = 0; i < 6 && mask(s, i) != 0; ++i) {
        own.push_back(ids(s, i));
        own_types.push_back(types(s, i));
      }
      token_batch alone;
      alone.add(own, own_types);
      CHECK(test::near(pooled(model, alone, how).view(), together.view().slice(0, s, s + 1), 2 * test::tolerance<double>(40)));
    }
  }
  CHECK_FALSE(test::near(pooled(model, drop_padding(ids, mask, types), pooling::mean), pooled(model, drop_padding(ids, mask), pooling::mean), 1e-3));
}

TEST_CASE("pooling takes the mean, the first row, or the first row through the pooler") {
  auto model = test::small_bert<double>();
  const auto batch = test::random_batch({4, 7});
  context ctx;
  tape<double> t(ctx, recording::off);
  const auto x = model.hidden(t, batch);
  const auto mean = pooled(model, batch, pooling::mean), cls = pooled(model, batch, pooling::cls), pooler = pooled(model, batch, pooling::pooler);
  const auto w = model.pooler->dense.weight.view();
  for (index_t s = 0; s < 2; ++s)
    for (index_t c = 0; c < 24; ++c) {
      const index_t first = batch.offsets[static_cast<std::size_t>(s)], last = batch.offsets[static_cast<std::size_t>(s) + 1];
      double sum = 0, product = 0;
      for (index_t r = first; r < last; ++r) sum += x.value(r, c);
      for (index_t i = 0; i < 24; ++i) product += x.value(first, i) * w(c, i);
      CHECK(mean(s, c) == Approx(sum / static_cast<double>(last - first)));
      CHECK(cls(s, c) == Approx(x.value(first, c)));
      CHECK(pooler(s, c) == Approx(std::tanh(product)));  // the bias of this model is zero
    }
}

TEST_CASE("the first row alone learns as the first of all rows does, and keeps less") {
  const auto batch = test::random_batch({4, 1, 7});
  const std::vector<std::int32_t> first{0, 4, 5};
  const std::vector<double> local{0.2, 0.9, 0.5};
  auto model = test::small_bert<double>();
  attach(model, all_linear(), dual_options{.shared = {.rank = 3}, .local = {.rank = 2}});
  set_phase(model, dual_phase::mixed);
  unfreeze(model, either(tagged("shared"), tagged("local")));
  test::disturb_adapters(model);
  const auto learn = [&](index_t checkpointed, bool all_rows) {
    model.checkpointed_layers = checkpointed;
    context ctx;
    meter m;
    ctx.cost = &m;
    tape<double> t(ctx, recording::on, {.training = true, .local_weights = local});
    const auto x = all_rows ? take_rows(t, model.hidden(t, batch), std::span(first)) : model.pooled(t, batch, pooling::cls);
    t.backward(sum(t, multiply(t, x, multiply(t, x, x))));
    std::vector<double> gradients;
    for (auto& p : trainable(model)) {
      const auto g = p.parameter->gradient_values();
      gradients.insert(gradients.end(), g.begin(), g.end());
      p.parameter->clear_gradient();
    }
    return std::pair(std::move(gradients), m.total().peak_saved_bytes);
  };
  const auto [expected, kept_by_all] = learn(0, true);
  REQUIRE_FALSE(expected.empty());
  for (const index_t checkpointed : {0, 1, 2}) {
    const auto [found, kept] = learn(checkpointed, false);
    CHECK(kept < kept_by_all);
    const index_t n = std::ssize(expected);
    REQUIRE(std::ssize(found) == n);
    CHECK(test::near(tensor_view<const double, 1>(found.data(), {n}), tensor_view<const double, 1>(expected.data(), {n}), 1e-12));
  }
}

TEST_CASE("what a BERT cannot take is named") {
  auto model = test::small_bert<double>();
  const auto complaint = [&](const token_batch& batch, pooling how = pooling::mean) -> std::string {
    try {
      pooled(model, batch, how);
    } catch (const shape_error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(complaint(test::random_batch({64})).empty());
  CHECK(complaint(test::random_batch({65})) == "bert: a sequence reaches position 64, the model allows 64 tokens");
  CHECK(complaint(token_batch{}) == "bert: the batch has no tokens");
  for (const pooling how : {pooling::mean, pooling::cls, pooling::pooler}) {
    token_batch empty_text = test::random_batch({3});
    empty_text.add({});  // what an empty text becomes without special tokens
    CHECK(complaint(empty_text, how) == "bert: sequence 1 has no tokens to pool");
    empty_text.add(std::vector<std::int32_t>{1});
    CHECK(complaint(empty_text, how) == "bert: sequence 1 has no tokens to pool");
  }
  token_batch bad = test::random_batch({3});
  bad.types[1] = 2;
  CHECK(complaint(bad) == "embedding: number 2 at position 1, but the table has 2 rows");
  bad = test::random_batch({3});
  bad.ids[2] = -1;
  CHECK(complaint(bad) == "embedding: number -1 at position 2, but the table has 50 rows");
}
