// SPDX-License-Identifier: Apache-2.0
// The laws of adapters: gradient, merge, identity, round trip. A new adapter joins by adding itself to the list.
#include "graft/nn/state.hpp"
#include "graft/ops/reduce.hpp"
#include "graft/peft/attach.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;

namespace {

/// How to make an adapter for a layer of the examples: one struct for every kind.
template <class T>
struct plain_lora {
  static lora<T> make(index_t in, index_t out) { return lora<T>(in, out, {.rank = 3, .alpha = 5}, random_stream(1)); }
};
template <class T>
struct stabilised_lora {
  static lora<T> make(index_t in, index_t out) { return lora<T>(in, out, {.rank = 4, .alpha = 3, .rank_stabilised = true}, random_stream(2)); }
};
template <class T>
struct wide_lora {  // rank above both sizes of the layer
  static lora<T> make(index_t in, index_t out) { return lora<T>(in, out, {.rank = 20, .alpha = 7}, random_stream(3)); }
};

using every_adapter = std::tuple<plain_lora<double>, stabilised_lora<double>, wide_lora<double>, plain_lora<float>, stabilised_lora<float>>;

template <class Kind>
using element = typename decltype(Kind::make(1, 1))::value_type;

template <class T>
adapted_linear<T> example_layer(index_t in, index_t out, bool bias) {
  adapted_linear<T> layer(in, out, bias);
  layer.weight = parameter<T, 2>(test::random_tensor<T, 2>({out, in}, 1));
  layer.weight.freeze();
  if (bias) {
    layer.bias = parameter<T, 1>(test::random_tensor<T, 1>({out}, 2));
    layer.bias->freeze();
  }
  return layer;
}

template <class T>
tensor<T, 2> applied(adapted_linear<T>& layer, const tensor<T, 2>& x) {
  context ctx;
  tape<T> t(ctx, recording::off);
  return tensor<T, 2>::copy_of(layer(t, t.constant(x.view())).value);
}

template <class T>
tensor<T, 2> dense(const merged_linear<T>& m, const tensor<T, 2>& x) {
  tensor<T, 2> y({x.shape()[0], m.weight.shape()[0]});
  for (index_t n = 0; n < y.shape()[0]; ++n)
    for (index_t o = 0; o < y.shape()[1]; ++o) {
      double sum = m.bias ? static_cast<double>((*m.bias)(o)) : 0;
      for (index_t i = 0; i < x.shape()[1]; ++i) sum += static_cast<double>(x(n, i)) * static_cast<double>(m.weight(o, i));
      y(n, o) = static_cast<T>(sum);
    }
  return y;
}

}  // namespace

TEMPLATE_LIST_TEST_CASE("a fresh adapter changes nothing", "[law]", every_adapter) {
  using T = element<TestType>;
  for (const bool bias : {false, true}) {
    auto layer = example_layer<T>(12, 9, bias);
    const auto x = test::random_tensor<T, 2>({5, 12}, 3);
    const auto before = applied(layer, x);
    layer.adapters.push_back({"a", TestType::make(12, 9)});
    CHECK(test::near(applied(layer, x), before, test::tolerance<T>(1)));
  }
}

TEMPLATE_LIST_TEST_CASE("merging an adapter equals applying it, alone and stacked", "[law]", every_adapter) {
  using T = element<TestType>;
  for (const bool bias : {false, true}) {
    auto layer = example_layer<T>(12, 9, bias);
    const auto x = test::random_tensor<T, 2>({5, 12}, 3);
    for (const std::string name : {"a", "b"}) {
      layer.adapters.push_back({name, TestType::make(12, 9)});
      test::disturb_adapters(layer);
      CHECK(test::near(applied(layer, x), dense(layer.merged(), x), 10 * test::tolerance<T>(12 + 20)));
    }
  }
}

TEMPLATE_LIST_TEST_CASE("adapter gradients equal central differences", "[law]", every_adapter) {
  using T = element<TestType>;
  if constexpr (std::same_as<T, double>) {
    context ctx;
    auto layer = example_layer<double>(12, 9, true);
    layer.adapters.push_back({"a", TestType::make(12, 9)});
    layer.adapters.push_back({"b", TestType::make(12, 9)});
    test::disturb_adapters(layer);
    parameter<double, 2> x(test::random_tensor<double, 2>({5, 12}, 3));
    std::vector<checked_leaf<double>> leaves{{x.value(), x.gradient()}};
    for (auto& p : trainable(layer)) leaves.push_back({p.parameter->value(), p.parameter->gradient()});
    REQUIRE(leaves.size() >= 3);
    const auto weights = test::random_tensor<double, 2>({5, 9}, 4);
    CHECK(gradient_error<double>(ctx, leaves, [&](tape<double>& t) {
            return sum(t, multiply(t, layer(t, t.leaf(x)), t.constant(weights.view())));
          }) < 1e-8);
  }
}

TEMPLATE_LIST_TEST_CASE("adapter state survives a round trip exactly", "[law]", every_adapter) {
  using T = element<TestType>;
  auto layer = example_layer<T>(12, 9, false), other = layer;
  layer.adapters.push_back({"a", TestType::make(12, 9)});
  other.adapters.push_back({"a", TestType::make(12, 9)});
  test::disturb_adapters(layer);
  const auto state = save_state(layer, is_trainable);
  load_state(other, view(state), {}, is_trainable);
  const auto x = test::random_tensor<T, 2>({5, 12}, 3);
  CHECK(test::equal_bits(applied(layer, x), applied(other, x)));
}
