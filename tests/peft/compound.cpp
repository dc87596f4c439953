// SPDX-License-Identifier: Apache-2.0
#include "graft/peft/compound.hpp"

#include "graft/models/llama.hpp"
#include "graft/optim/adamw.hpp"
#include "graft/ops/reduce.hpp"
#include "graft/peft/ia3.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"
#include "support/models.hpp"

using namespace graft;
using test::applied;
using side = compound_options::side;

namespace {

template <class T>
adapted_linear<T> layer_with(index_t in, index_t out, const compound_options& o, bool bias = true) {
  adapted_linear<T> layer(in, out, bias);
  layer.weight = parameter<T, 2>(test::random_tensor<T, 2>({out, in}, 1));
  layer.weight.freeze();
  if (bias) {
    layer.bias = parameter<T, 1>(test::random_tensor<T, 1>({out}, 2));
    layer.bias->freeze();
  }
  layer.adapters.push_back({"a", compound<T>(in, out, o)});
  return layer;
}

/// R of an adapter, from what it makes of the unit vectors: row i of the result is R's column i.
template <class T>
tensor<T, 2> turned_units(const compound<T>& a) {
  const index_t d = a.layout->coordinates();
  auto units = tensor<T, 2>::zeros({d, d});
  for (index_t i = 0; i < d; ++i) units(i, i) = T(1);
  context ctx;
  tape<T> t(ctx, recording::off);
  return tensor<T, 2>::copy_of(compound_rotation(t, t.constant(units), t.constant(a.rotation.view()), *a.layout).value);
}

/// max|R^T R - 1|
template <class T>
double orthogonality_error(const compound<T>& a) {
  const auto r = turned_units(a);
  const index_t d = r.shape()[0];
  double worst = 0;
  for (index_t i = 0; i < d; ++i)
    for (index_t j = 0; j < d; ++j) {
      double sum = i == j ? -1 : 0;
      for (index_t k = 0; k < d; ++k) sum += static_cast<double>(r(i, k)) * static_cast<double>(r(j, k));
      worst = std::max(worst, std::abs(sum));
    }
  return worst;
}

std::vector<compound_options> every_setting() {
  using r = kernel::compound_route;
  std::vector<compound_options> all;
  for (const side s : {side::output, side::input})
    for (const auto form : {rotation_form::cayley, rotation_form::pyramid}) {
      all.push_back({.blocks = 2, .rotate = s, .form = form, .route = r::dense});
      all.push_back({.blocks = 3, .rotate = s, .shared = true, .offset = 4, .form = form, .route = r::gates});
      all.push_back({.blocks = 1, .orders = {1, 2, 3}, .rotate = s, .offset = 17, .form = form});
      all.push_back({.blocks = 2, .orders = {2}, .rotate = s, .offset = 11, .form = form, .route = r::sandwich});
    }
  all.push_back({.blocks = 4, .orders = {1}, .rotate = side::input});
  return all;
}
constexpr index_t in = 22, out = 23;  // no number of blocks divides them all

}  // namespace

TEST_CASE("sizes and free numbers of published settings", "") {
  struct row {
    index_t d, blocks;
    std::vector<index_t> orders;
    index_t n, rotated, padding, free;
  };
  const row rows[] = {{768, 8, {1}, 96, 96, 0, 36480},        {768, 8, {1, 2}, 13, 91, 5, 624},   {768, 8, {1, 2, 3}, 8, 92, 4, 224}, {768, 3, {1, 2}, 22, 253, 3, 693},
                      {1024, 1, {1, 2}, 44, 990, 34, 946},    {1024, 3, {1, 2}, 25, 325, 16, 900}, {4096, 4, {2, 1}, 44, 990, 34, 3784}};
  for (const row& r : rows) {
    const compound<float> a(5, r.d, {.blocks = r.blocks, .orders = r.orders});
    CHECK(a.layout->n() == r.n);
    CHECK(a.layout->rotated() == r.rotated);
    CHECK(a.layout->block_size() - a.layout->rotated() == r.padding);
    CHECK(a.rotation.size() == r.free);
    CHECK(a.rotation.tag == "adapter");
  }
  CHECK(compound<float>(5, 768, {.shared = true}).rotation.size() == 78);
  CHECK(compound<float>(768, 5, {.rotate = side::input}).rotation.size() == 624);
}

