// SPDX-License-Identifier: Apache-2.0
#include "graft/methods/lora_inits.hpp"

#include <functional>

#include "graft/core/thread_pool.hpp"
#include "graft/io/peft_folder.hpp"
#include "support/catch.hpp"
#include "support/decompositions.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"

using namespace graft;
using test::near;

namespace {

// One layer under a name.
struct one_layer {
  using value_type = double;
  adapted_linear<double> l;
  explicit one_layer(const tensor<double, 2>& w) : l(w.shape()[1], w.shape()[0]) {
    parameter<double, 2> p(w.clone());
    p.freeze();
    l.weight.assign(p.share());
  }
  static void visit(auto& self, auto& v) { v("l", self.l); }
};

using matrix = tensor<double, 2>;
matrix product(const lora<double>& l) {
  const auto b = l.b.weight.view(), a = l.a.weight.view();
  auto p = matrix::zeros({b.shape[0], a.shape[1]});
  for (index_t i = 0; i < b.shape[0]; ++i)
    for (index_t k = 0; k < a.shape[0]; ++k)
      for (index_t j = 0; j < a.shape[1]; ++j) p.view()(i, j) += b(i, k) * a(k, j);
  return p;
}
lora<double>& low_rank(adapted_linear<double>& layer) { return *layer.adapters.at(0).adapter.get<lora<double>>(); }

// peft 0.21.2 with torch 2.13, rank 2 and alpha 3, in float: B A and the weight that is left.
const auto weight = matrix::of({{-0.82, 0.40, 0.90, -1.39, -0.17}, {0.29, -0.64, -0.89, 0.93, -0.54}, {-1.16, -0.46, 0.71, 1.01, -1.38},
                                {0.50, -0.08, -0.02, 0.17, 2.30}, {0.96, -0.66, 1.40, 1.41, -1.40}, {1.30, 1.64, -1.06, -0.26, -0.25}});
const auto pissa_product = matrix::of({{-0.7818399, -0.0541554, 0.4381862, -0.6358401, 0.1837338}, {0.4514659, -0.0845913, -0.1518689, 0.5726862, -0.3773307},
                                       {-0.4667277, -0.4883236, 0.6597001, 0.4293080, -0.9578051}, {0.2889477, 0.3820449, -0.4780239, -0.4072080, 0.7796123},
                                       {0.1987437, -0.4503906, 0.2938593, 0.9849883, -1.1332991}, {0.7952657, 0.3215316, -0.6783398, 0.1741156, 0.4368635}});
const auto pissa_rest = matrix::of({{0.3527598, 0.4812331, 0.2427206, -0.4362398, -0.4456006}, {-0.3871988, -0.5131131, -0.6621966, 0.0709707, 0.0259960},
                                    {-0.4599085, 0.2724855, -0.2795503, 0.3660380, 0.0567076}, {0.0665784, -0.6530674, 0.6970359, 0.7808120, 1.1305815},
                                    {0.6618845, 0.0155858, 0.9592111, -0.0674825, 0.2999486}, {0.1071014, 1.1577024, -0.0424902, -0.5211734, -0.9052951}});
const auto olora_product = matrix::of({{-0.8200000, 0.4000001, 0.0290910, -0.8491336, -0.0042015}, {0.2900000, -0.6400000, 0.2054534, 0.7862908, -0.1313603},
                                       {-1.1599999, -0.4600000, 0.4850914, -0.2011821, -0.2793052}, {0.5000000, -0.0800000, -0.0886672, 0.3579876, 0.0462373},
                                       {0.9600000, -0.6600001, 0.0489035, 1.1809893, -0.0461659}, {1.3000000, 1.6400000, -1.0302568, -0.8707149, 0.6126580}});
const auto olora_rest = matrix::of({{0.4099999, -0.2000001, 0.8563634, -0.1162996, -0.1636978}, {-0.1450000, 0.3200000, -1.1981801, -0.2494362, -0.3429596},
                                    {0.5799999, 0.2299999, -0.0176371, 1.3117731, -0.9610422}, {-0.2499999, 0.0400000, 0.1130008, -0.3669814, 2.2306440},
                                    {-0.4800000, 0.3300001, 1.3266447, -0.3614839, -1.3307512}, {-0.6500000, -0.8200001, 0.4853853, 1.0460722, -1.1689870}});

struct kind {
  const char* name;
  std::function<lora_start<double>(llama<double>&)> start;
};
const kind kinds[] = {{"pissa", [](auto& m) { return init_pissa(m); }},
                      {"pissa, randomised", [](auto& m) { return init_pissa(m, {.iterations = 2}); }},
                      {"olora", [](auto& m) { return init_olora(m); }}};

llama<double> with_lora(lora_options o = {.rank = 4, .alpha = 6}) {
  auto m = test::small_llama<double>(2);
  attach(m, targets({"q_proj", "v_proj", "down_proj"}), o);
  return m;
}
/// What f complains of; whatever it is, the model must compute what it did.
template <class F>
std::string complaint(llama<double> m, F f) {
  const auto before = test::logits_of(m, test::two_sequences);
  std::string text;
  try {
    f(m);
  } catch (const error& e) {
    text = e.what();
  }
  CHECK(test::equal_bits(test::logits_of(m, test::two_sequences), before));
  return text;
}

}  // namespace

