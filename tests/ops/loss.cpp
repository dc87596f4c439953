// SPDX-License-Identifier: Apache-2.0
#include "graft/ops/loss.hpp"

#include "graft/autograd/meter.hpp"
#include "graft/nn/embedding.hpp"
#include "graft/ops/elementwise.hpp"
#include "graft/ops/linear.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

/// Of every seven rows, so many do not count.
std::vector<std::int32_t> some_labels(index_t n, index_t classes, index_t ignored = 1) {
  std::vector<std::int32_t> labels;
  for (index_t i = 0; i < n; ++i) labels.push_back((i + 4) % 7 < ignored ? kernel::ignored_label : static_cast<std::int32_t>((i * 5) % classes));
  return labels;
}

}  // namespace

TEST_CASE("the fused loss equals the loss of the logits, in value and gradients, over more rows than one chunk") {
  context ctx;
  constexpr index_t classes = 11, c = 6;
  for (const auto [n, ignored] : {std::pair<index_t, index_t>{5, 1}, {detail::loss_chunk, 0}, {2 * detail::loss_chunk + 37, 1}, {5, 6}, {2 * detail::loss_chunk + 37, 2}, {2 * detail::loss_chunk + 37, 5}}) {
    const auto labels = some_labels(n, classes, ignored);
    parameter<double, 2> x(test::random_tensor<double, 2>({n, c}, 1)), w(test::random_tensor<double, 2>({classes, c}, 2));
    tensor<double, 1> dx({n * c}), dw({classes * c});
    double value = 0;
    for (const bool fused : {false, true}) {
      x.clear_gradient();
      w.clear_gradient();
      tape<double> t(ctx);
      const auto loss = fused ? linear_cross_entropy(t, t.leaf(x), t.leaf(w), labels) : cross_entropy(t, linear(t, t.leaf(x), t.leaf(w)), labels);
      t.backward(scale(t, loss, 3.0));
      const tensor_view<const double, 1> gx(x.gradient_values().data(), {n * c}), gw(w.gradient_values().data(), {classes * c});
      if (fused) {
        CHECK(*loss.value.data == Approx(value).epsilon(1e-13));
        CHECK(test::near(gx, std::as_const(dx).view(), test::tolerance<double>(classes + c)));
        CHECK(test::near(gw, std::as_const(dw).view(), test::tolerance<double>(n + c)));
      } else {
        value = *loss.value.data;
        std::copy_n(gx.data, gx.size(), dx.data());
        std::copy_n(gw.data, gw.size(), dw.data());
      }
    }
  }
}

TEST_CASE("with a frozen weight the fused loss is that of a trained one, over more rows and classes than one block") {
  context ctx;
  constexpr index_t c = 6;
  for (const index_t n : {index_t{5}, detail::loss_rows, detail::loss_rows + 37})
    for (const index_t classes : {index_t{11}, detail::loss_classes, 2 * detail::loss_classes + 5}) {
      const auto labels = some_labels(n, classes);
      parameter<double, 2> x(test::random_tensor<double, 2>({n, c}, 1)), w(test::random_tensor<double, 2>({classes, c}, 2));
      const auto loss_and_gradient = [&] {
        x.clear_gradient();
        tape<double> t(ctx);
        const auto loss = linear_cross_entropy(t, t.leaf(x), w, labels);
        t.backward(scale(t, loss, 3.0));
        tensor<double, 1> both({n * c + 1});
        std::ranges::copy(x.gradient_values(), both.data());
        both(n * c) = *loss.value.data;
        return both;
      };
      const auto expected = loss_and_gradient();
      w.freeze();
      INFO(n << " rows, " << classes << " classes");
      const auto frozen = loss_and_gradient();
      CHECK(test::near(frozen, expected, test::tolerance<double>(classes + c)));
      tape<double> t(ctx);
      CHECK(*linear_cross_entropy(t, t.constant(std::as_const(x).view()), w, labels).value.data == frozen(n * c));
    }
}

TEST_CASE("the fused loss tells a meter of the products for gradients, which it makes at once") {
  const auto flops = [](bool train_x, bool train_w, index_t ignored = 1) {
    context ctx;
    meter m;
    ctx.cost = &m;
    parameter<double, 2> x(test::random_tensor<double, 2>({7, 6}, 1)), w(test::random_tensor<double, 2>({11, 6}, 2));
    if (!train_x) x.freeze();
    if (!train_w) w.freeze();
    const auto labels = some_labels(7, 11, ignored);
    tape<double> t(ctx);
    linear_cross_entropy(t, t.leaf(x), w, t.keep(std::span<const std::int32_t>(labels)));
    return m.total().flops;
  };
  CHECK(flops(false, false) == 2 * 7 * 6 * 11);
  CHECK(flops(true, false) == 2 * flops(false, false));
  CHECK(flops(true, true) == 3 * flops(false, false));
  CHECK(flops(true, true, 3) == 3 * 2 * 4 * 6 * 11);  // what does not count is not computed
}

TEST_CASE("rows that count are averaged over themselves alone, and without any the loss is nothing") {
  context ctx;
  parameter<double, 2> x(test::random_tensor<double, 2>({4, 3}, 1));
  const auto loss_of = [&](std::vector<std::int32_t> labels) {
    tape<double> t(ctx);
    x.clear_gradient();
    const auto loss = cross_entropy(t, t.leaf(x), t.keep(std::span<const std::int32_t>(labels)));
    t.backward(loss);
    return *loss.value.data;
  };
  const double ignored = kernel::ignored_label;
  CHECK(ignored == -100);
  const double one = loss_of({-100, 2, -100, -100}), other = loss_of({-100, -100, -100, 0});
  CHECK(loss_of({-100, 2, -100, 0}) == Approx((one + other) / 2));
  CHECK(loss_of({-100, -100, -100, -100}) == 0);
  for (const double g : x.gradient_values()) CHECK(g == 0);
}

TEST_CASE("labels that no row or no class has are refused") {
  context ctx;
  tape<float> t(ctx);
  const auto x = test::random_tensor<float, 2>({3, 4}, 1), w = test::random_tensor<float, 2>({5, 4}, 2), narrow = test::random_tensor<float, 2>({5, 3}, 2);
  const auto v = t.constant(x.view());
  using labels = std::vector<std::int32_t>;
  CHECK_THROWS_WITH(cross_entropy(t, v, labels{1, 2}), "cross_entropy: there are 3 rows and 2 labels");
  CHECK_THROWS_WITH(cross_entropy(t, v, labels{1, 4, 0}), "cross_entropy: label 4 at row 1 is not one of 4 classes");
  CHECK_THROWS_WITH(cross_entropy(t, v, labels{1, 0, -1}), "cross_entropy: label -1 at row 2 is not one of 4 classes");
  CHECK_THROWS_WITH(linear_cross_entropy(t, v, matrix_ref(w.view()), labels{5, 0, 0}), "linear_cross_entropy: label 5 at row 0 is not one of 5 classes");
  CHECK_THROWS_WITH(linear_cross_entropy(t, v, matrix_ref(narrow.view()), labels{0, 0, 0}),
                    "linear_cross_entropy: x has 4 columns, weight has 3 (x is (3, 4), weight is (5, 3))");
}
