// SPDX-License-Identifier: Apache-2.0
#include "graft/methods/post_pool_adapter.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "graft/core/thread_pool.hpp"
#include "graft/nn/state.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

using vec = std::vector<float>;

template <class T = float>
std::vector<T> random_vector(index_t d, std::uint64_t seed) {
  const auto t = test::random_tensor<T, 1>({d}, seed);
  return {t.data(), t.data() + d};
}
template <class T>
double cosine(std::span<const T> a, std::span<const T> b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    aa += static_cast<double>(a[i]) * static_cast<double>(a[i]);
    bb += static_cast<double>(b[i]) * static_cast<double>(b[i]);
  }
  return ab / std::sqrt(aa * bb);
}
double cosine(const vec& a, const vec& b) { return cosine<float>(a, b); }

/// Documents are random; the query of one is the document turned away along two directions that depend on it.
struct small_world {
  index_t dimension = 32, count = 240;
  tensor<float, 2> documents = test::random_tensor<float, 2>({count, dimension}, 1);

  vec document(index_t i) const { return {&documents(i, 0), &documents(i, 0) + dimension}; }
  vec query(index_t i) const {
    vec q = document(i);
    const vec noise = random_vector(dimension, 1000 + static_cast<std::uint64_t>(i));
    for (const std::uint64_t way : {7, 8}) {
      const vec from = random_vector(dimension, way), to = random_vector(dimension, way + 10);
      float along = 0;
      for (std::size_t c = 0; c < q.size(); ++c) along += from[c] * documents(i, static_cast<index_t>(c));
      for (std::size_t c = 0; c < q.size(); ++c) q[c] += 0.5f * along * to[c];
    }
    for (std::size_t c = 0; c < q.size(); ++c) q[c] += 0.8f * noise[c];
    return q;
  }
  /// The share of queries [first, count) whose own document comes first.
  double recall(const post_pool_adapter<float>& personal, index_t first) const {
    index_t found = 0;
    for (index_t i = first; i < count; ++i) {
      const vec q = personal(query(i));
      index_t best = 0;
      double most = -2;
      for (index_t j = 0; j < count; ++j)
        if (const double s = cosine(q, document(j)); s > most) most = s, best = j;
      found += best == i;
    }
    return static_cast<double>(found) / static_cast<double>(count - first);
  }
};

}  // namespace

TEST_CASE("a post-pool adapter starts as the identity of directions") {
  const post_pool_adapter<float> personal(384, {.rank = 4});
  const vec q = random_vector(384, 1), moved = personal(q);
  CHECK(cosine(q, moved) == Approx(1).epsilon(1e-6));
  CHECK(cosine(moved, moved) == Approx(1));
  CHECK(personal.bytes() < 1000000);
  CHECK(post_pool_adapter<float>(384).bytes() < 1000000);
}

TEST_CASE("clicks improve a search for pairs that were not learned, and documents stay as they are") {
  const small_world world;
  context ctx;
  post_pool_adapter<float> personal(world.dimension, {.rank = 8, .lr = 2e-3, .max_shift = 0.9, .memory = 64});
  const index_t held_out = 180;
  const double before = world.recall(personal, held_out);
  double first = 0, last = 0;
  for (int pass = 0; pass < 3; ++pass)
    for (index_t i = 0; i < held_out; ++i) {
      const double loss = personal.learn(ctx, world.query(i), world.document(i));
      if (pass == 0 && i >= 64 && i < 104) first += loss;
      if (pass == 2 && i >= 140) last += loss;
    }
  const double after = world.recall(personal, held_out);
  INFO("held-out recall@1 " << before << " -> " << after << ", loss " << first / 40 << " -> " << last / 40);
  CHECK(after > before + 0.15);
  CHECK(last < 0.8 * first);
  CHECK(personal.learned() == 3 * held_out);
}

TEST_CASE("whatever is clicked, no query turns by more than the bound, and no click moves an entry by much more than lr") {
  context ctx;
  const double limit = 0.3, lr = 0.05;
  post_pool_adapter<float> personal(24, {.rank = 4, .lr = lr, .proximity = 0, .max_shift = limit, .memory = 16});
  double least = 1, most_moved = 0;
  std::vector<float> b(24 * 4);
  for (std::uint64_t i = 0; i < 300; ++i) {
    personal.learn(ctx, random_vector(24, i), random_vector(24, 5000 + i));
    const auto state = save_state(personal);
    const auto* now = reinterpret_cast<const float*>(state.items[1].second.bytes.data());
    for (std::size_t j = 0; j < b.size(); ++j) most_moved = std::max(most_moved, static_cast<double>(std::abs(now[j] - b[j])));
    std::copy_n(now, b.size(), b.begin());
    const vec q = random_vector(24, 9000 + i);
    least = std::min(least, cosine(q, personal(q)));
  }
  const double bound = std::sqrt(1 - limit * limit);
  CHECK(least >= bound - 1e-6);
  CHECK(least < bound + 0.01);       // these clicks do reach it
  CHECK(most_moved <= 3.17 * lr);    // (1 - beta1) / sqrt(1 - beta2) is what AdamW can do at most
  CHECK(most_moved > 0.3 * lr);
}