TEST_CASE("the whole rotation equals the worked example", "") {
  compound<double> a(8, 8, {.blocks = 1});
  const double p[] = {.1, -.2, .3};
  std::copy_n(p, 3, a.rotation.value().data());
  tensor<double, 2> h({1, 8});
  for (index_t i = 0; i < 8; ++i) h(0, i) = static_cast<double>(i + 1);
  context ctx;
  tape<double> t(ctx, recording::off);
  const auto y = compound_rotation(t, t.constant(h), t.constant(a.rotation.view()), *a.layout);
  const double expected[] = {.57894737, 3.26315789, 1.73684211, 7.96491228, 2.29824561, 2.87719298, 7, 8};
  CHECK(test::near(y.value, tensor_view<const double, 2>(expected, {1, 8}), 5.1e-9 / 8));
  double square = 0;
  for (index_t i = 0; i < 8; ++i) square += y.value(0, i) * y.value(0, i);
  CHECK(std::abs(std::sqrt(square) - 14.28285686) < 5.1e-9);
}

TEMPLATE_TEST_CASE("compound adapters start as the identity, merge as they are applied, on any number of threads", "", float, double) {
  using T = TestType;
  const auto x = test::random_tensor<T, 2>({37, in}, 3);
  thread_pool three(3);
  for (const auto& o : every_setting()) {
    auto layer = layer_with<T>(in, out, o);
    INFO(layer.adapters[0].adapter.describe() << " offset " << o.offset);
    auto plain = layer;
    plain.adapters.clear();
    CHECK(test::near(applied(layer, x), applied(plain, x), 4 * test::tolerance<T>(in)));
    test::disturb_adapters(layer, 0.8);
    const auto turned = applied(layer, x);
    CHECK(!test::near(turned, applied(plain, x), 0.05));
    CHECK(test::equal_bits(turned, applied(layer, x, {}, three)));
    const auto m = layer.merged();
    plain.weight = parameter<T, 2>(m.weight.view().clone());
    plain.bias = parameter<T, 1>(m.bias->view().clone());
    CHECK(test::near(turned, applied(plain, x), 20 * test::tolerance<T>(in)));
    CHECK(test::near(m.bias->view(), layer.bias->view(), 0));  // never turned
    CHECK(orthogonality_error(*layer.adapters[0].adapter.template get<compound<T>>()) < (sizeof(T) == 8 ? 1e-14 : 1e-6));
  }
}

TEST_CASE("compound adapters' gradients equal central differences, at zero and away from it", "") {
  context ctx;
  for (const auto& o : every_setting())
    for (const double bound : {0.0, 0.8})
      for (const bool input_too : {true, false}) {
        auto layer = layer_with<double>(in, out, o);
        test::disturb_adapters(layer, bound);
        INFO(layer.adapters[0].adapter.describe() << " offset " << o.offset << " bound " << bound);
        parameter<double, 2> x(test::random_tensor<double, 2>({5, in}, 3));
        const auto weights = test::random_tensor<double, 2>({5, out}, 4);
        std::vector<checked_leaf<double>> leaves;
        if (input_too) leaves.push_back({x.value(), x.gradient()});
        else x.freeze();
        for (auto& p : trainable(layer)) leaves.push_back({p.parameter->value(), p.parameter->gradient()});
        CHECK(gradient_error<double>(ctx, leaves, [&](tape<double>& t) {
                const auto xv = t.leaf(x), y = layer(t, xv);  // x has a second use: its gradient has to be added to
                return add(t, sum(t, multiply(t, multiply(t, y, y), t.constant(weights.view()))), sum(t, multiply(t, xv, xv)));
              }) < 1e-7);
      }
}

