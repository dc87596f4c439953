// SPDX-License-Identifier: Apache-2.0
#include "graft/autograd/tape.hpp"

#include <algorithm>

#include "graft/autograd/checkpoint.hpp"
#include "graft/autograd/cost_table.hpp"
#include "graft/nn/parameter.hpp"
#include "graft/ops/elementwise.hpp"
#include "graft/ops/linear.hpp"
#include "graft/ops/reduce.hpp"
#include "graft/optim/adamw.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

using namespace graft;
using test::random_tensor;

TEST_CASE("values that nobody trains make no node and save nothing") {
  context ctx;
  meter m;
  ctx.cost = &m;
  const auto x = random_tensor<float, 2>({6, 8}, 1), w = random_tensor<float, 2>({5, 8}, 2);
  tape<float> t(ctx);
  const auto y = silu(t, linear(t, t.constant(x.view()), t.constant(w.view())));
  CHECK_FALSE(y.needs_grad());
  CHECK(t.nodes() == 0);
  CHECK(m.total().nodes == 0);
  CHECK(m.total().peak_saved_bytes == 0);
  CHECK(m.total().flops >= 2 * 6 * 5 * 8);
  CHECK_THROWS_AS(t.backward(sum(t, y)), state_error);
}

TEST_CASE("a linear layer keeps its input only when its weight learns") {
  context ctx;
  meter m;
  ctx.cost = &m;
  const auto x = random_tensor<float, 2>({64, 8}, 1);
  parameter<float, 2> w(random_tensor<float, 2>({5, 8}, 2)), in(random_tensor<float, 2>({64, 8}, 3));
  const auto saved = [&](bool learn_weight) {
    m.reset();
    tape<float> t(ctx);
    const auto h = scale(t, t.leaf(in), 2.0);
    const auto y = learn_weight ? linear(t, h, t.leaf(w)) : linear(t, h, w.matrix());
    return m.total().saved_bytes + 0 * static_cast<std::size_t>(y.value.size());
  };
  CHECK(saved(true) >= 64 * 8 * sizeof(float));
  CHECK(saved(false) == 0);
}

TEST_CASE("gradients of a value used twice add up, whoever shares the memory") {
  context ctx;
  parameter<double, 1> p(tensor<double, 1>::of({1, 2, 3}));
  tape<double> t(ctx);
  const auto x = t.leaf(p);
  const auto a = add(t, x, x);            // hands its gradient on to x twice
  const auto y = add(t, a, multiply(t, a, a));
  t.backward(sum(t, y));
  for (index_t i = 0; i < 3; ++i) {
    const double a_i = 2 * static_cast<double>(i + 1);
    CHECK(p.gradient_values()[static_cast<std::size_t>(i)] == Approx(2 * (1 + 2 * a_i)));
  }
}

TEST_CASE("gradients gather over several tapes until they are cleared") {
  context ctx;
  parameter<double, 1> p(tensor<double, 1>::of({3}));
  for (int i = 0; i < 3; ++i) {
    tape<double> t(ctx);
    t.backward(sum(t, scale(t, t.leaf(p), 2.0)));
  }
  CHECK(p.gradient_values()[0] == 6);
  p.clear_gradient();
  CHECK(p.gradient_values().empty());
}

TEST_CASE("a tape runs backward once") {
  context ctx;
  parameter<double, 1> p(tensor<double, 1>::of({3}));
  tape<double> t(ctx);
  const auto y = sum(t, t.leaf(p));
  t.backward(y);
  CHECK_THROWS_WITH(t.backward(y), "backward: this tape has run already; its buffers are gone");
}

TEST_CASE("buffers return to the pool while backward runs, and all of them with the tape") {
  context ctx;
  parameter<float, 2> w(random_tensor<float, 2>({256, 256}, 1));
  const auto x = random_tensor<float, 2>({64, 256}, 2);
  {
    tape<float> t(ctx);
    var<float, 2> h = t.constant(x.view());
    for (int i = 0; i < 10; ++i) h = tanh(t, linear(t, h, t.leaf(w)));
    const auto loss = sum(t, h);
    const std::size_t before = ctx.pool().live_bytes();
    h = {};
    t.backward(loss);
    CHECK(ctx.pool().live_bytes() < before / 4);
  }
  CHECK(ctx.pool().live_bytes() == 0);
}

TEST_CASE("a repeated step allocates nothing") {
  context ctx;
  parameter<float, 2> w(random_tensor<float, 2>({32, 32}, 1));
  const auto x = random_tensor<float, 2>({16, 32}, 2);
  const auto step = [&] {
    tape<float> t(ctx);
    var<float, 2> h = t.constant(x.view());
    for (int i = 0; i < 100; ++i) h = tanh(t, linear(t, h, t.leaf(w)));
    t.backward(sum(t, h));
    w.clear_gradient();
  };
  step();
  const std::size_t before = test::allocations();
  step();
  CHECK(test::allocations() == before);
}