TEST_CASE("a step goes down the gradient of InfoNCE through the map that queries take") {
  context ctx;
  const index_t d = 6, r = 2;
  const post_pool_options o{.rank = r, .lr = 0.01, .temperature = 0.3, .memory = 8};
  post_pool_adapter<double> personal(d, o), probe(d, o);
  const auto q = random_vector<double>(d, 1), clicked = random_vector<double>(d, 2);
  const auto shown = test::random_tensor<double, 2>({3, d}, 3);
  const auto start = save_state(personal);
  const auto loss_at = [&](index_t entry, double value) {
    auto state = start;
    reinterpret_cast<double*>(state.items[1].second.bytes.data())[entry] = value;
    load_state(probe, view(state));
    const auto moved = probe(q);
    const double own = cosine<double>(moved, clicked) / o.temperature;
    double sum = std::exp(own);
    for (index_t i = 0; i < 3; ++i) sum += std::exp(cosine<double>(moved, shown.row(i).span()) / o.temperature);
    return std::log(sum) - own;
  };
  CHECK(personal.learn(ctx, q, clicked, shown) == Approx(loss_at(0, 0)).epsilon(1e-12));
  const auto after = save_state(personal);
  const auto* b = reinterpret_cast<const double*>(after.items[1].second.bytes.data());
  for (index_t i = 0; i < d * r; ++i) {
    const double gradient = (loss_at(i, 1e-5) - loss_at(i, -1e-5)) / 2e-5;
    INFO("entry " << i << ", gradient " << gradient);
    REQUIRE(std::abs(gradient) > 1e-4);  // else its sign would say nothing
    CHECK(b[i] == Approx(gradient > 0 ? -o.lr : o.lr).epsilon(1e-3));  // AdamW's first step has length lr
  }
  CHECK(after.items[0].second.bytes == start.items[0].second.bytes);  // B was zero: A waits
}

TEST_CASE("queries of a tape take the map that single queries take, to the bound and below it") {
  context ctx;
  for (const double limit : {0.05, 0.99}) {
    post_pool_adapter<double> personal(20, {.rank = 3, .scale = 2, .lr = 0.02, .max_shift = limit});
    for (std::uint64_t i = 0; i < 20; ++i) personal.learn(ctx, random_vector<double>(20, i), random_vector<double>(20, 100 + i));
    const auto queries = test::random_tensor<double, 2>({7, 20}, 5);
    tape<double> t(ctx, recording::off);
    const auto all = personal(t, t.constant(queries));
    for (index_t i = 0; i < 7; ++i) {
      const auto one = personal(queries.row(i).span());
      CHECK(test::near(tensor_view<const double, 1>(one.data(), {20}), tensor_view<const double, 1>(all.value.row(i)), test::tolerance<double>(64)));
      const double turned = cosine<double>(one, queries.row(i).span());
      if (limit < 0.5) CHECK(turned >= std::sqrt(1 - limit * limit) - 1e-12);
      else CHECK(turned < std::sqrt(1 - 0.05 * 0.05));  // so that the two limits do differ
    }
  }
}

TEST_CASE("the memory holds each document once, and pairs go with their documents") {
  detail::click_memory<float> memory(3, 2);
  const float e[5][2] = {{1, 0}, {0, 1}, {-1, 0}, {0, -1}, {0.6f, 0.8f}};
  CHECK(memory.remember(e[0]) == 0);
  CHECK(memory.remember(e[1]) == 1);
  CHECK(memory.remember(e[0]) == 0);
  CHECK(memory.documents() == 2);
  CHECK(memory.remember_pair(e[4], 0) == 0);
  CHECK(memory.remember_pair(e[3], 1) == 1);
  CHECK(memory.remember(e[2]) == 2);
  CHECK(memory.remember(e[3]) == 0);  // the oldest gives way
  CHECK(memory.documents() == 3);
  CHECK(memory.document_of(0) == -1);
  CHECK(memory.document_of(1) == 1);
  memory.clear();
  CHECK(memory.documents() == 0);
  CHECK(memory.pairs() == 0);
}