TEST_CASE("a rotation is orthogonal to 1e-6 after a thousand optimiser steps, and learns the target", "") {
  for (const auto& o : {compound_options{.blocks = 2}, compound_options{.blocks = 2, .orders = {1, 2, 3}, .form = rotation_form::pyramid}}) {
    auto layer = layer_with<float>(40, 60, o, false);
    auto target = layer;
    test::disturb_adapters(target, 0.5);
    const auto x = test::random_tensor<float, 2>({64, 40}, 3);
    auto wanted = applied(target, x);
    for (float& v : wanted.span()) v = -v;
    adamw<float> optimizer(trainable(layer), {.lr = 1e-2, .weight_decay = 0});
    context ctx;
    double first = 0, last = 0;
    for (int step = 0; step < 1000; ++step) {
      tape<float> t(ctx);
      const auto e = add(t, layer(t, t.constant(x)), t.constant(wanted));
      const auto loss = mean(t, multiply(t, e, e));
      t.backward(loss);
      optimizer.step(ctx);
      last = static_cast<double>(loss.item());
      if (step == 0) first = last;
    }
    INFO("loss " << first << " -> " << last);
    CHECK(last < 0.05 * first);
    CHECK(orthogonality_error(*layer.adapters[0].adapter.get<compound<float>>()) < 1e-6);
  }
  compound<float> wide(5, 1000, {.blocks = 1});  // a base of 44, orders of 44 and 946
  fill_uniform(wide.rotation.value(), random_stream(4), 0.5);
  CHECK(orthogonality_error(wide) < 1e-6);
}

TEST_CASE("shifted blocks mix what equal blocks keep apart", "") {
  compound<double> a(12, 12, {.blocks = 2, .offset = 9});
  fill_uniform(a.rotation.value(), random_stream(4), 0.5);
  const auto r = turned_units(a);  // blocks on 9, 10, 11, 0, 1, 2 and on 3 ... 8
  CHECK(std::abs(r(9, 11)) > 0.01);
  CHECK(std::abs(r(0, 2)) > 0.01);
  CHECK(r(2, 3) == 0);
  CHECK(std::abs(r(3, 4)) > 0.01);
}

TEST_CASE("a bias that adapters before it changed is left as it is", "") {
  auto layer = layer_with<double>(in, out, {.blocks = 2});
  layer.adapters.insert(layer.adapters.begin(), {"before", ia3<double>(in, out, false)});
  test::disturb_adapters(layer, 0.8);
  const auto x = test::random_tensor<double, 2>({5, in}, 3);
  auto plain = layer;
  plain.adapters.clear();
  const auto m = layer.merged();
  plain.weight = parameter<double, 2>(m.weight.view().clone());
  plain.bias = parameter<double, 1>(m.bias->view().clone());
  CHECK(test::near(applied(layer, x), applied(plain, x), 20 * test::tolerance<double>(in)));
}

TEST_CASE("dropout leaves a rotation out of whole calls while training", "") {
  auto layer = layer_with<double>(in, out, {.blocks = 2, .dropout = 0.4});
  test::disturb_adapters(layer, 0.8);
  auto plain = layer;
  plain.adapters.clear();
  const auto x = test::random_tensor<double, 2>({5, in}, 3);
  const auto without = applied(plain, x), with = applied(layer, x);
  int left_out = 0;
  for (std::uint64_t step = 0; step < 1000; ++step) {
    const auto y = applied(layer, x, {.training = true, .step = step});
    const bool is_without = bool(test::near(y, without, 1e-12));
    left_out += is_without;
    if (!is_without) CHECK(test::equal_bits(y, with));
    CHECK(test::equal_bits(applied(layer, x, {.step = step}), with));
    if (is_without) {  // trains all the same: with a gradient of zero
      context ctx;
      tape<double> t(ctx, recording::on, {.training = true, .step = step});
      t.backward(sum(t, layer(t, t.constant(x))));
      for (auto& p : trainable(layer))
        for (const double g : p.parameter->gradient_values()) REQUIRE(g == 0);
      for (auto& p : trainable(layer)) p.parameter->clear_gradient();
    }
  }
  CHECK(std::abs(left_out - 400) < 62);  // four deviations
}

