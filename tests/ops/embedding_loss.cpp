// SPDX-License-Identifier: Apache-2.0
#include "graft/ops/embedding_loss.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "graft/core/thread_pool.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"

using namespace graft;

namespace {

using t64 = tape<double>;
using rows = tensor<double, 2>;
using numbers = std::vector<double>;

double plain_dot(const rows& x, index_t i, const rows& y, index_t j) {
  double s = 0;
  for (index_t c = 0; c < x.shape()[1]; ++c) s += x(i, c) * y(j, c);
  return s;
}
double plain_cosine(const rows& x, index_t i, const rows& y, index_t j) {
  return plain_dot(x, i, y, j) / std::sqrt(plain_dot(x, i, x, i) * plain_dot(y, j, y, j));
}
double plain_distance(const rows& x, index_t i, const rows& y, index_t j) {
  double s = 0;
  for (index_t c = 0; c < x.shape()[1]; ++c) s += (x(i, c) - y(j, c)) * (x(i, c) - y(j, c));
  return std::sqrt(s);
}

double plain_info_nce(const rows& q, const rows& d, const info_nce_options& o) {
  double mean = 0;
  for (index_t i = 0; i < q.shape()[0]; ++i) {
    const auto similarity = [&](index_t j) {
      return (o.similarity == vector_similarity::cosine ? plain_cosine(q, i, d, j) : plain_dot(q, i, d, j)) / o.temperature;
    };
    double sum = 0;
    for (index_t j = 0; j < d.shape()[0]; ++j) sum += std::exp(similarity(j));
    mean += (std::log(sum) - similarity(i)) / static_cast<double>(q.shape()[0]);
  }
  return mean;
}

/// The value of a loss of constants.
template <class F>
double value_of(F loss) {
  context ctx;
  t64 t(ctx, recording::off);
  return loss(t).item();
}

const index_t n = 9, c = 19;
const numbers scores{0.1, 0.7, 0.7, -0.3, 0.9, 0.2, -0.8, 0.4, 0};

}  // namespace

TEST_CASE("InfoNCE equals its definition, over more rows than one chunk and with hard negatives") {
  for (const index_t queries : {index_t{1}, n, detail::loss_chunk + 5})
    for (const index_t negatives : {0, 4})
      for (const auto& o : {info_nce_options{}, info_nce_options{.temperature = 0.7, .similarity = vector_similarity::dot}}) {
        const auto q = test::random_tensor<double, 2>({queries, c}, 1), d = test::random_tensor<double, 2>({queries + negatives, c}, 2);
        const double got = value_of([&](t64& t) { return info_nce(t, t.constant(q), t.constant(d), o); });
        CHECK(got == Approx(plain_info_nce(q, d, o)).epsilon(1e-12).margin(1e-14));
      }
}

TEST_CASE("InfoNCE stays finite where its exponentials would overflow") {
  context ctx;
  parameter<float, 2> q(tensor<float, 2>::of({{1, 0}, {0, 1}})), d(tensor<float, 2>::of({{0, 2}, {3, 0}}));  // each finds the other's
  tape<float> t(ctx);
  const auto loss = info_nce(t, t.leaf(q), t.leaf(d), {.temperature = 1e-3});
  t.backward(loss);
  CHECK(loss.item() == Approx(1000));
  for (const float g : d.gradient_values()) CHECK(std::isfinite(g));
  for (const float g : q.gradient_values()) CHECK(std::isfinite(g));
}

