// SPDX-License-Identifier: Apache-2.0
#include "graft/kernel/norm.hpp"

#include <algorithm>
#include <limits>

#include "support/kernels.hpp"

using namespace graft;
using test::filled;
using test::plain_sum;

namespace {

constexpr double eps = 0.1;  // large: a gradient in one column is then no difference of equal numbers

template <class T>
struct norm_case {
  index_t c, n = test::rows_for_threads(c);
  tensor<T, 2> x = test::random_tensor<T, 2>({n, c}, 1), dy = test::random_tensor<T, 2>({n, c}, 2), start = test::random_tensor<T, 2>({n, c}, 3);
  tensor<T, 1> gain = test::random_tensor<T, 1>({c}, 4), bias = test::random_tensor<T, 1>({c}, 5), start_gain = test::random_tensor<T, 1>({c}, 6);
  tensor<double, 1> mean{{n}}, scale{{n}};

  explicit norm_case(index_t columns, bool centred) : c(columns) {
    for (index_t r = 0; r < n; ++r) {
      mean(r) = centred ? plain_sum(c, [&](index_t i) { return x(r, i); }) / static_cast<double>(c) : 0;
      scale(r) = 1 / std::sqrt(plain_sum(c, [&](index_t i) { return at(r, i) * at(r, i); }) / static_cast<double>(c) + eps);
    }
  }
  double at(index_t r, index_t i) const { return static_cast<double>(x(r, i)) - mean(r); }
  double normal(index_t r, index_t i) const { return at(r, i) * scale(r); }
  double g(index_t r, index_t i) const { return static_cast<double>(dy(r, i)) * static_cast<double>(gain(i)); }
  /// Both normalisations have this derivative; the uncentred one lacks the mean of g.
  tensor<double, 2> dx(bool centred, double beta) const {
    return filled<double>(n, c, [&](index_t r, index_t i) {
      const double mean_g = centred ? plain_sum(c, [&](index_t j) { return g(r, j); }) / static_cast<double>(c) : 0;
      const double along = plain_sum(c, [&](index_t j) { return g(r, j) * normal(r, j); }) / static_cast<double>(c);
      return scale(r) * (g(r, i) - mean_g - normal(r, i) * along) + beta * static_cast<double>(start(r, i));
    });
  }
  tensor<double, 2> dgain(double beta) const {
    return filled<double>(1, c, [&](index_t, index_t i) {
      return plain_sum(n, [&](index_t r) { return static_cast<double>(dy(r, i)) * normal(r, i); }) + beta * static_cast<double>(start_gain(i));
    });
  }
  /// f(context, out), starting from what was there.
  template <class F>
  tensor<T, 2> run(const T* from, extents<2> shape, F f) const {
    return test::on_any_threads([&](context& ctx) {
      tensor<T, 2> out(shape);
      std::copy_n(from, out.size(), out.data());
      f(ctx, out.data());
      return out;
    });
  }
};

}  // namespace

TEMPLATE_TEST_CASE("rms_norm and its gradients equal the plain formulas", "", float, double) {
  using T = TestType;
  for (const index_t c : test::sizes_around_width<T>()) {
    const norm_case<T> k(c, false);
    tensor<T, 1> scale({k.n});
    const auto y = k.run(k.x.data(), {k.n, c}, [&](context& ctx, T* out) { kernel::rms_norm<T>(ctx, k.n, c, k.x.data(), k.gain.data(), eps, out, scale.data()); });
    INFO("columns " << c);
    CHECK(test::near(y, filled<double>(k.n, c, [&](index_t r, index_t i) { return k.normal(r, i) * static_cast<double>(k.gain(i)); }), 2 * test::tolerance<T>(c)));
    CHECK(test::near(scale, k.scale, 2 * test::tolerance<T>(c)));
    for (const T beta : {T(0), T(0.5)}) {
      const auto dx = k.run(k.start.data(), {k.n, c}, [&](context& ctx, T* out) {
        kernel::rms_norm_backward<T>(ctx, k.n, c, k.x.data(), k.gain.data(), scale.data(), k.dy.data(), out, beta);
      });
      CHECK(test::near(dx, k.dx(false, static_cast<double>(beta)), 4 * test::tolerance<T>(c)));
      const auto dgain = k.run(k.start_gain.data(), {1, c}, [&](context& ctx, T* out) {
        kernel::rms_norm_gain_backward<T>(ctx, k.n, c, k.x.data(), scale.data(), k.dy.data(), out, beta);
      });
      CHECK(test::near(dgain, k.dgain(static_cast<double>(beta)), test::tolerance<T>(k.n)));
    }
  }
}