TEST_CASE("a steady step through a compound adapter allocates nothing", "") {
  for (const auto& o : every_setting()) {
    auto layer = layer_with<float>(in, out, o);
    const auto x = test::random_tensor<float, 2>({40, in}, 3);
    const auto parameters = trainable(layer);
    context ctx;
    const auto step = [&] {
      tape<float> t(ctx, recording::on, {.training = true});
      t.backward(sum(t, layer(t, t.constant(x.view()))));
      for (auto& p : parameters) p.parameter->clear_gradient();
    };
    for (int i = 0; i < 2; ++i) step();
    const std::size_t before = test::allocations();
    step();
    CHECK(test::allocations() == before);
  }
}

TEST_CASE("what is wrong with a compound adapter is said at once", "") {
  const auto refuses = [](compound_options o, index_t d, const std::string& text) {
    try {
      compound<float>(3, d, o);
      FAIL("accepted, expected: " << text);
    } catch (const option_error& e) {
      INFO(e.what());
      CHECK(std::string(e.what()).find(text) != std::string::npos);
    }
  };
  refuses({.orders = {}}, 768, "no orders");
  refuses({.orders = {1, 2, 1}}, 768, "order 1 comes twice");
  refuses({.orders = {1, 0}}, 768, "order 0, expected 1 to 64");
  refuses({.blocks = 0}, 768, "0 blocks");
  refuses({.blocks = 9}, 8, "9 blocks of 8 coordinates");
  refuses({.blocks = 2, .orders = {1, 3}}, 6, "a block of 3 coordinates is too small for order 3");
  refuses({.blocks = 4, .orders = {1}}, 4, "too small for order 1");
  refuses({.blocks = 1, .orders = {20}}, 768, "goes by way of order 4");
  refuses({.offset = 768}, 768, "offset is 768");
  refuses({.dropout = 1}, 768, "dropout is 1");
  refuses({.orders = {1}, .route = kernel::compound_route::sandwich}, 768, "sandwich");

  compound<float> a(8, 8, {.blocks = 1});
  CHECK(a.caution().empty());
  a.rotation.value()[1] = 2000;
  CHECK(a.caution().find("2000, beyond 1000") != std::string::npos);
  CHECK(compound<float>(8, 8, {.blocks = 1, .orders = {2}}).caution().find("order 1 is not among") != std::string::npos);
  a.rotation.value()[1] = std::numeric_limits<float>::quiet_NaN();
  tensor<float, 2> w = tensor<float, 2>::zeros({8, 8});
  CHECK_THROWS_AS(a.merge_into({w.view(), {}}), state_error);
  auto layer = layer_with<float>(in, out, {.blocks = 2});
  layer.adapters[0].adapter.get<compound<float>>()->rotation.value()[0] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(applied(layer, test::random_tensor<float, 2>({2, in}, 1)), state_error);
}

TEST_CASE("attaching gives layers of one size one layout", "") {
  llama<float> model(llama_config::stories_260k());
  initialize(model, 1, 0.08);
  CHECK(attach(model, targets({"q_proj", "v_proj"}), compound_options{.blocks = 2}) > 0);
  std::vector<const compound_layout*> seen;
  visit_layers(model, [&](std::string_view, adapted_linear<float>& layer) {
    for (auto& a : layer.adapters) seen.push_back(a.adapter.get<compound<float>>()->layout.get());
  });
  std::sort(seen.begin(), seen.end());
  CHECK(std::unique(seen.begin(), seen.end()) - seen.begin() == 2);  // as many sizes
  CHECK_THROWS_AS(attach(model, targets({"k_proj"}), compound_options{.blocks = 4000}, {.name = "other"}), option_error);
}
