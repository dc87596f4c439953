// SPDX-License-Identifier: Apache-2.0
#include "graft/tensor/map.hpp"

#include "graft/core/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/layouts.hpp"
#include "support/near.hpp"

using namespace graft;
using test::layouts;
using test::some;

namespace {

/// Runs on vectors and on numbers; `count` tells which.
struct counted {
  index_t *vectors, *numbers;
  template <class V>
  V operator()(V a, V b) const {
    if constexpr (simd::any_batch<V>) ++*vectors;
    else ++*numbers;
    return a * b + a;
  }
};

const auto multiply_add = [](auto a, auto b) { return a * b + a; };

template <class T, std::size_t A, std::size_t B>
void check_broadcast(extents<A> a_shape, extents<B> b_shape) {
  const auto a = some<T>(a_shape, 1);
  const auto b = some<T>(b_shape, 2);
  const auto shape = detail::broadcast_shape("test", a_shape, b_shape);
  tensor<T, std::max(A, B)> expected(shape);
  index_t n = 0;
  test::for_each_position(shape, [&](const auto& at) {
    const double x = static_cast<double>(test::element_at(std::as_const(a).view(), at)), y = static_cast<double>(test::element_at(std::as_const(b).view(), at));
    expected.data()[n++] = static_cast<T>(x * y + x);
  });
  INFO(to_string(a_shape) << " with " << to_string(b_shape));
  for (const auto& la : layouts(a))
    for (const auto& lb : layouts(b)) {
      INFO(la.name << ", " << lb.name);
      REQUIRE(test::near(map(multiply_add, la.view, lb.view), expected, test::tolerance<T>(2)));  // exactly, for integers
    }
}

}  // namespace

TEST_CASE("a function of elements is applied to every element, whatever the shapes, layouts and types") {
  for (index_t n : {0, 1, 3, 15, 16, 17, 33, 100}) {
    check_broadcast<float, 1, 1>({n}, {n});
    check_broadcast<float, 1, 1>({n}, {1});
    check_broadcast<float, 2, 1>({3, n}, {n});
    check_broadcast<float, 2, 2>({3, n}, {3, 1});
    check_broadcast<float, 2, 2>({n, 1}, {1, n});
    check_broadcast<float, 2, 0>({n, 2}, {});
    check_broadcast<float, 4, 3>({2, 1, 3, n}, {4, 1, n});
    check_broadcast<float, 4, 4>({2, 3, n, 1}, {2, 1, n, 4});
    check_broadcast<double, 1, 2>({n}, {3, n});
    check_broadcast<std::int32_t, 3, 2>({2, n, 5}, {n, 1});
  }
  check_broadcast<float, 0, 0>({}, {});
}

TEST_CASE("elements side by side and repeated ones go through vectors, others one by one") {
  index_t vectors = 0, numbers = 0;
  const counted f{&vectors, &numbers};
  const auto runs_on_vectors = [&](const auto& a, const auto& b) {
    vectors = numbers = 0;
    map(f, a, b);
    CHECK((vectors == 0) != (numbers == 0));
    return vectors != 0;
  };
  const auto a = some<float>(extents<2>{6, 40}, 1), b = some<float>(extents<2>{6, 40}, 2);
  CHECK(runs_on_vectors(a, b));
  CHECK(runs_on_vectors(a, b.row(0)));
  CHECK(runs_on_vectors(a, b.slice(1, 0, 1)));
  CHECK(runs_on_vectors(a.slice(1, 3, 30), b.slice(1, 5, 32)));
  CHECK_FALSE(runs_on_vectors(a.slice(1, 0, 40, 2), b.slice(1, 0, 20)));
  CHECK_FALSE(runs_on_vectors(a.transpose(), b.transpose()));  // the result is stored by rows
  CHECK_FALSE(runs_on_vectors(some<std::int32_t>(extents<1>{40}, 1), some<std::int32_t>(extents<1>{40}, 1)));
}

