// SPDX-License-Identifier: Apache-2.0
// The laws of adapters: identity, merge, gradient, round trip, threads, steady state, each for every kind alone and for random
// stacks. A new adapter joins by adding itself to every_kind().
#include <functional>

#include "graft/autograd/checkpoint.hpp"
#include "graft/core/thread_pool.hpp"
#include "graft/nn/state.hpp"
#include "graft/ops/reduce.hpp"
#include "graft/peft/bottleneck.hpp"
#include "graft/peft/compound.hpp"
#include "graft/peft/dora.hpp"
#include "graft/peft/dual.hpp"
#include "graft/peft/gated.hpp"
#include "graft/peft/ia3.hpp"
#include "graft/peft/vera.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;
using test::applied;

namespace {

/// One kind of adapter: how to make it for a layer, and what it cannot do.
template <class T>
struct kind {
  std::string name;
  std::function<any_adapter<T>(const adapter_site&)> make;
  bool merges = true, stacks = true;  // whether it can be merged; whether it may come after another
};

template <class T>
std::vector<kind<T>> every_kind() {
  const auto of_lora = [](lora_options o) { return [o](const adapter_site& s) { return any_adapter<T>(lora<T>(s.in, s.out, o, s.random)); }; };
  const auto of_dora = [](bool through_norms) {
    return [=](const adapter_site& s) { return any_adapter<T>(dora<T>(s.weight, {.lora = {.rank = 3, .alpha = 2}, .through_norms = through_norms}, s.random)); };
  };
  const auto of_bottleneck = [](bottleneck_options o) {
    return [o](const adapter_site& s) { return any_adapter<T>(bottleneck<T>(s.in, s.out, o, s.random)); };
  };
  const auto of_compound = [](compound_options o) {
    return [o](const adapter_site& s) { return any_adapter<T>(compound<T>(s.in, s.out, o, s.random)); };
  };
  const auto of_dual = [](dual_phase phase) {
    return [phase](const adapter_site& s) {
      dual<T> d(s.in, s.out, {.shared = {.rank = 3, .alpha = 5}, .local = {.rank = 2, .alpha = 7}, .training_mix = 0.3, .local_weight = 0.6}, s.random);
      d.phase = phase;
      return any_adapter<T>(std::move(d));
    };
  };
  return {
      {"lora", of_lora({.rank = 3, .alpha = 5})},
      {"lora, rank-stabilised, gaussian", of_lora({.rank = 4, .alpha = 3, .rank_stabilised = true, .init = lora_init::gaussian})},
      {"lora of a rank above both sizes", of_lora({.rank = 20, .alpha = 7})},
      {"dora", of_dora(true), true, false},
      {"ia3 on inputs", [](const adapter_site& s) { return any_adapter<T>(ia3<T>(s.in, s.out, true)); }},
      {"ia3 on outputs", [](const adapter_site& s) { return any_adapter<T>(ia3<T>(s.in, s.out, false)); }},
      {"vera", [](const adapter_site& s) {
         return any_adapter<T>(vera<T>(std::make_shared<const vera_projections<T>>(6, s.in + 3, s.out + 2, s.random), s.in, s.out, {.rank = 6}, s.random));
       }},
      {"dual, mixed", of_dual(dual_phase::mixed)},
      {"dual, training shared", of_dual(dual_phase::train_shared)},
      {"dual, training local", of_dual(dual_phase::train_local)},
      {"dual, local alone", of_dual(dual_phase::local_alone)},
      {"gated", [](const adapter_site& s) { return any_adapter<T>(gated<T>(s.in, s.out, {}, s.random, s.path)); }},
      {"gated with a low-rank part", [](const adapter_site& s) { return any_adapter<T>(gated<T>(s.in, s.out, {.rank = 3}, s.random, s.path)); }},
      {"compound on outputs", of_compound({.blocks = 2})},
      {"compound on inputs, shifted and shared",
       of_compound({.blocks = 3, .orders = {1, 2}, .rotate = compound_options::side::input, .shared = true, .offset = 2, .form = rotation_form::pyramid,
                    .route = kernel::compound_route::gates})},
      {"serial bottleneck", of_bottleneck({.size = 4, .act = bottleneck_options::activation::tanh}), false},
      {"parallel bottleneck", of_bottleneck({.size = 4, .where = bottleneck_options::place::parallel, .act = bottleneck_options::activation::gelu, .scale = 0.7}), false},
  };
}

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
void push(adapted_linear<T>& layer, const kind<T>& k) {
  const std::string name = "a" + std::to_string(layer.adapters.size());
  layer.adapters.push_back({name, k.make({name, layer.inputs(), layer.outputs(), layer.weight.matrix(), random_stream(5).substream(name)})});
}

/// Layers to hold every law on: each kind alone, and stacks of two and three drawn at random. f(layer, kinds in it).
template <class T, class F>
void each_stack(bool bias, F f) {
  const auto kinds = every_kind<T>();
  const auto check = [&](const std::vector<const kind<T>*>& stack) {
    auto layer = example_layer<T>(12, 9, bias);
    std::string names;
    for (const kind<T>* k : stack) {
      push(layer, *k);
      names += (names.empty() ? "" : ", then ") + k->name;
    }
    INFO(names << (bias ? ", with bias" : ""));
    f(layer, stack);
  };
  for (const auto& k : kinds) check({&k});
  random_stream random(11);
  for (int n = 0; n < 24; ++n) {
    std::vector<const kind<T>*> stack;
    for (std::size_t size = 2 + random.below(2); stack.size() < size;)
      if (const auto& k = kinds[random.below(kinds.size())]; k.stacks || stack.empty()) stack.push_back(&k);
    check(stack);
  }
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

/// A training step's loss and gradients.
template <class T>
void step(context& ctx, adapted_linear<T>& layer, const tensor<T, 2>& x, const std::vector<parameter_ref<T>>& parameters) {
  tape<T> t(ctx, recording::on, {.training = true});
  t.backward(sum(t, layer(t, t.constant(x.view()))));
  for (auto& p : parameters) p.parameter->clear_gradient();
}

}  // namespace

TEMPLATE_TEST_CASE("fresh adapters change nothing", "[law]", float, double) {
  const auto x = test::random_tensor<TestType, 2>({5, 12}, 3);
  for (const bool bias : {false, true}) {
    auto plain = example_layer<TestType>(12, 9, bias);
    const auto before = applied(plain, x);
    each_stack<TestType>(bias, [&](auto& layer, const auto&) { CHECK(test::near(applied(layer, x), before, 20 * test::tolerance<TestType>(12))); });
  }
}

TEMPLATE_TEST_CASE("merging adapters equals applying them", "[law]", float, double) {
  const auto x = test::random_tensor<TestType, 2>({5, 12}, 3);
  for (const bool bias : {false, true})
    each_stack<TestType>(bias, [&](auto& layer, const auto& stack) {
      test::disturb_adapters(layer);
      if (std::ranges::all_of(stack, [](const auto* k) { return k->merges; }))
        CHECK(test::near(applied(layer, x), dense(layer.merged(), x), 100 * test::tolerance<TestType>(12 + 20)));
      else
        CHECK_THROWS_AS(layer.merged(), state_error);
    });
}

TEST_CASE("adapter gradients equal central differences", "[law]") {
  context ctx;
  const auto weights = test::random_tensor<double, 2>({5, 9}, 4);
  each_stack<double>(true, [&](auto& layer, const auto&) {
    test::disturb_adapters(layer);
    parameter<double, 2> x(test::random_tensor<double, 2>({5, 12}, 3));
    std::vector<checked_leaf<double>> leaves{{x.value(), x.gradient()}};
    for (auto& p : trainable(layer)) leaves.push_back({p.parameter->value(), p.parameter->gradient()});
    REQUIRE(leaves.size() >= 2);
    CHECK(gradient_error<double>(ctx, leaves, [&](tape<double>& t) {
            return sum(t, multiply(t, layer(t, t.leaf(x)), t.constant(weights.view())));
          }) < 1e-7);
  });
}

TEMPLATE_TEST_CASE("adapter state survives a round trip exactly", "[law]", float, double) {
  const auto x = test::random_tensor<TestType, 2>({5, 12}, 3);
  each_stack<TestType>(false, [&](auto& layer, const auto&) {
    auto other = layer;
    test::disturb_adapters(layer);
    const auto state = save_state(layer, is_trainable);
    load_state(other, view(state), {}, is_trainable);
    CHECK(test::equal_bits(applied(layer, x), applied(other, x)));
  });
}

TEMPLATE_TEST_CASE("adapters compute the same bits with any number of threads", "[law]", float, double) {
  const auto x = test::random_tensor<TestType, 2>({70, 12}, 3);
  thread_pool three(3);
  each_stack<TestType>(true, [&](auto& layer, const auto&) {
    test::disturb_adapters(layer);
    CHECK(test::equal_bits(applied(layer, x), applied(layer, x, {}, three)));
  });
}

TEST_CASE("a checkpointed block that ends in an adapted map has the gradients of the block to the bit", "[law]") {
  const auto base = test::random_tensor<float, 2>({9, 12}, 4);
  for (const bool bias : {false, true})
    each_stack<float>(bias, [&](auto& layer, const auto&) {
      test::disturb_adapters(layer);
      parameter<float, 2> x(test::random_tensor<float, 2>({5, 12}, 3));
      auto parameters = trainable(layer);
      parameters.push_back({"x", &x});
      const auto gradients = [&](bool again) {
        context ctx;
        tape<float> t(ctx, recording::on, {.training = true});
        const auto block = [&layer, &base, again](tape<float>& inner, const var<float, 2>& in) {
          return add(inner, linear(inner, in, matrix_ref(base.view())), again ? layer.last_of_block(inner, in) : layer(inner, in));
        };
        const auto in = t.leaf(x), y = again ? checkpoint(t, in, block, block_end::sum) : block(t, in);
        t.backward(sum(t, multiply(t, y, y)));
        return test::take_gradients(parameters);
      };
      CHECK(gradients(true) == gradients(false));
    });
}

TEST_CASE("a steady step of adapters allocates nothing", "[law]") {
  const auto x = test::random_tensor<float, 2>({16, 12}, 3);
  each_stack<float>(true, [&](auto& layer, const auto&) {
    context ctx;
    const auto parameters = trainable(layer);
    for (int n = 0; n < 2; ++n) step(ctx, layer, x, parameters);
    const std::size_t before = test::allocations();
    step(ctx, layer, x, parameters);
    CHECK(test::allocations() == before);
  });
}