TEST_CASE("PiSSA and OLoRA split a weight as peft does") {
  const auto split = [](auto init) {
    one_layer m(weight);
    attach(m, targets({"l"}), lora_options{.rank = 2, .alpha = 3});
    init(m);
    return m;
  };
  auto pissa = split([](auto& m) { init_pissa(m); });
  CHECK(near(product(low_rank(pissa.l)), pissa_product, 1e-6));  // the reference is float, six columns of six rows
  CHECK(near(pissa.l.weight.view(), pissa_rest.view(), 1e-6));
  auto olora = split([](auto& m) { init_olora(m); });
  CHECK(near(product(low_rank(olora.l)), olora_product, 1e-6));
  CHECK(near(olora.l.weight.view(), olora_rest.view(), 1e-6));
  // The roots of the singular values lie in both factors, and columns of Q have length one.
  const auto length = [](auto row) {
    double sum = 0;
    for (index_t i = 0; i < row.shape[0]; ++i) sum += row(i) * row(i);
    return std::sqrt(sum);
  };
  for (const index_t k : {0, 1}) {
    const double root = k == 0 ? 1.5664129 : 1.3325888, row = k == 0 ? 2.5870941 : 2.7693310;
    CHECK(std::abs(length(low_rank(pissa.l).a.weight.view().row(k)) - root) < 2e-6);
    CHECK(std::abs(length(low_rank(pissa.l).b.weight.view().transpose().row(k)) - root) < 2e-6);
    CHECK(std::abs(length(low_rank(olora.l).a.weight.view().row(k)) - row) < 2e-6);
    CHECK(std::abs(length(low_rank(olora.l).b.weight.view().transpose().row(k)) - 1) < 1e-14);
  }
}

TEST_CASE("randomised singular triples come nearer to the exact ones with every power iteration") {
  const auto large = test::random_tensor<double>(extents<2>{60, 50}, 4);  // of a flat spectrum, the hardest
  const auto rest = [&](index_t iterations) {
    one_layer m(large);
    attach(m, targets({"l"}), lora_options{.rank = 2, .alpha = 3});
    init_pissa(m, {.iterations = iterations});
    double squares = 0;
    for (const double w : m.l.weight.view().span()) squares += w * w;
    return std::sqrt(squares);
  };
  const double exact = rest(0), few = rest(1) / exact, more = rest(4) / exact, many = rest(60) / exact;
  CHECK(few > 1.001);
  CHECK(more < few);
  CHECK(std::abs(many - 1) < 1e-9);
}

TEST_CASE("a model computes the same right after its base was split, and so does the plain adapter after training") {
  auto base = test::small_llama<double>(2);
  const auto before = test::logits_of(base, test::two_sequences);
  for (const auto& [name, init] : kinds)
    for (const bool stabilised : {false, true}) {
      INFO(name << (stabilised ? ", rank-stabilised" : ""));
      auto model = with_lora({.rank = 4, .alpha = 6, .rank_stabilised = stabilised});
      const auto start = init(model);
      CHECK(start.layers.size() == 6);
      CHECK(near(test::logits_of(model, test::two_sequences), before, 1e-12));
      CHECK_FALSE(near(model.model.layers[1].mlp.down_proj.weight.view(), base.model.layers[1].mlp.down_proj.weight.view(), 1e-2));
      test::disturb_adapters(model);
      const auto trained = test::logits_of(model, test::two_sequences);
      CHECK_FALSE(near(trained, before, 1e-2));

      auto plain = replicate(model);
      as_plain_lora(plain, start);
      CHECK(low_rank(plain.model.layers[0].self_attn.q_proj).options.rank == 8);
      CHECK(near(test::logits_of(plain, test::two_sequences), trained, 1e-12));
      CHECK(plain.model.layers[0].self_attn.q_proj.weight.bytes().data() == start.layers[0].weight.bytes().data());
      CHECK(near(test::logits_of(model, test::two_sequences), trained, 0));  // a copy was converted

      const test::temporary_folder folder;
      save_peft(plain, folder.path());
      auto published = test::small_llama<double>(2);
      load_peft(published, folder.path());
      CHECK(near(test::logits_of(published, test::two_sequences), trained, 1e-12));
    }
}

