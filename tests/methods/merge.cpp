// SPDX-License-Identifier: Apache-2.0
#include "graft/methods/merge.hpp"

#include <limits>
#include <numeric>

#include "graft/core/thread_pool.hpp"
#include "graft/methods/convert.hpp"
#include "support/catch.hpp"
#include "support/decompositions.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"

using namespace graft;
using test::near;
using test::random_tensor;

namespace {

using matrix = std::vector<double>;  // (out, in), row by row: the reference knows nothing of tensors
constexpr index_t out = 11, in = 7, entries = out * in;

template <class T>
lora<T> example(index_t rank, double alpha, std::uint64_t seed, bool stabilised = false, index_t inputs = in) {
  lora<T> l(inputs, out, {.rank = rank, .alpha = alpha, .rank_stabilised = stabilised});
  std::ranges::copy(random_tensor<T>(extents<2>{rank, inputs}, seed).span(), l.a.weight.value().begin());
  std::ranges::copy(random_tensor<T>(extents<2>{out, rank}, seed + 50).span(), l.b.weight.value().begin());
  return l;
}
template <class T>
matrix update_of(const lora<T>& l) {
  matrix d(entries);
  for (index_t i = 0; i < out; ++i)
    for (index_t j = 0; j < in; ++j)
      for (index_t k = 0; k < l.options.rank; ++k)
        d[i * in + j] += l.options.scale() * static_cast<double>(l.b.weight.view()(i, k)) * static_cast<double>(l.a.weight.view()(k, j));
  return d;
}
double size_of(const matrix& m) { return std::sqrt(std::inner_product(m.begin(), m.end(), m.begin(), 0.0)); }
matrix difference(matrix x, const matrix& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] -= y[i];
  return x;
}

/// What each thinning method means, by sorting and by counting.
matrix reference(const std::vector<matrix>& updates, const std::vector<double>& weights, const merge_lora_options& o, const std::vector<std::string>& names) {
  std::vector<matrix> thin = updates;
  for (std::size_t u = 0; u < thin.size(); ++u) {
    if (o.method == merge_method::dare_linear || o.method == merge_method::dare_ties) {
      const auto random = random_stream(o.seed).substream("here").substream(names[u]);
      for (std::size_t i = 0; i < entries; ++i)
        thin[u][i] = random.block(i / 4)[i % 4] / 0x1p32 < o.density ? thin[u][i] / o.density : 0;
    } else {
      std::vector<std::size_t> order(entries);
      std::iota(order.begin(), order.end(), 0);
      std::ranges::stable_sort(order, [&](auto x, auto y) { return std::abs(thin[u][x]) > std::abs(thin[u][y]); });
      for (auto k = static_cast<std::size_t>(o.density * entries); k < entries; ++k) thin[u][order[k]] = 0;
    }
  }
  matrix merged(entries);
  const bool elects = o.method == merge_method::ties || o.method == merge_method::dare_ties;
  for (std::size_t i = 0; i < entries; ++i) {
    double total = 0, positive = 0, negative = 0;
    for (const auto& d : thin) total += d[i], positive += d[i] > 0, negative += d[i] < 0;
    const bool plus = o.election == sign_election::total ? total >= 0 : positive >= negative;
    double sum = 0, count = 0;
    for (std::size_t u = 0; u < thin.size(); ++u)
      if (!elects || (plus ? thin[u][i] > 0 : thin[u][i] < 0)) sum += weights[u] * thin[u][i], ++count;
    merged[i] = elects ? (count == 0 ? 0 : sum / count) : sum;
  }
  return merged;
}

template <class T>
struct three {
  std::vector<lora<T>> loras;
  std::vector<std::string> names{"one", "two", "three"};
  std::vector<double> weights{0.7, -0.4, 1.5};
  std::vector<matrix> updates;
  std::vector<weighted_lora<T>> sources;

  explicit three(index_t r0 = 2, index_t r1 = 3, index_t r2 = 1) {
    loras.push_back(example<T>(r0, 6, 1));
    loras.push_back(example<T>(r1, 2, 2, true));  // scaled by alpha / sqrt(rank)
    loras.push_back(example<T>(r2, -4, 3));       // a negative scale
    for (std::size_t i = 0; i < 3; ++i) {
      updates.push_back(update_of(loras[i]));
      sources.push_back({&loras[i], weights[i], names[i]});
    }
  }
  matrix sum() const {
    matrix s(entries);
    for (std::size_t u = 0; u < 3; ++u)
      for (std::size_t i = 0; i < entries; ++i) s[i] += weights[u] * updates[u][i];
    return s;
  }
  fitted_lora<T> merged(const merge_lora_options& o) const { return merge_loras<T>(sources, o, "here"); }
};

}  // namespace