TEST_CASE("checkpointing keeps the input alone and gives the same gradient bits") {
  context ctx;
  meter m;
  ctx.cost = &m;
  ctx.seed = 4;
  parameter<float, 2> w(random_tensor<float, 2>({32, 32}, 1)), in(random_tensor<float, 2>({16, 32}, 2));
  const auto run = [&](bool keep_little) {
    m.reset();
    w.clear_gradient();
    in.clear_gradient();
    tape<float> t(ctx, recording::on, {true, 5, {}});
    const auto block = [&w](tape<float>& tt, const var<float, 2>& v) {
      return tanh(tt, dropout(tt, silu(tt, linear(tt, v, tt.leaf(w))), 0.2, 3));
    };
    var<float, 2> h = t.leaf(in);
    for (int i = 0; i < 4; ++i) h = keep_little ? checkpoint(t, h, block) : block(t, h);
    const auto loss = sum(t, h);
    const std::size_t saved = m.total().saved_bytes;
    t.backward(loss);
    return std::tuple(tensor<float, 1>::copy_of(tensor_view<const float, 1>(w.gradient_values().data(), {w.size()})),
                      tensor<float, 1>::copy_of(tensor_view<const float, 1>(in.gradient_values().data(), {in.size()})), saved);
  };
  const auto [dw, din, saved] = run(false);
  const auto [dw2, din2, saved2] = run(true);
  CHECK(test::equal_bits(dw, dw2));
  CHECK(test::equal_bits(din, din2));
  CHECK(saved2 * 2 < saved);
}

TEST_CASE("dropout keeps the expected share and the mean, and does nothing outside training") {
  context ctx;
  const auto x = tensor<float, 2>::full({100, 101}, 1);
  tape<float> t(ctx, recording::on, {true, 1, {}});
  const auto v = t.constant(x.view());
  const auto y = dropout(t, v, 0.25, 9), again = dropout(t, v, 0.25, 9), other = dropout(t, v, 0.25, 10);
  index_t kept = 0;
  for (index_t i = 0; i < y.value.size(); ++i) kept += y.value.data[i] != 0;
  CHECK(std::abs(static_cast<double>(kept) / 10100 - 0.75) < 5 * std::sqrt(0.75 * 0.25 / 10100));
  CHECK(y.value.data[0] + y.value.data[1] + y.value.data[2] > 0);
  CHECK(test::equal_bits(y.value, again.value));
  CHECK_FALSE(test::equal_bits(y.value, other.value));
  t.batch.training = false;
  CHECK(dropout(t, v, 0.25, 9).value.data == v.value.data);
}

TEST_CASE("the meter reports by module path and its parts add up") {
  context ctx;
  meter m;
  ctx.cost = &m;
  parameter<float, 2> w(random_tensor<float, 2>({32, 32}, 1));
  const auto x = random_tensor<float, 2>({16, 32}, 2);
  tape<float> t(ctx);
  var<float, 2> h = t.constant(x.view());
  for (index_t i = 0; i < 2; ++i) {
    const auto outer = t.scope("layers", i);
    const auto inner = t.scope("mlp");
    h = linear(t, h, t.leaf(w));
  }
  CHECK(m.total("layers.0.mlp").flops == 2 * 16 * 32 * 32);
  CHECK(m.total("layers").flops == 2 * m.total("layers.1").flops);
  CHECK(m.total("layers").nodes == 2);
  CHECK(m.total("layer").flops == 0);  // whole segments only
  CHECK(m.total().flops == m.total("layers").flops);
}

TEST_CASE("the meter gives every moment to an operation or to the outside, and every saved byte to one operation") {
  context ctx;
  meter m;
  ctx.cost = &m;
  parameter<float, 2> w(random_tensor<float, 2>({64, 64}, 1));
  const auto x = random_tensor<float, 2>({32, 64}, 2);
  {
    tape<float> t(ctx);
    const auto h = silu(t, linear(t, t.constant(x.view()), t.leaf(w)));
    const auto loss = sum(t, multiply(t, h, h));
    CHECK(m.total().saved_bytes > 0);
    std::size_t by_operation = 0;
    for (const auto& r : m.operations()) by_operation += r.saved_bytes;
    CHECK(by_operation == m.total().saved_bytes);
    t.backward(loss);
  }
  adamw<float> optimizer({parameter_ref<float>{"w", &w}});
  optimizer.step(ctx);

  double by_operation = 0;
  for (const auto& r : m.operations()) by_operation += r.forward_seconds + r.backward_seconds;
  CHECK(by_operation > 0);
  CHECK(m.total().forward_seconds + m.total().backward_seconds == Approx(by_operation));
  const auto row = [&](std::string_view name) { return *std::find_if(m.operations().begin(), m.operations().end(), [&](const auto& r) { return r.name == name; }); };
  CHECK(row("linear").calls == 1);
  CHECK(row("linear").flops == 2 * 32 * 64 * 64);
  CHECK(row("linear").backward_seconds > 0);
  CHECK(row("adamw").calls == 1);
  const std::string table = cost_table(m);
  CHECK(table.find("linear") != std::string::npos);
  CHECK(table.find("outside operations") != std::string::npos);
}