TEST_CASE("a split touches no array that others share, and does not depend on threads") {
  auto base = test::small_llama<double>(2);
  auto model = replicate(base);
  REQUIRE(model.model.layers[0].self_attn.q_proj.weight.bytes().data() == base.model.layers[0].self_attn.q_proj.weight.bytes().data());
  const auto before = test::logits_of(base, test::two_sequences);
  attach(model, targets({"q_proj", "down_proj"}), lora_options{.rank = 3});
  auto again = replicate(model);
  thread_pool pool(3);
  init_pissa(model, {.iterations = 1, .seed = 5});
  init_pissa(again, {.iterations = 1, .seed = 5}, pool);
  CHECK(test::equal_bits(test::logits_of(base, test::two_sequences), before));
  CHECK(test::equal_bits(test::logits_of(model, test::two_sequences), test::logits_of(again, test::two_sequences)));
}

TEST_CASE("the rest of a half-precision weight is half precision") {
  auto model = test::small_llama<float>(2);
  store_weights_as(model, dtype::bf16);
  const auto before = test::logits_of(model, test::two_sequences);
  attach(model, targets({"q_proj", "down_proj"}), lora_options{.rank = 4});
  const auto start = init_pissa(model);
  CHECK(model.model.layers[0].mlp.down_proj.weight.type() == dtype::bf16);
  const auto after = test::logits_of(model, test::two_sequences);
  CHECK(near(after, before, 0.05));  // a rounding to 8 bits in each of a few layers
  CHECK_FALSE(near(after, before, 1e-6));
  as_plain_lora(model, start);
  CHECK(near(test::logits_of(model, test::two_sequences), before, 1e-4));
}

TEST_CASE("orthogonal factors do nothing together, and are not small alone") {
  auto model = with_lora({.rank = 6, .alpha = 6});
  const auto before = test::logits_of(model, test::two_sequences);
  init_orthogonal(model, random_stream(3));
  CHECK(near(test::logits_of(model, test::two_sequences), before, 1e-12));
  double squares = 0, count = 0;
  for (auto& p : trainable(model))
    for (const double v : p.parameter->value()) squares += v * v, ++count;
  CHECK(std::abs(squares / count - 0.005) < 0.0005);  // R / 2 of R directions, each normal with deviation 1 / 10
  const auto update = product(low_rank(model.model.layers[0].self_attn.q_proj));
  for (const double v : update.span()) CHECK(std::abs(v) < 1e-15);
  auto odd = with_lora({.rank = 3});
  CHECK_THROWS_WITH(init_orthogonal(odd), "init_orthogonal: the rank of model.layers.0.self_attn.q_proj is 3, expected an even one");
}

TEST_CASE("a start that cannot be made is refused, and nothing has changed") {
  const std::string q = "model.layers.0.self_attn.q_proj";
  CHECK(complaint(with_lora(), [](auto& m) { init_pissa(m, {.name = "other"}); }) == "init_pissa: no layer has an adapter named \"other\"");
  CHECK(complaint(with_lora({.rank = 17}), [](auto& m) { init_olora(m); }) ==
        "init_olora: rank is 17, but model.layers.0.self_attn.v_proj is (16, 32)");
  CHECK(complaint(with_lora({.alpha = -1}), [](auto& m) { init_pissa(m); }) == "init_pissa: alpha of " + q + " is -1, expected more than 0");
  CHECK(complaint(with_lora(), [](auto& m) { init_pissa(m, {.iterations = -1}); }) == "init_pissa: iterations is -1, expected 0 to 1000");
  auto frozen = with_lora();
  freeze(frozen);
  CHECK(complaint(frozen, [](auto& m) { init_orthogonal(m); }) == "init_orthogonal: the LoRA of " + q + " is frozen");
  auto two = with_lora();
  attach(two, targets({"q_proj"}), lora_options{}, {.name = "second"});
  CHECK(complaint(two, [](auto& m) { init_pissa(m); }) == "init_pissa: " + q + " has 2 adapters, expected the LoRA alone, because its base changes");
  auto whole = with_lora();
  unfreeze(whole, below(q + ".weight"));
  CHECK(complaint(whole, [](auto& m) { init_olora(m); }) == "init_olora: the weight of " + q + " is trainable, expected a frozen one");
  auto model = with_lora();
  const auto start = init_olora(model);
  as_plain_lora(model, start);
  CHECK(complaint(model, [&](auto& m) { as_plain_lora(m, start); }) ==
        "as_plain_lora: the LoRA of " + q + " is not where it was started, or not of the same shape");
}