TEMPLATE_TEST_CASE("cat is the weighted sum, svd the same truncated with the error it states", "", float, double) {
  const three<TestType> x;
  const double rounding = test::tolerance<TestType>(40);
  const auto cat = x.merged({.method = merge_method::cat});
  CHECK(cat.adapter.options.rank == 6);
  CHECK(cat.adapter.options.scale() == 1);
  CHECK(cat.relative_error == 0);
  CHECK(size_of(difference(update_of(cat.adapter), x.sum())) <= rounding * size_of(x.sum()));
  double before = 2;
  for (const index_t rank : {1, 2, 4, 6, 9}) {
    const auto svd = x.merged({.rank = rank});
    CHECK(svd.adapter.options.rank == rank);
    const double lost = size_of(difference(update_of(svd.adapter), x.sum())) / size_of(x.sum());
    CHECK(std::abs(lost - svd.relative_error) <= rounding);
    if (rank < 6) CHECK(lost > 1e-3);  // there is something to cut
    else CHECK(lost <= rounding);
    CHECK(lost < before);
    before = lost + rounding;
  }
  CHECK(x.merged({}).adapter.options.rank == 3);  // the largest of the sources'
}

TEMPLATE_TEST_CASE("linear adds the factors, and says how far that is from the weighted sum", "", float, double) {
  const three<TestType> x(2, 2, 2);
  matrix expected(entries);  // (sum of roots B_i) (sum of signed roots A_j)
  for (std::size_t p = 0; p < 3; ++p)
    for (std::size_t q = 0; q < 3; ++q) {
      const double left = x.weights[p] * x.loras[p].options.scale(), right = x.weights[q] * x.loras[q].options.scale();
      for (index_t i = 0; i < out; ++i)
        for (index_t j = 0; j < in; ++j)
          for (index_t k = 0; k < 2; ++k)
            expected[i * in + j] += std::sqrt(std::abs(left)) * static_cast<double>(x.loras[p].b.weight.view()(i, k)) * (right < 0 ? -1 : 1) *
                                    std::sqrt(std::abs(right)) * static_cast<double>(x.loras[q].a.weight.view()(k, j));
    }
  const auto linear = x.merged({.method = merge_method::linear});
  const double rounding = test::tolerance<TestType>(40);
  CHECK(linear.adapter.options.rank == 2);
  CHECK(size_of(difference(update_of(linear.adapter), expected)) <= rounding * size_of(expected));
  const double cross_terms = size_of(difference(expected, x.sum())) / size_of(x.sum());
  CHECK(cross_terms > 0.1);
  CHECK(linear.relative_error == Approx(cross_terms).epsilon(rounding));
}

TEST_CASE("the thinned merges are those of a plain dense reference") {
  const three<double> x;
  for (const auto method : {merge_method::ties, merge_method::dare_linear, merge_method::dare_ties, merge_method::magnitude_prune})
    for (const auto election : {sign_election::total, sign_election::frequency})
      for (const double density : {0.31, 1.0}) {
        const merge_lora_options all{.method = method, .rank = in, .density = density, .election = election, .seed = 5};
        const auto expected = reference(x.updates, x.weights, all, x.names);
        REQUIRE(size_of(expected) > 0.1);
        const auto whole = x.merged(all);
        CHECK(whole.relative_error <= 1e-14);
        CHECK(size_of(difference(update_of(whole.adapter), expected)) <= 1e-13 * size_of(expected));
        auto cut = all;
        cut.rank = 2;
        const auto two = x.merged(cut);
        CHECK(two.relative_error > 0.05);
        CHECK(size_of(difference(update_of(two.adapter), expected)) == Approx(two.relative_error * size_of(expected)));
      }
  // What an election means depends on how it is held: these differ, or the loop above compares too little.
  merge_lora_options o{.method = merge_method::ties, .rank = in, .density = 0.6};
  const auto total = reference(x.updates, x.weights, o, x.names);
  o.election = sign_election::frequency;
  CHECK(size_of(difference(total, reference(x.updates, x.weights, o, x.names))) > 0.1);
}

