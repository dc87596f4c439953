// SPDX-License-Identifier: Apache-2.0
// The small kinds of adapters against their definitions, written out in double.
#include <cmath>

#include "graft/peft/bottleneck.hpp"
#include "graft/peft/dora.hpp"
#include "graft/peft/ia3.hpp"
#include "graft/peft/vera.hpp"
#include "support/catch.hpp"
#include "support/models.hpp"
#include "support/near.hpp"

using namespace graft;

namespace {

constexpr index_t in = 7, out = 5, rows = 4;

struct example {
  adapted_linear<double> layer{in, out, true};
  tensor<double, 2> x = test::random_tensor<double, 2>({rows, in}, 3);

  example() {
    layer.weight = parameter<double, 2>(test::random_tensor<double, 2>({out, in}, 1));
    layer.bias = parameter<double, 1>(test::random_tensor<double, 1>({out}, 2));
    freeze(layer);
  }
  template <class A>
  A& push(A a) {
    layer.adapters.push_back({"a", std::move(a)});
    test::disturb_adapters(layer);
    return *layer.adapters.back().adapter.template get<A>();
  }
  tensor<double, 2> applied() {
    context ctx;
    tape<double> t(ctx, recording::off);
    return tensor<double, 2>::copy_of(layer(t, t.constant(x.view())).value);
  }
  double base(index_t n, index_t o) const {
    double sum = layer.bias->view()(o);
    for (index_t i = 0; i < in; ++i) sum += x(n, i) * layer.weight.view()(o, i);
    return sum;
  }
  /// Every output against f(row, column).
  template <class F>
  void check(F f) {
    const auto y = applied();
    for (index_t n = 0; n < rows; ++n)
      for (index_t o = 0; o < out; ++o) CHECK(y(n, o) == Approx(f(n, o)).epsilon(1e-12).margin(1e-12));
  }
};

}  // namespace

TEST_CASE("dora scales rows of the updated weight to their lengths") {
  example e;
  auto& d = e.push(dora<double>(e.layer.weight.matrix(), {.lora = {.rank = 2, .alpha = 6}}, random_stream(1)));
  const auto a = d.low_rank.a.weight.view(), b = d.low_rank.b.weight.view();
  e.check([&](index_t n, index_t o) {
    double square = 0, sum = 0;
    for (index_t i = 0; i < in; ++i) {
      const double v = e.layer.weight.view()(o, i) + 3 * (b(o, 0) * a(0, i) + b(o, 1) * a(1, i));
      square += v * v;
      sum += v * e.x(n, i);
    }
    return d.magnitude.weight.view()(o) / std::sqrt(square) * sum + e.layer.bias->view()(o);
  });
}

TEST_CASE("without gradients through lengths, only the magnitudes' differs from the whole one's") {
  std::vector<tensor<double, 1>> gradients[2];
  const auto dy = test::random_tensor<double, 2>({rows, out}, 8);
  for (const bool whole : {false, true}) {
    example e;
    e.push(dora<double>(e.layer.weight.matrix(), {.lora = {.rank = 2, .alpha = 6}, .through_norms = whole}, random_stream(1)));
    context ctx;
    tape<double> t(ctx);
    const auto y = e.layer(t, t.constant(e.x.view()));
    t.backward(y, dy.view());
    for (auto& p : trainable(e.layer)) gradients[whole].push_back(tensor<double, 1>::copy_of(tensor_view<const double, 1>(p.parameter->gradient_values().data(), {p.parameter->size()})));
  }
  REQUIRE(gradients[0].size() == 3);
  CHECK_FALSE(test::near(gradients[0][0], gradients[1][0], 1e-6));
  CHECK_FALSE(test::near(gradients[0][1], gradients[1][1], 1e-6));
  CHECK(test::equal_bits(gradients[0][2], gradients[1][2]));
}

TEST_CASE("dora refuses a place behind another adapter") {
  example e;
  e.push(lora<double>(in, out, {.rank = 2}, random_stream(1)));
  e.push(dora<double>(e.layer.weight.matrix(), {}, random_stream(1)));
  CHECK_THROWS_WITH(e.applied(), "dora: is not the first adapter of its layer; attach it before the others");
}

TEST_CASE("ia3 scales inputs, or outputs with their bias") {
  example first, second;
  auto& on_inputs = first.push(ia3<double>(in, out, true));
  first.check([&](index_t n, index_t o) {
    double sum = first.layer.bias->view()(o);
    for (index_t i = 0; i < in; ++i) sum += first.x(n, i) * on_inputs.gain.view()(i) * first.layer.weight.view()(o, i);
    return sum;
  });
  auto& on_outputs = second.push(ia3<double>(in, out, false));
  second.check([&](index_t n, index_t o) { return on_outputs.gain.view()(o) * second.base(n, o); });
}

