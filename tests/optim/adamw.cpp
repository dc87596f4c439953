// SPDX-License-Identifier: Apache-2.0
#include "graft/optim/adamw.hpp"

#include <vector>

#include "graft/optim/clip.hpp"
#include "graft/optim/schedule.hpp"
#include "graft/optim/sgd.hpp"
#include "graft/peft/lora.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

template <class T>
void give_gradient(parameter<T, 1>& p, const std::vector<double>& g) {
  auto* slot = p.gradient();
  for (std::size_t i = 0; i < g.size(); ++i) slot->data[i] = static_cast<T>(g[i]);
  slot->written = true;
}

}  // namespace

TEMPLATE_TEST_CASE("adamw follows its formula, and leaves alone what has no gradient", "", float, double) {
  using T = TestType;
  context ctx;
  const index_t n = 37;
  auto start = test::random_tensor<T, 1>({n}, 1);
  parameter<T, 1> p(start.clone()), idle(start.clone());
  adamw<T> optimizer({{"p", &p}, {"idle", &idle}}, {.lr = 0.02, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1});
  std::vector<double> w(static_cast<std::size_t>(n)), m(w.size()), v(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<double>(start.data()[i]);
  for (int step = 1; step <= 5; ++step) {
    std::vector<double> g(w.size());
    for (std::size_t i = 0; i < g.size(); ++i) g[i] = static_cast<T>(0.3 * static_cast<double>(i % 5) - 0.5 * step);
    give_gradient(p, g);
    optimizer.step(ctx, 0.5);
    for (std::size_t i = 0; i < w.size(); ++i) {
      m[i] = 0.8 * m[i] + 0.2 * g[i];
      v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
      const double mh = m[i] / (1 - std::pow(0.8, step)), vh = v[i] / (1 - std::pow(0.95, step));
      w[i] -= 0.01 * (mh / (std::sqrt(vh) + 1e-6) + 0.1 * w[i]);
    }
  }
  const tensor_view<const double, 1> expected(w.data(), {n});
  CHECK(test::near(p.view(), expected, test::tolerance<T>(16)));
  CHECK(test::equal_bits(idle.view(), tensor_view<const T, 1>(start)));
  CHECK(p.gradient_values().empty());
  CHECK_THROWS_WITH((adamw<T>({{"p", &p}}, {.lr = -1})), "adamw: lr is -1, expected more than 0");
  p.freeze();
  CHECK_THROWS_WITH((adamw<T>({{"p", &p}})), "adamw: p is frozen");
}

TEST_CASE("parameters may learn at rates of their own, as LoRA+ asks") {
  context ctx;
  parameter<double, 1> a(tensor<double, 1>::of({1, -2})), b = a, faster = a;
  adamw<double> both({{"q.lora_A.weight", &a}, {"q.lora_B.weight", &b}}, {.lr = 0.01, .weight_decay = 0.1}, lora_plus(4));
  adamw<double> alone({{"faster", &faster}}, {.lr = 0.04, .weight_decay = 0.1});
  for (int step = 0; step < 3; ++step) {
    for (auto* p : {&a, &b, &faster}) give_gradient(*p, {0.3, step * 1.0});
    both.step(ctx, 0.5);
    alone.step(ctx, 0.5);
  }
  CHECK(std::ranges::equal(b.value(), faster.value()));
  CHECK_FALSE(std::ranges::equal(a.value(), b.value()));
  CHECK_THROWS_WITH(lora_plus(0), "lora_plus: the ratio is 0, expected more than 0");
  CHECK_THROWS_WITH(adamw<double>({{"p", &a}}, {}, [](const auto&) { return -1.0; }), "adamw: the rate of p is -1, expected more than 0");
}

TEST_CASE("sgd with momentum follows its formula") {
  context ctx;
  parameter<double, 1> p(tensor<double, 1>::of({1, -2}));
  sgd<double> optimizer({{"p", &p}}, {.lr = 0.1, .momentum = 0.9, .weight_decay = 0.5});
  double w[2] = {1, -2}, v[2] = {};
  for (int step = 0; step < 4; ++step) {
    give_gradient(p, {0.3, step * 1.0});
    optimizer.step(ctx);
    const double g[2] = {0.3, step * 1.0};
    for (int i = 0; i < 2; ++i) {
      v[i] = 0.9 * v[i] + g[i] + 0.5 * w[i];
      w[i] -= 0.1 * v[i];
    }
  }
  CHECK(p.value()[0] == Approx(w[0]));
  CHECK(p.value()[1] == Approx(w[1]));
}

TEST_CASE("schedules start, rise and end where they say") {
  CHECK(cosine_schedule(0, 100, 10) == Approx(0.1));
  CHECK(cosine_schedule(9, 100, 10) == Approx(1.0));
  CHECK(cosine_schedule(55, 100, 10) == Approx(0.5));
  CHECK(cosine_schedule(100, 100, 10, 0.2) == Approx(0.2));
  CHECK(linear_schedule(50, 100) == Approx(0.5));
  CHECK(linear_schedule(200, 100) == 0);
}

TEST_CASE("clipping scales all gradients together") {
  parameter<double, 1> a(tensor<double, 1>::of({0})), b(tensor<double, 1>::of({0}));
  give_gradient(a, {3});
  give_gradient(b, {4});
  const std::vector<parameter_ref<double>> both{{"a", &a}, {"b", &b}};
  CHECK(clip_gradients<double>(both, 10) == Approx(5));
  CHECK(a.gradient_values()[0] == 3);
  CHECK(clip_gradients<double>(both, 1) == Approx(5));
  CHECK(a.gradient_values()[0] == Approx(0.6));
  CHECK(b.gradient_values()[0] == Approx(0.8));
}
