// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/softmax.hpp"

#include "support/kernels.hpp"

using namespace graft;
using test::filled;
using test::plain_sum;

namespace {

/// Numbers to -20 and 20: exponentials of all sizes.
template <class T>
tensor<T, 2> scores(index_t n, index_t c) {
  auto x = test::random_tensor<T, 2>({n, c}, 1);
  for (T& v : x.span()) v *= T(20);
  return x;
}
template <class T>
tensor<double, 2> plain_softmax(const tensor<T, 2>& x) {
  return filled<double>(x.shape()[0], x.shape()[1], [&](index_t n, index_t c) {
    return 1 / plain_sum(x.shape()[1], [&](index_t i) { return std::exp(static_cast<double>(x(n, i)) - static_cast<double>(x(n, c))); });
  });
}

}  // namespace

TEMPLATE_TEST_CASE("softmax rows and their gradient equal the plain formulas", "", float, double) {
  using T = TestType;
  for (const index_t c : test::sizes_around_width<T>()) {
    const index_t n = test::rows_for_threads(c);
    const auto x = scores<T>(n, c), dy = test::random_tensor<T, 2>({n, c}, 2);
    const auto expected = plain_softmax(x);
    const auto y = test::on_any_threads([&](context& ctx) {
      auto rows = x.clone();
      kernel::softmax_rows<T>(ctx, n, c, rows.data(), c);
      return rows;
    });
    INFO("columns " << c);
    CHECK(test::near(y, expected, 20 * test::tolerance<T>(c)));  // 20: a score's own rounding, through the exponential
    for (const T beta : {T(0), T(0.5)}) {
      const auto start = test::random_tensor<T, 2>({n, c}, 3);
      const auto dx = test::on_any_threads([&](context& ctx) {
        auto out = start.clone();
        kernel::softmax_backward<T>(ctx, n, c, y.data(), dy.data(), out.data(), beta);
        return out;
      });
      const auto reference = filled<double>(n, c, [&](index_t r, index_t i) {
        const double dot = plain_sum(c, [&](index_t j) { return static_cast<double>(y(r, j)) * static_cast<double>(dy(r, j)); });
        return static_cast<double>(y(r, i)) * (static_cast<double>(dy(r, i)) - dot) + static_cast<double>(beta) * static_cast<double>(start(r, i));
      });
      // Of one column the gradient is 0 and the scale with it: the bound is of the terms, which are below 1.
      CHECK(test::near(dx, reference, beta == T(0) && c == 1 ? 0 : 4 * test::tolerance<T>(c)));
    }
  }
}

TEST_CASE("rows within wider ones leave what is beside them, and large scores do not overflow") {
  auto x = tensor<float, 2>::of({{1000, 1000, -1000, 7, 8}, {-3e38f, 3e38f, 0, 7, 8}});
  context ctx;
  kernel::softmax_rows<float>(ctx, 2, 3, x.data(), 5);
  CHECK(test::near(x, tensor<float, 2>::of({{0.5f, 0.5f, 0, 7, 8}, {0, 1, 0, 7, 8}}), test::tolerance<float>(3)));
}

TEMPLATE_TEST_CASE("the loss and its gradient equal the plain formulas, and ignored rows take no part", "", float, double) {
  using T = TestType;
  for (const index_t c : test::sizes_around_width<T>()) {
    const index_t n = test::rows_for_threads(c);
    const auto x = scores<T>(n, c);
    const auto softmax = plain_softmax(x);
    std::vector<std::int32_t> labels;
    for (index_t r = 0; r < n; ++r) labels.push_back(r % 5 == 4 ? kernel::ignored_label : static_cast<std::int32_t>((r * 7) % c));
    const auto both = test::on_any_threads([&](context& ctx) {  // the gradient, and the loss as one more column
      auto logits = x.clone();
      tensor<T, 1> loss({n});
      kernel::cross_entropy_rows<T>(ctx, n, c, logits.data(), labels.data(), T(0.25), loss.data());
      return filled<T>(n, c + 1, [&](index_t r, index_t i) { return i == c ? loss(r) : logits(r, i); });
    });
    const auto label = [&](index_t r) { return labels[static_cast<std::size_t>(r)]; };
    const auto gradient = filled<double>(n, c, [&](index_t r, index_t i) { return label(r) < 0 ? 0 : 0.25 * (softmax(r, i) - (label(r) == i)); });
    const auto loss = filled<double>(n, 1, [&](index_t r, index_t) { return label(r) < 0 ? 0 : -std::log(softmax(r, label(r))); });
    INFO("columns " << c);
    const auto v = both.view();
    CHECK(test::near(v.slice(1, 0, c), gradient.view(), 20 * test::tolerance<T>(c)));
    CHECK(test::near(v.slice(1, c, c + 1), loss.view(), 4 * test::tolerance<T>(c)));
    for (index_t i = 0; i <= c; ++i) CHECK(both(4, i) == 0);
  }
}
