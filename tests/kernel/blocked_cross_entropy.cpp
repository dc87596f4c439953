// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/blocked_cross_entropy.hpp"

#include "graft/kernel/gemm.hpp"
#include "support/blocks.hpp"
#include "support/kernels.hpp"

using namespace graft;
using test::filled;
using test::plain_sum;

namespace {

/// The losses, and `factor` times their gradient beside them as more columns, with classes taken `block` at a time.
template <class T>
tensor<T, 2> by_blocks(context& ctx, tensor_view<const T, 2> x, const matrix_ref& w, const std::vector<std::int32_t>& labels, index_t block, T factor) {
  const index_t n = x.shape[0], c = x.shape[1];
  tensor<T, 2> logits({n, block}), sums({n, c}), state({3, n});
  tensor<T, 1> loss({n});
  const kernel::softmax_so_far<T> so_far{state.data(), state.data() + n, state.data() + 2 * n};
  for (index_t first = 0; first < w.rows; first += block) {
    const auto part = rows_of(w, first, std::min(block, w.rows - first));
    const tensor_view<T, 2> some(logits.data(), {n, part.rows});
    kernel::matmul_nt<T>(ctx, x, part, some);
    kernel::cross_entropy_block<T>(ctx, some, first, labels.data(), so_far, sums.view());
    kernel::matmul_nn<T>(ctx, some, part, sums.view(), {1, first == 0 ? 0.0 : 1.0});
  }
  kernel::cross_entropy_end<T>(ctx, n, w, labels.data(), so_far, factor, sums.view(), loss.data());
  return filled<T>(n, c + 1, [&](index_t r, index_t i) { return i == 0 ? loss(r) : sums(r, i - 1); });
}

}  // namespace

TEMPLATE_TEST_CASE("classes that come block by block give the loss and the gradient of whole rows", "", float, double) {
  using T = TestType;
  constexpr index_t classes = 37;
  for (const index_t c : test::sizes_around_width<T>()) {
    const index_t n = test::rows_for_threads(c);
    auto x = test::random_tensor<T, 2>({n, c}, 1);
    const auto w = test::random_tensor<T, 2>({classes, c}, 2);
    for (T& v : x.span()) v *= T(20) / std::sqrt(static_cast<T>(c));  // exponentials of all sizes; the largest logit is in any block
    std::vector<std::int32_t> labels;
    for (index_t r = 0; r < n; ++r) labels.push_back(r % 5 == 4 ? kernel::ignored_label : static_cast<std::int32_t>((r * 7) % classes));
    const auto expected = filled<double>(n, c + 1, [&](index_t r, index_t i) {
      const std::int32_t label = labels[static_cast<std::size_t>(r)];
      if (label < 0) return 0.0;
      const auto logit = [&](index_t v) { return plain_sum(c, [&](index_t k) { return static_cast<double>(x(r, k)) * static_cast<double>(w(v, k)); }); };
      std::vector<double> e;  // relative to the label, so that nothing cancels
      for (index_t v = 0; v < classes; ++v) e.push_back(v == label ? 0 : std::exp(logit(v) - logit(label)));
      const double others = plain_sum(classes, [&](index_t v) { return e[static_cast<std::size_t>(v)]; });
      if (i == 0) return std::log1p(others);
      const double sum = plain_sum(classes, [&](index_t v) { return e[static_cast<std::size_t>(v)] * static_cast<double>(w(v, i - 1)); });
      return 0.25 * (sum - others * static_cast<double>(w(label, i - 1))) / (1 + others);
    });
    for (const index_t block : {classes, index_t{16}, index_t{1}}) {
      INFO("columns " << c << ", blocks of " << block);
      const auto both = test::on_any_threads([&](context& ctx) { return by_blocks<T>(ctx, x.view(), w.view(), labels, block, T(0.25)); });
      CHECK(test::near(both.view().slice(1, 0, 1), expected.view().slice(1, 0, 1), 20 * test::tolerance<T>(classes + c)));
      CHECK(test::near(both.view().slice(1, 1, c + 1), expected.view().slice(1, 1, c + 1), 20 * test::tolerance<T>(classes + c)));
      for (index_t i = 0; i <= c; ++i) CHECK(both(4, i) == 0);
    }
  }
}

TEST_CASE("the gradient of a nearly certain label is exact to its own size") {
  // Logits 0 and 20 of two classes: the label's probability is 1 - 2e-9, which is 1 in float.
  const auto x = tensor<float, 2>::of({{20}}), w = tensor<float, 2>::of({{0}, {1}});
  context ctx;
  const auto both = by_blocks<float>(ctx, x.view(), w.view(), {1}, 1, 1.0f);
  CHECK(both(0, 1) == Approx(-std::exp(-20.0)).epsilon(1e-6));
}

TEST_CASE("a class that is out of the question at the start of a row leaves the row a number") {
  const float least = -std::numeric_limits<float>::infinity();
  const auto w = tensor<float, 2>::of({{least}, {1}, {2}}), x = tensor<float, 2>::of({{1}});
  context ctx;
  tensor<float, 2> logits({1, 1}), none;
  float most, others, target, loss;
  const std::vector<std::int32_t> labels{2};
  for (index_t v = 0; v < 3; ++v) {
    logits(0, 0) = w(v, 0) * x(0, 0);
    kernel::cross_entropy_block<float>(ctx, logits.view(), v, labels.data(), {&most, &others, &target}, none.view());
  }
  kernel::cross_entropy_end<float>(ctx, 1, w.view(), labels.data(), {&most, &others, &target}, 1.0f, none.view(), &loss);
  CHECK(loss == Approx(std::log1p(std::exp(-1.0))));
}

TEMPLATE_LIST_TEST_CASE("the label's row is decoded from a weight in blocks", "", test::every_block_format) {
  const auto w = test::random_blocks<TestType>({48, 64}, 2);
  const auto decoded = convert_array(w, dtype::f32);
  const auto x = test::random_tensor<float, 2>({9, 64}, 1);
  const std::vector<std::int32_t> labels{0, 47, 3, kernel::ignored_label, 5, 6, 7, 8, 9};
  context ctx;
  const auto from_blocks = by_blocks<float>(ctx, x.view(), w.matrix(), labels, 16, 0.5f);
  CHECK(test::equal_bits(from_blocks, by_blocks<float>(ctx, x.view(), decoded.matrix(), labels, 16, 0.5f)));
}