TEST_CASE("triplet, regression and CoSENT losses equal their definitions") {
  const auto x = test::random_tensor<double, 2>({n, c}, 1), y = test::random_tensor<double, 2>({n, c}, 2), z = test::random_tensor<double, 2>({n, c}, 3);
  for (const auto& o : {triplet_options{.margin = 0.3}, triplet_options{.margin = 0.2, .distance = vector_distance::cosine}}) {
    double expected = 0;
    int counted = 0;
    for (index_t i = 0; i < n; ++i) {
      const double near = o.distance == vector_distance::cosine ? 1 - plain_cosine(x, i, y, i) : plain_distance(x, i, y, i);
      const double far = o.distance == vector_distance::cosine ? 1 - plain_cosine(x, i, z, i) : plain_distance(x, i, z, i);
      expected += std::max(0.0, near - far + o.margin) / static_cast<double>(n);
      counted += near - far + o.margin > 0;
    }
    CHECK(counted > 0);
    CHECK(counted < n);  // some rows are beyond the margin
    CHECK(value_of([&](t64& t) { return triplet_loss(t, t.constant(x), t.constant(y), t.constant(z), o); }) == Approx(expected).epsilon(1e-12));
  }
  double squares = 0, pairs = 1;
  for (index_t i = 0; i < n; ++i) {
    squares += std::pow(plain_cosine(x, i, y, i) - scores[static_cast<std::size_t>(i)], 2) / static_cast<double>(n);
    for (index_t j = 0; j < n; ++j)
      if (scores[static_cast<std::size_t>(i)] > scores[static_cast<std::size_t>(j)]) pairs += std::exp(7 * (plain_cosine(x, j, y, j) - plain_cosine(x, i, y, i)));
  }
  CHECK(value_of([&](t64& t) { return cosine_regression(t, t.constant(x), t.constant(y), scores); }) == Approx(squares).epsilon(1e-12));
  CHECK(value_of([&](t64& t) { return cosent_loss(t, t.constant(x), t.constant(y), scores, {.scale = 7}); }) == Approx(std::log(pairs)).epsilon(1e-12));
  CHECK(value_of([&](t64& t) { return cosent_loss(t, t.constant(x), t.constant(y), numbers(scores.size(), 1)); }) == 0);
  const double steep = value_of([&](t64& t) { return cosent_loss(t, t.constant(x), t.constant(y), scores, {.scale = 1e6}); });
  CHECK(std::isfinite(steep));
}

TEST_CASE("gradients of embedding losses equal central differences") {
  context ctx;
  const auto weights = test::random_tensor<double, 2>({n, c}, 9);
  const auto check = [&](const char* name, auto loss) {
    INFO(name);
    test::leaves p;
    auto &x = p.matrix(n, c), &y = p.matrix(n, c), &more = p.matrix(n + 3, c);
    CHECK(p.gradient_error(ctx, [&](t64& t) { return loss(t, t.leaf(x), t.leaf(y), t.leaf(more)); }) < 1e-7);
    CHECK(std::ranges::any_of(x.gradient_values(), [](double g) { return g != 0; }));
  };
  check("l2_normalise", [&](t64& t, auto x, auto, auto) { return sum(t, multiply(t, l2_normalise(t, x), t.constant(weights))); });
  check("l2_normalise of short rows", [&](t64& t, auto x, auto, auto) { return sum(t, multiply(t, l2_normalise(t, x, 2.5), t.constant(weights))); });
  check("cosine_similarity", [](t64& t, auto x, auto y, auto) {
    const auto s = cosine_similarity(t, x, y);
    return sum(t, multiply(t, s, s));
  });
  check("row_dot, one operand twice", [](t64& t, auto x, auto y, auto) { return sum(t, add(t, row_dot(t, x, x), row_dot(t, y, x))); });
  check("euclidean_distance", [](t64& t, auto x, auto y, auto) { return sum(t, euclidean_distance(t, x, y)); });
  check("info_nce, cosine", [](t64& t, auto x, auto y, auto more) { return add(t, info_nce(t, x, more, {.temperature = 0.2}), info_nce(t, y, x)); });
  check("info_nce, dot", [](t64& t, auto x, auto, auto more) { return info_nce(t, x, more, {.temperature = 2, .similarity = vector_similarity::dot}); });
  for (const auto d : {vector_distance::euclidean, vector_distance::cosine})
    check("triplet_loss", [&](t64& t, auto x, auto y, auto) {
      const auto z = t.constant(weights);
      return add(t, triplet_loss(t, x, y, z, {.margin = 0.3, .distance = d}), triplet_loss(t, y, z, x, {.margin = 0.1, .distance = d}));
    });
  check("cosine_regression", [](t64& t, auto x, auto y, auto) { return cosine_regression(t, x, y, scores); });
  check("cosent_loss", [](t64& t, auto x, auto y, auto) { return cosent_loss(t, x, y, scores, {.scale = 5}); });
}