TEST_CASE("a saved map gives the same queries, and learning goes on in an adapter that was moved") {
  context ctx;
  post_pool_adapter<float> personal(16, {.rank = 3, .lr = 0.01}), other(16, {.rank = 3, .seed = 5});
  const auto teach = [&](post_pool_adapter<float>& p, std::uint64_t from) {
    for (std::uint64_t i = from; i < from + 12; ++i) p.learn(ctx, random_vector(16, i), random_vector(16, 100 + i));
  };
  teach(personal, 0);
  const auto state = save_state(personal);
  REQUIRE(state.items.size() == 2);
  CHECK(state.items[0].first == "lora_A.weight");
  CHECK(state.items[1].first == "lora_B.weight");
  load_state(other, view(state));
  const vec q = random_vector(16, 77);
  CHECK(other(q) == personal(q));
  CHECK(parameters(personal)[0].tag() == "adapter");

  post_pool_adapter<float> twin(16, {.rank = 3, .lr = 0.01});
  teach(twin, 0);
  post_pool_adapter<float> moved(std::move(personal));
  teach(moved, 12);
  teach(twin, 12);
  CHECK(moved(q) == twin(q));
  CHECK(moved(q) != other(q));
  moved.forget();
  CHECK(moved(q) == twin(q));
  CHECK(moved.learn(ctx, q, random_vector(16, 78)) == 0);  // there is one document: nothing to tell it from
}

TEST_CASE("learning does not depend on threads, and after the first calls allocates nothing") {
  thread_pool three(3);
  context serial, parallel(three);
  post_pool_adapter<float> one(384), many(384);
  const auto shown = test::random_tensor<float, 2>({5, 384}, 3);
  std::vector<vec> queries, documents;
  for (std::uint64_t i = 0; i < 160; ++i) {
    queries.push_back(random_vector(384, i));
    documents.push_back(random_vector(384, 1000 + i));
  }
  std::size_t before = 0;
  for (std::size_t i = 0; i < queries.size(); ++i) {
    if (i == 150) before = test::allocations();
    one.learn(serial, queries[i], documents[i], shown);
  }
  CHECK(test::allocations() == before);
  for (std::size_t i = 0; i < queries.size(); ++i) many.learn(parallel, queries[i], documents[i], shown);
  CHECK(one(queries[0]) == many(queries[0]));
}

TEST_CASE("a post-pool adapter refuses options and vectors it cannot use, and then nothing has changed") {
  using adapter = post_pool_adapter<float>;
  CHECK_THROWS_WITH(adapter(0), "post_pool_adapter: the dimension is 0, expected 1 or more");
  CHECK_THROWS_WITH(adapter(8, {.rank = 9}), "post_pool_adapter: rank is 9, expected 1 to 8");
  CHECK_THROWS_WITH(adapter(8, {.rank = 2, .lr = 0}), "post_pool_adapter: lr is 0, expected more than 0, up to 1");
  CHECK_THROWS_WITH(adapter(8, {.rank = 2, .temperature = 0}), "post_pool_adapter: temperature is 0, expected 0.001 to 100");
  CHECK_THROWS_WITH(adapter(8, {.rank = 2, .max_shift = 1}), "post_pool_adapter: max_shift is 1, expected more than 0, below 1");
  CHECK_THROWS_WITH(adapter(8, {.rank = 2, .memory = 1}), "post_pool_adapter: memory is 1, expected 2 to 1048576");
  CHECK_THROWS_WITH(adapter(8, {.rank = 2, .replay = -1}), "post_pool_adapter: replay is -1, expected 0 or more");
  context ctx;
  adapter personal(3, {.rank = 2});
  const vec good{1, 2, 3}, narrow{1, 2}, zero{0, 0, 0}, broken{1, std::nanf(""), 0}, large{3e38f, 3e38f, 3e38f};
  CHECK_THROWS_WITH(personal(narrow), "post_pool_adapter: the query has 2 elements, expected 3");
  CHECK_THROWS_WITH(personal(zero), "post_pool_adapter: the query is zero, and has no direction");
  CHECK_THROWS_WITH(personal.learn(ctx, good, broken), "post_pool_adapter: the clicked document holds nan at element 1");
  const auto shown = tensor<float, 2>::of({{1, 0, 0}, {0, 0, 0}});
  CHECK_THROWS_AS(personal.learn(ctx, good, good, shown), format_error);
  const auto wide = tensor<float, 2>::of({{1, 0, 0, 0}});
  CHECK_THROWS_WITH(personal.learn(ctx, good, good, wide), "post_pool_adapter: a shown document has 4 elements, expected 3");
  CHECK(personal.learned() == 0);
  CHECK(cosine(personal(large), vec{1, 1, 1}) == Approx(1));
  freeze(personal);
  CHECK_THROWS_AS(personal.learn(ctx, good, good), state_error);
  CHECK(cosine(personal(good), good) == Approx(1));
}
