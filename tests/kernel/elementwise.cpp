// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/elementwise.hpp"

#include <cmath>

#include "support/kernels.hpp"

using namespace graft;

namespace {

constexpr double pi = 3.14159265358979323846;

/// An activation and its derivative, by the book.
struct formula {
  double (*value)(double), (*derivative)(double);
};
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double phi(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double tanh_argument(double x) { return std::sqrt(2 / pi) * (x + 0.044715 * x * x * x); }
const formula plain_relu{[](double x) { return x > 0 ? x : 0; }, [](double x) { return x > 0 ? 1.0 : 0.0; }};
const formula plain_silu{[](double x) { return x * sigmoid(x); }, [](double x) { return sigmoid(x) + x * sigmoid(x) * sigmoid(-x); }};
const formula plain_gelu{[](double x) { return x * phi(x); }, [](double x) { return phi(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * pi); }};
const formula plain_gelu_tanh{[](double x) { return 0.5 * x * (1 + std::tanh(tanh_argument(x))); }, [](double x) {
                          const double t = std::tanh(tanh_argument(x));
                          return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x);
                        }};
const formula plain_tanh{[](double x) { return std::tanh(x); }, [](double x) { return 1 - std::tanh(x) * std::tanh(x); }};

/// Vectors and plain numbers alike, against the formula. The error of each is of the size of x, times the few roundings of
/// the longest of them.
template <class T, class Function>
void follows(const formula& f) {
  const double bound = 32 * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (const index_t n : test::sizes_around_width<T>()) {
    auto x = test::random_tensor<T, 1>({n}, static_cast<std::uint64_t>(n));
    for (T& v : x.span()) v *= T(9);
    context ctx;
    tensor<T, 1> y({n}), dy({n});
    kernel::map<T>(ctx, n, y.data(), T(0), [](auto v) { return Function::value(v); }, x.data());
    kernel::map<T>(ctx, n, dy.data(), T(0), [](auto v) { return Function::derivative(v); }, x.data());
    for (index_t i = 0; i < n; ++i) {
      const double at = static_cast<double>(x(i)), size = std::max(1.0, std::abs(at));
      INFO("x " << at);
      CHECK(std::abs(static_cast<double>(y(i)) - f.value(at)) <= bound * size);
      CHECK(std::abs(static_cast<double>(dy(i)) - f.derivative(at)) <= bound * size);
      CHECK(std::abs(static_cast<double>(Function::value(x(i))) - f.value(at)) <= bound * size);
      CHECK(std::abs(static_cast<double>(Function::derivative(x(i))) - f.derivative(at)) <= bound * size);
    }
  }
  for (const T far : {T(-1000), T(1000)}) {
    CHECK(static_cast<double>(Function::value(far)) == Approx(f.value(static_cast<double>(far))));
    CHECK(static_cast<double>(Function::derivative(far)) == Approx(f.derivative(static_cast<double>(far))));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("activations and their derivatives follow their formulas", "", float, double) {
  follows<TestType, kernel::relu_function>(plain_relu);
  follows<TestType, kernel::silu_function>(plain_silu);
  follows<TestType, kernel::gelu_erf_function>(plain_gelu);
  follows<TestType, kernel::gelu_tanh_function>(plain_gelu_tanh);
  follows<TestType, kernel::tanh_function>(plain_tanh);
}

TEMPLATE_TEST_CASE("a map writes every element and nothing behind them", "", float, double) {
  using T = TestType;
  auto sizes = test::sizes_around_width<T>();
  sizes.push_back(3 * kernel::map_grain + 5);  // several tasks
  for (const index_t n : sizes)
    for (const T beta : {T(0), T(1), T(0.5)}) {
      const auto x = test::random_tensor<T, 1>({n}, 1), y = test::random_tensor<T, 1>({n}, 2), start = test::random_tensor<T, 1>({n + 1}, 3);
      const auto z = test::on_any_threads([&](context& ctx) {
        auto out = start.clone();
        if (beta == T(0)) std::fill_n(out.data(), n, std::numeric_limits<T>::quiet_NaN());  // must not be read
        kernel::map<T>(ctx, n, out.data(), beta, [](auto a, auto b) { return a * b + a; }, x.data(), y.data());
        return out;
      });
      tensor<double, 1> expected({n + 1});
      for (index_t i = 0; i < n; ++i)
        expected(i) = static_cast<double>(x(i)) * static_cast<double>(y(i)) + static_cast<double>(x(i)) + static_cast<double>(beta) * static_cast<double>(start(i));
      expected(n) = static_cast<double>(start(n));
      CHECK(test::near(z, expected, test::tolerance<T>(2)));
    }
}

TEMPLATE_TEST_CASE("a bias is added to rows that lie apart, and sums run down the rows", "", float, double) {
  using T = TestType;
  for (const index_t c : test::sizes_around_width<T>()) {
    const index_t n = test::rows_for_threads(c), ld = c + 2;
    const auto start = test::random_tensor<T, 2>({n, ld}, 1);
    const auto bias = test::random_tensor<T, 1>({c}, 2);
    const auto y = test::on_any_threads([&](context& ctx) {
      auto out = start.clone();
      kernel::add_bias<T>(ctx, n, c, out.data(), ld, bias.data());
      return out;
    });
    CHECK(test::near(y, test::filled<double>(n, ld, [&](index_t r, index_t i) {
                       return static_cast<double>(start(r, i)) + (i < c ? static_cast<double>(bias(i)) : 0);
                     }), test::tolerance<T>(1)));
  }
  for (const index_t c : {index_t{1}, simd::width<T> * 4, simd::width<T> * 9 + 1}) {  // a task takes four vectors of columns
    const index_t n = 50;
    const auto x = test::random_tensor<T, 2>({n, c}, 3);
    const auto sums = test::on_any_threads([&](context& ctx) {
      auto out = tensor<T, 2>::full({1, c}, T(3));
      kernel::sum_rows<T>(ctx, n, c, out.data(), T(0.5), [&](index_t r, index_t i, index_t lanes) { return simd::load_first<T>(x.data() + r * c + i, lanes); });
      return out;
    });
    CHECK(test::near(sums, test::filled<double>(1, c, [&](index_t, index_t i) { return 1.5 + test::plain_sum(n, [&](index_t r) { return x(r, i); }); }),
                     test::tolerance<T>(n)));
  }
}