TEST_CASE("rows of zeros, and pairs at no distance, give numbers") {
  context ctx;
  parameter<double, 2> x(rows::of({{0, 0}, {3, 4}})), y(rows::of({{1, 2}, {3, 4}}));
  {
    t64 t(ctx);
    const auto u = l2_normalise(t, t.leaf(x));
    CHECK(u.value(0, 0) == 0);
    CHECK(u.value(1, 1) == Approx(0.8));
    CHECK(cosine_similarity(t, t.leaf(x), t.leaf(y)).value(0) == 0);
    const auto d = euclidean_distance(t, t.leaf(x), t.leaf(y));
    CHECK(d.value(1) == 0);
    t.backward(sum(t, d));
  }
  CHECK(x.gradient_values()[0] == Approx(-1 / std::sqrt(5.0)));
  CHECK(x.gradient_values()[2] == 0);
  CHECK(y.gradient_values()[3] == 0);
}

TEST_CASE("embedding losses do not depend on threads, and after the first pass allocate nothing") {
  thread_pool three(3);
  context serial, parallel(three);
  parameter<float, 2> x(test::random_tensor<float, 2>({150, 384}, 1)), y(test::random_tensor<float, 2>({160, 384}, 2));
  const std::vector<float> targets(150, 0.5f);
  const auto pass = [&](context& ctx) {
    x.clear_gradient();
    y.clear_gradient();
    tape<float> t(ctx);
    const auto some = t.leaf(x);
    const auto loss = add(t, info_nce(t, some, t.leaf(y)), add(t, cosine_regression(t, some, l2_normalise(t, some), targets), cosent_loss(t, some, some, targets)));
    t.backward(loss);
    return loss.item();
  };
  const float one = pass(serial);
  const std::vector<float> gradient(x.gradient_values().begin(), x.gradient_values().end());
  CHECK(pass(parallel) == one);
  CHECK(std::ranges::equal(x.gradient_values(), gradient));
  pass(serial);
  const std::size_t before = test::allocations();
  pass(serial);
  CHECK(test::allocations() == before);
}

TEST_CASE("embedding losses refuse what does not fit") {
  context ctx;
  t64 t(ctx);
  const rows small({2, 3}), wide({2, 4}), more({3, 3});
  const auto a = t.constant(small), b = t.constant(wide), m = t.constant(more);
  const numbers two{1, 0}, broken{1, std::nan("")};
  CHECK_THROWS_WITH(info_nce(t, m, a), "info_nce: there are 3 queries and 2 documents, expected one or more for each query");
  CHECK_THROWS_WITH(info_nce(t, a, b), "info_nce: queries has 3 columns, documents has 4 (queries is (2, 3), documents is (2, 4))");
  CHECK_THROWS_WITH(info_nce(t, a, a, {.temperature = 0}), "info_nce: temperature is 0, expected more than 0");
  CHECK_THROWS_WITH(triplet_loss(t, a, m, a), "triplet_loss: the operands have shapes (2, 3) and (3, 3)");
  CHECK_THROWS_WITH(triplet_loss(t, a, a, a, {.margin = -1}), "triplet_loss: margin is -1, expected 0 or more");
  CHECK_THROWS_WITH(cosine_regression(t, m, m, two), "cosine_regression: there are 3 pairs and 2 scores");
  CHECK_THROWS_WITH(cosent_loss(t, a, a, broken), "cosent_loss: score 1 is nan, expected a finite number");
  CHECK_THROWS_WITH(cosent_loss(t, a, a, two, {.scale = -2}), "cosent_loss: scale is -2, expected more than 0");
}