TEST_CASE("what is dropped follows from seed, layer and name, not from the order, and has the right mean") {
  const three<double> x;
  const merge_lora_options o{.method = merge_method::dare_linear, .rank = in, .density = 0.5, .seed = 1};
  const auto merged = [&](std::span<const weighted_lora<double>> sources, const merge_lora_options& options, std::string_view layer) {
    return update_of(merge_loras<double>(sources, options, layer).adapter);
  };
  const auto first = merged(x.sources, o, "here");
  auto turned = x.sources;
  std::ranges::reverse(turned);
  CHECK(size_of(difference(merged(turned, o, "here"), first)) <= 1e-13 * size_of(first));
  CHECK(size_of(difference(merged(x.sources, o, "there"), first)) > 0.1);
  auto renamed = x.sources;
  renamed[0].name = "four";
  CHECK(size_of(difference(merged(renamed, o, "here"), first)) > 0.1);
  matrix mean(entries);
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    auto other = o;
    other.seed = seed;
    const auto d = merged(x.sources, other, "here");
    for (std::size_t i = 0; i < entries; ++i) mean[i] += d[i] / 400;
  }
  // Each kept entry is doubled: its deviation is its own size, over sqrt(400) for the mean.
  CHECK(size_of(difference(mean, x.sum())) < 0.15 * size_of(x.sum()));
}