TEST_CASE("the result holds what the function returns") {
  const auto a = tensor<float, 1>::of({1, -2, 3});
  const auto b = tensor<std::int32_t, 1>::of({1, 2, 4});
  const auto truth = map([](auto v) { return v > 0; }, a);
  STATIC_REQUIRE(std::same_as<decltype(truth), const tensor<std::uint8_t, 1>>);
  CHECK(truth(0) == 1);
  CHECK(truth(1) == 0);
  const auto mixed = map([](float v, std::int32_t w) { return static_cast<double>(v) / w; }, a, b);
  STATIC_REQUIRE(std::same_as<decltype(mixed), const tensor<double, 1>>);
  CHECK(mixed(2) == 0.75);
  const auto three = map([](auto x, auto y, auto z) { return simd::fma(x, y, z); }, a, a, a);
  CHECK(three(2) == 12);
}

TEST_CASE("map_into writes its target and nothing else") {
  auto target = tensor<float, 2>::full({5, 60}, 7);
  const auto a = some<float>(extents<1>{37}, 1);
  const auto b = some<float>(extents<2>{3, 37}, 2);
  map_into(target.slice(0, 1, 4).slice(1, 11, 48), multiply_add, a, b);
  test::for_each_position(target.shape(), [&](const extents<2>& at) {
    const auto [i, j] = at;
    const bool inside = i >= 1 && i < 4 && j >= 11 && j < 48;
    const float x = inside ? a(j - 11) : 0, y = inside ? b(i - 1, j - 11) : 0;
    REQUIRE(target(i, j) == Approx(inside ? x * y + x : 7.0f).epsilon(1e-6));
  });
  tensor<double, 1> wide({37});
  map_into(wide, [](float v) { return v; }, a);
  CHECK(wide(36) == static_cast<double>(a(36)));
  CHECK_THROWS_WITH(map_into(target, multiply_add, a, a), "map_into: shape (37) does not broadcast to (5, 60)");
}

TEST_CASE("what a target overlaps is read as it was before") {
  const auto sum = [](auto x, auto y) { return x + y; };
  const auto original = some<float>(extents<2>{20, 20}, 1);
  auto t = original.clone();
  map_into(t, sum, t, t.transpose());
  test::for_each_position(t.shape(), [&](const extents<2>& at) { REQUIRE(t(at[0], at[1]) == original(at[0], at[1]) + original(at[1], at[0])); });

  t = original.clone();
  map_into(t.slice(0, 1, 20), sum, t.slice(0, 1, 20), t.slice(0, 0, 19));
  CHECK(t(0, 3) == original(0, 3));
  for (index_t i = 1; i < 20; ++i) REQUIRE(t(i, 3) == original(i, 3) + original(i - 1, 3));

  t = original.clone();
  map_into(t, sum, t, t.row(4));
  for (index_t i = 0; i < 20; ++i) REQUIRE(t(i, 3) == original(i, 3) + original(4, 3));
}

TEST_CASE("threads change no bit") {
  const auto rows = some<float>(extents<2>{300, 250}, 1);
  const auto row = some<float>(extents<1>{250}, 2), line = some<float>(extents<1>{100000}, 3);
  const auto f = [](auto a, auto b) { return simd::exp(a) * b; };
  const auto by_rows = map(f, rows, row), whole = map(f, rows, rows), across = map(f, rows.transpose(), rows.transpose());
  const auto along = map(f, line, line);
  for (index_t threads : {1, 2, 3, 7}) {
    thread_pool pool(threads);
    context ctx(pool);
    CHECK(test::equal_bits(map(ctx, f, rows, row), by_rows));
    CHECK(test::equal_bits(map(ctx, f, rows, rows), whole));
    CHECK(test::equal_bits(map(ctx, f, line, line), along));
    CHECK(test::equal_bits(map(ctx, f, rows.transpose(), rows.transpose()), across));
    tensor<float, 2> out({300, 250});
    map_into(ctx, out, f, rows, row);
    CHECK(test::equal_bits(out, by_rows));
  }
}

TEST_CASE("map names shapes that do not fit") {
  const auto a = some<float>(extents<2>{2, 3}, 1), b = some<float>(extents<2>{2, 4}, 1);
  CHECK_THROWS_WITH(map(multiply_add, a, b), "map: shapes (2, 3) and (2, 4) do not broadcast at axis 1");
}