TEMPLATE_TEST_CASE("layer_norm and its gradients equal the plain formulas", "", float, double) {
  using T = TestType;
  for (const index_t c : test::sizes_around_width<T>()) {
    const norm_case<T> k(c, true);
    tensor<T, 1> mean({k.n}), scale({k.n});
    const auto y = k.run(k.x.data(), {k.n, c}, [&](context& ctx, T* out) {
      kernel::layer_norm<T>(ctx, k.n, c, k.x.data(), k.gain.data(), k.bias.data(), eps, out, mean.data(), scale.data());
    });
    INFO("columns " << c);
    CHECK(test::near(y, filled<double>(k.n, c, [&](index_t r, index_t i) {
                       return k.normal(r, i) * static_cast<double>(k.gain(i)) + static_cast<double>(k.bias(i));
                     }), 4 * test::tolerance<T>(c)));
    CHECK(test::near(mean, k.mean, 2 * test::tolerance<T>(c)));
    CHECK(test::near(scale, k.scale, 4 * test::tolerance<T>(c)));
    for (const T beta : {T(0), T(0.5)}) {
      const auto dx = k.run(k.start.data(), {k.n, c}, [&](context& ctx, T* out) {
        kernel::layer_norm_backward<T>(ctx, k.n, c, k.x.data(), k.gain.data(), mean.data(), scale.data(), k.dy.data(), out, beta);
      });
      if (c > 1 || beta != T(0)) CHECK(test::near(dx, k.dx(true, static_cast<double>(beta)), 8 * test::tolerance<T>(c)));
      else for (const T v : dx.span()) REQUIRE(std::abs(static_cast<double>(v)) <= 4 * test::tolerance<T>(1));  // a lone value is its own mean: terms below 4 cancel
      const auto dgain = k.run(k.start_gain.data(), {1, c}, [&](context& ctx, T* out) {
        kernel::layer_norm_gain_backward<T>(ctx, k.n, c, k.x.data(), mean.data(), scale.data(), k.dy.data(), out, beta);
      });
      CHECK(test::near(dgain, k.dgain(static_cast<double>(beta)), 2 * test::tolerance<T>(k.n)));
      const auto dbias = k.run(k.start_gain.data(), {1, c}, [&](context& ctx, T* out) { kernel::bias_backward<T>(ctx, k.n, c, k.dy.data(), out, beta); });
      CHECK(test::near(dbias, filled<double>(1, c, [&](index_t, index_t i) {
                         return plain_sum(k.n, [&](index_t r) { return k.dy(r, i); }) + static_cast<double>(beta) * static_cast<double>(k.start_gain(i));
                       }), test::tolerance<T>(k.n)));
    }
  }
}

TEST_CASE("normalisations whose results are larger than caches, and written past these, have the bits of small ones") {
  const index_t c = 1024, n = 8200, few = 41;  // 32 MiB and a little
  const auto x = test::random_tensor<float, 2>({n, c}, 1), dy = test::random_tensor<float, 2>({n, c}, 2);
  const auto gain = test::random_tensor<float, 1>({c}, 3), bias = test::random_tensor<float, 1>({c}, 4);
  thread_pool pool(3);
  context ctx(pool);
  tensor<float, 2> y({n, c}), part({few, c});
  tensor<float, 1> mean({n}), scale({n});
  const auto run = [&](int which, index_t first, index_t rows, float* out) {
    const float *xf = x.data() + first * c, *dyf = dy.data() + first * c;
    if (which == 0) kernel::rms_norm<float>(ctx, rows, c, xf, gain.data(), eps, out, scale.data() + first);
    if (which == 1) kernel::rms_norm_backward<float>(ctx, rows, c, xf, gain.data(), scale.data() + first, dyf, out, 0.0f);
    if (which == 2) kernel::layer_norm<float>(ctx, rows, c, xf, gain.data(), bias.data(), eps, out, mean.data() + first, scale.data() + first);
    if (which == 3) kernel::layer_norm_backward<float>(ctx, rows, c, xf, gain.data(), mean.data() + first, scale.data() + first, dyf, out, 0.0f);
  };
  for (const int which : {0, 1, 2, 3}) {
    std::ranges::fill(y.span(), std::numeric_limits<float>::quiet_NaN());
    run(which, 0, n, y.data());
    for (index_t first = 0; first < n; first += few) {
      run(which, first, few, part.data());
      INFO("normalisation " << which << ", rows from " << first);
      REQUIRE(test::equal_bits(y.view().slice(0, first, first + few), part.view()));
    }
  }
}