TEST_CASE("thinning keeps the share it should, and of equal entries the earlier") {
  std::vector<float> x{1, -2, 2, 0.5f, -2, 2, 0, 1};
  auto some = x;
  keep_largest<float>(some, 0.4);
  CHECK(some == std::vector<float>{0, -2, 2, 0, -2, 0, 0, 0});
  some = x;
  keep_largest<float>(some, 0.01);
  CHECK(some == std::vector<float>{0, -2, 0, 0, 0, 0, 0, 0});
  some = x;
  keep_largest<float>(some, 1);
  CHECK(some == x);
  drop_at_random<float>(some, 1, random_stream(3));
  CHECK(some == x);
  std::vector<double> ones(100'000, 1);
  drop_at_random<double>(ones, 0.2, random_stream(3));
  CHECK(std::ranges::count(ones, 5.0) + std::ranges::count(ones, 0.0) == 100'000);
  CHECK(std::abs(std::ranges::count(ones, 5.0) - 20'000) < 5 * 127);  // five deviations, sqrt(n d (1 - d)) each
  CHECK_THROWS_WITH(keep_largest<float>(some, 0), "keep_largest: density is 0, expected above 0 to 1");
}

TEST_CASE("merging one adapter with weight 1 gives it back, by every method") {
  const auto l = example<double>(2, 6, 4, true);
  const weighted_lora<double> alone[] = {{&l, 1, "alone"}};
  const auto before = update_of(l);
  for (const auto method : {merge_method::linear, merge_method::cat, merge_method::svd, merge_method::ties, merge_method::dare_linear,
                            merge_method::dare_ties, merge_method::magnitude_prune}) {
    const auto merged = merge_loras<double>(alone, {.method = method});
    CHECK(merged.relative_error < 1e-14);
    CHECK(merged.adapter.options.rank == 2);
    CHECK(size_of(difference(update_of(merged.adapter), before)) < 1e-13 * size_of(before));
  }
}

TEST_CASE("what cannot be merged is refused with the layer's name") {
  const three<float> x;
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH(merge_loras<float>({}, {}, "q"), "merge: q: no adapters to merge");
  CHECK_THROWS_WITH(x.merged({.method = merge_method::linear}), "merge: here: \"two\" has rank 3, \"one\" 2; linear needs equal ranks, the other methods do not");
  CHECK_THROWS_WITH(x.merged({.method = merge_method::ties, .density = 0}), "merge: density is 0, expected above 0 to 1");
  CHECK_THROWS_WITH(x.merged({.method = merge_method::ties, .density = 1.5}), "merge: density is 1.5, expected above 0 to 1");
  CHECK_THROWS_AS(x.merged({.method = merge_method::ties, .density = nan}), option_error);
  CHECK_THROWS_WITH(x.merged({.density = 0.5}), "merge: density is 0.5, but linear, cat and svd keep every entry");
  CHECK_THROWS_WITH(x.merged({.method = merge_method::cat, .rank = 4}), "merge: rank is 4, but linear and cat take theirs from the sources");
  CHECK_THROWS_WITH(x.merged({.rank = -1}), "merge: rank is -1, expected 0 to 65536");
  auto sources = x.sources;
  sources[1].weight = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH(merge_loras<float>(sources, {}, "q"), "merge: q: the weight of \"two\" is inf, expected a finite number");
  const auto wide = example<float>(2, 4, 1, false, in + 1);
  sources[1] = {&wide, 1, "wide"};
  CHECK_THROWS_WITH(merge_loras<float>(sources, {}, "q"), "merge: q: \"wide\" is for a layer of (11, 8), \"one\" for one of (11, 7)");
  auto broken = example<float>(2, 4, 1);
  broken.b.weight.value()[3] = static_cast<float>(nan);
  sources[1] = {&broken, 1, "broken"};
  CHECK_THROWS_WITH(merge_loras<float>(sources, {}, "q"), "merge: q: \"broken\" holds NaN or infinity");
}

namespace {

/// One number for every output: a change of full rank that LoRA can only approach.
struct gains {
  parameter<double, 1> gain;
  explicit gains(index_t outputs) : gain(tensor<double, 1>::full({outputs}, 1.5)) { gain.tag = "adapter"; }
  static void visit(auto& self, auto& v) { v("gain", self.gain); }
  var<double, 2> apply(tape<double>& t, const var<double, 2>& x, linear_map<double> f) { return scale(t, f(x), t.leaf(gain)); }
  void merge_into(affine<double> w) const {
    for (index_t o = 0; o < gain.size(); ++o) {
      for (index_t i = 0; i < w.weight.shape[1]; ++i) w.weight(o, i) *= gain.view()(o);
      if (w.bias.data != nullptr) w.bias(o) *= gain.view()(o);
    }
  }
  std::string describe() const { return "gains"; }
};

llama<double> with_two() {
  auto m = test::small_llama<double>(2);
  attach(m, targets({"q_proj", "down_proj"}), lora_options{.rank = 2, .alpha = 6}, {.name = "a"});
  attach(m, targets({"q_proj", "v_proj"}), lora_options{.rank = 3, .alpha = 2, .rank_stabilised = true}, {.name = "b"});
  test::disturb_adapters(m);
  return m;
}

}  // namespace

TEST_CASE("adapters of a model merged exactly do what both did") {
  auto m = with_two();
  const auto before = test::logits_of(m, test::two_sequences);
  const auto report = merge_adapters_into(m, {"a", "b"}, {1, 1}, "both", {.method = merge_method::cat});
  CHECK(near(test::logits_of(m, test::two_sequences), before, 1e-12));
  REQUIRE(report.layers.size() == 6);  // q, v, down of two layers
  CHECK(report.layers[0].path == "model.layers.0.self_attn.q_proj");
  CHECK(report.layers[0].rank == 5);
  CHECK(report.layers[1].rank == 3);  // v_proj has the second alone
  CHECK(report.worst() == 0);
  CHECK(trainable(m).size() == 12);
  visit_layers(m, [](std::string_view, adapted_linear<double>& layer) {
    REQUIRE(layer.adapters.size() <= 1);
    if (!layer.adapters.empty()) CHECK(layer.adapters[0].name == "both");
  });

  auto kept = with_two();  // the same beside its sources, under a weight that takes them away again
  freeze(kept);
  merge_adapters_into(kept, {"b", "a"}, {-1, -1}, "both", {.rank = 5, .keep_sources = true});
  auto bare = test::small_llama<double>(2);
  CHECK(near(test::logits_of(kept, test::two_sequences), test::logits_of(bare, test::two_sequences), 1e-12));
  CHECK(trainable(kept).empty());
}

TEST_CASE("merging gives the same bits for any number of threads") {
  const merge_lora_options o{.method = merge_method::dare_ties, .rank = 2, .density = 0.5, .seed = 9};
  auto one = with_two(), two = with_two();
  thread_pool pool(3);
  const auto a = merge_adapters_into(one, {"a", "b"}, {1, 0.5}, "a", o), b = merge_adapters_into(two, {"a", "b"}, {1, 0.5}, "a", o, pool);
  CHECK(test::equal_bits(test::logits_of(one, test::two_sequences), test::logits_of(two, test::two_sequences)));
  CHECK(a.worst() > 0.1);
  CHECK(a.worst() == b.worst());
}

TEST_CASE("a model that cannot be merged stays as it was") {
  auto m = with_two();
  const auto before = test::logits_of(m, test::two_sequences);
  CHECK_THROWS_WITH(merge_adapters_into(m, {}, {}, "c"), "merge: no adapters to merge into \"c\"");
  CHECK_THROWS_WITH(merge_adapters_into(m, {"a"}, {1, 2}, "c"), "merge: 1 adapters and 2 weights");
  CHECK_THROWS_WITH(merge_adapters_into(m, {"a", "a"}, {1, 2}, "c"), "merge: \"a\" is named twice");
  CHECK_THROWS_WITH(merge_adapters_into(m, {"a", "d"}, {1, 2}, "c"), "merge: no layer has an adapter named \"d\"");
  CHECK_THROWS_WITH(merge_adapters_into(m, {"a"}, {1}, "b"), "merge: model.layers.0.self_attn.q_proj already has an adapter named \"b\"");
  CHECK_THROWS_WITH(merge_adapters_into(m, {"a", "b"}, {1, 1}, "c", {.method = merge_method::linear}),
                    Catch::Matchers::StartsWith("merge: model.layers.0.self_attn.q_proj: \"b\" has rank 3, \"a\" 2"));
  CHECK(test::equal_bits(test::logits_of(m, test::two_sequences), before));
  attach(m, targets({"v_proj"}), [](const adapter_site& s) { return gains(s.out); }, {.name = "g"});
  attach(m, targets({"v_proj"}), lora_options{.rank = 1}, {.name = "a"});
  CHECK_THROWS_WITH(merge_adapters_into(m, {"a", "b"}, {1, 1}, "c"),
                    "merge: model.layers.0.self_attn.v_proj: \"g\", gains, stands between the adapters to merge: they do not add up");
  CHECK_THROWS_WITH(merge_adapters_into(m, {"b", "g"}, {1, 1}, "c"),
                    "merge: model.layers.0.self_attn.v_proj: \"g\" is gains, not a LoRA; convert_to_lora() may make it one");
}

TEST_CASE("any adapter becomes a LoRA: of full rank exactly, of less with the error it states") {
  auto m = test::small_llama<double>(2);
  const auto base = replicate(m);
  attach(m, targets({"v_proj"}), lora_options{.rank = 2, .alpha = 4}, {.name = "a"});  // inside: its update is part of the weight before
  attach(m, targets({"q_proj", "v_proj"}), [](const adapter_site& s) { return gains(s.out); }, {.name = "g"});
  test::disturb_adapters(m, 1);
  const auto before = test::logits_of(m, test::two_sequences);
  auto whole = m;
  const auto none = convert_to_lora(whole, "g", 32);
  CHECK(none.layers.size() == 4);
  CHECK(none.worst() < 1e-14);
  CHECK(near(test::logits_of(whole, test::two_sequences), before, 1e-11));
  CHECK(whole.model.layers[0].self_attn.v_proj.adapters[1].name == "g");

  auto& layer = m.model.layers[1].self_attn.v_proj;
  const auto merged = layer.merged(), inner = detail::merged_before(layer, 1);
  const auto report = convert_to_lora(m, "g", 3);
  const auto again = layer.merged();
  double lost = 0, change = 0;
  for (std::size_t i = 0; i < merged.weight.span().size(); ++i) {
    const double d = again.weight.span()[i] - merged.weight.span()[i], c = merged.weight.span()[i] - inner.weight.span()[i];
    lost += d * d, change += c * c;
  }
  CHECK(report.layers[3].path == "model.layers.1.self_attn.v_proj");
  CHECK(report.layers[3].rank == 3);
  CHECK(report.layers[3].relative_error > 0.1);
  CHECK(report.layers[3].relative_error == Approx(std::sqrt(lost / change)));

  auto two = with_two();
  const auto before_two = test::logits_of(two, test::two_sequences);
  CHECK(convert_to_lora(two, "b", 3).worst() < 1e-14);  // a LoRA of this rank loses nothing
  CHECK(near(test::logits_of(two, test::two_sequences), before_two, 1e-12));
  CHECK(convert_to_lora(two, "b", 1).worst() > 0.1);
}

TEST_CASE("what no LoRA can stand for is refused") {
  auto m = test::small_llama<double>(1);
  CHECK_THROWS_WITH(convert_to_lora(m, "a", 2), "convert_to_lora: no layer has an adapter named \"a\"");
  merged_linear<double> before{random_tensor<double>(extents<2>{4, 3}, 1), random_tensor<double>(extents<1>{4}, 2)};
  CHECK_THROWS_WITH(to_lora(before, gains(4), 2, "q"), "to_lora: q: gains changes the bias, which a LoRA cannot");
  CHECK_THROWS_WITH(to_lora(before, gains(4), 0, "q"), "lora: rank is 0, expected 1 to 65536");
  before.bias.reset();
  before.weight(1, 1) = std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH(to_lora(before, gains(4), 2, "q"), "to_lora: q: gains makes NaN or infinity of the weight");
}