TEST_CASE("vera takes the first columns and rows of wider projections") {
  example e;
  const auto shared = std::make_shared<const vera_projections<double>>(3, in + 2, out + 4, random_stream(4));
  auto& v = e.push(vera<double>(shared, in, out, {.rank = 3}, random_stream(1)));
  e.check([&](index_t n, index_t o) {
    double sum = e.base(n, o);
    for (index_t r = 0; r < 3; ++r) {
      double low = 0;
      for (index_t i = 0; i < in; ++i) low += shared->a(r, i) * e.x(n, i);
      sum += v.b.view()(o) * shared->b(o, r) * v.d.view()(r) * low;
    }
    return sum;
  });
  CHECK_THROWS_AS(vera<double>(shared, in + 3, out, {.rank = 3}), shape_error);
  CHECK_THROWS_WITH(vera<double>(shared, in, out, {.rank = 0}), "vera: rank is 0, expected 1 to 65536");
}

TEST_CASE("bottlenecks are computed after a layer or beside it") {
  for (const auto where : {bottleneck_options::place::serial, bottleneck_options::place::parallel}) {
    example e;
    auto& b = e.push(bottleneck<double>(in, out, {.size = 3, .where = where, .act = bottleneck_options::activation::tanh, .scale = 0.5}, random_stream(1)));
    e.check([&](index_t n, index_t o) {
      double sum = b.up.bias.view()(o);
      for (index_t s = 0; s < 3; ++s) {
        double narrow = b.down.bias.view()(s);
        if (where == bottleneck_options::place::serial)
          for (index_t i = 0; i < out; ++i) narrow += b.down.weight.view()(s, i) * e.base(n, i);
        else
          for (index_t i = 0; i < in; ++i) narrow += b.down.weight.view()(s, i) * e.x(n, i);
        sum += b.up.weight.view()(o, s) * std::tanh(narrow);
      }
      return e.base(n, o) + 0.5 * sum;
    });
  }
  CHECK_THROWS_WITH(bottleneck<float>(4, 4, {.size = 0}), "bottleneck: size is 0, expected 1 to 65536");
}

TEST_CASE("options of LoRA may differ by layer") {
  auto model = test::small_llama<float>(2);
  attach(model, targets({"q_proj", "v_proj"}), lora_options{.rank = 4, .alpha = 8}, {.rank = {{"layers.1.self_attn.q_proj", 2}, {"q_proj", 3}}, .alpha = {{"v_proj", 1}}});
  std::vector<std::string> described;
  visit_layers(model, [&](std::string_view path, adapted_linear<float>& layer) {
    for (const auto& a : layer.adapters) described.push_back(std::string(path.substr(path.find("layers"))) + ": " + a.adapter.describe());
  });
  CHECK(described == std::vector<std::string>{"layers.0.self_attn.q_proj: lora(rank 3, alpha 8)", "layers.0.self_attn.v_proj: lora(rank 4, alpha 1)",
                                              "layers.1.self_attn.q_proj: lora(rank 2, alpha 8)", "layers.1.self_attn.v_proj: lora(rank 4, alpha 1)"});
  auto other = test::small_llama<float>(2);
  CHECK_THROWS_WITH(attach(other, targets({"q_proj"}), lora_options{}, {.rank = {{"v_proj", 2}}}), "attach: rank pattern \"v_proj\" decides about no adapted layer");
  CHECK_THROWS_WITH(attach(other, targets({"q_proj"}), lora_options{}, {.rank = {{"q_proj", 0}}}), "lora: rank is 0, expected 1 to 65536");
  CHECK(trainable(other).empty());
}

TEST_CASE("targets may exclude layers and keep to some numbers") {
  auto model = test::small_llama<float>(3);
  CHECK(attach(model, all_linear().excluding({"mlp.down_proj", "k_proj"}).in_layers({0, 2}), lora_options{.rank = 2}) == 2 * 5);
  CHECK_FALSE(targets({"q_proj"}).in_layers({1}).matches("model.layers.11.self_attn.q_proj"));
  CHECK(targets({"q_proj"}).in_layers({11}).matches("model.layers.11.self_attn.q_proj"));
  CHECK_FALSE(targets({"classifier"}).in_layers({0}).matches("classifier"));
  CHECK_THROWS_AS(targets({"q_proj"}).in_layers({}), option_error);
  CHECK_THROWS_AS(targets({"q_proj"}).in_layers({-1}), option_error);
}

TEST_CASE("biases can be trained beside adapters") {
  const auto biases = [](bert<float>& m) { return select(m, both(is_trainable, tagged("base"))); };
  auto none = test::small_bert<float>(2), adapted = none, all = none;
  attach(none, targets({"query"}), lora_options{.rank = 2});
  attach(adapted, targets({"query"}), lora_options{.rank = 2}, {.bias = bias_training::adapted});
  attach(all, targets({"query"}), lora_options{.rank = 2}, {.bias = bias_training::all});
  CHECK(biases(none).empty());
  CHECK(biases(adapted).size() == 2);
  CHECK(biases(all).size() == 2 * 8 + 2);  // two layers, the norm of the embeddings, the pooler
  for (const auto& p : biases(all)) CHECK(p.path.ends_with("bias"));
}
