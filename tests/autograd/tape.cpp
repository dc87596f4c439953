// SPDX-License-Identifier: Apache-2.0
#include "graft/autograd/tape.hpp"

#include <algorithm>

#include "graft/autograd/checkpoint.hpp"
#include "graft/autograd/cost_table.hpp"
#include "graft/nn/parameter.hpp"
#include "graft/ops/elementwise.hpp"
#include "graft/ops/linear.hpp"
#include "graft/ops/norm.hpp"
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

namespace {

/// 3 x, which counts how often it is computed again, and only where that is asked for.
template <class T>
var<T, 2> tripled(tape<T>& t, const var<T, 2>& x, int* again, bool possible) {
  auto y = t.template empty<2>(x.shape());
  const index_t n = x.value.size();
  const kernel::times_constant<T> times{T(3)};
  kernel::map<T>(t.ctx(), n, y.value.data, T(0), times, x.value.data);
  const auto xs = t.save(x);
  t.record({"tripled"}, y, x.needs_grad(),
           [xi = x.id, n, times](tensor_view<const T, 2> dy, tape<T>& g) {
             const auto to = g.grad(xi, dy.shape);
             kernel::map<T>(g.ctx(), n, to.view.data, to.beta, times, dy.data);
           },
           [xs, n, times, again](tensor_view<T, 2> to, tape<T>& g) {
             ++*again;
             kernel::map<T>(g.ctx(), n, to.data, T(0), times, xs.data);
           },
           possible);
  return y;
}

}  // namespace

TEST_CASE("a value that is cheap to compute again is computed once for all that retained it, and not kept") {
  context ctx;
  const index_t n = 64, c = 64, bytes = n * c * static_cast<index_t>(sizeof(float));
  parameter<float, 2> in(random_tensor<float, 2>({n, c}, 1)), a(random_tensor<float, 2>({c, c}, 2)), b(random_tensor<float, 2>({c, c}, 3));
  const auto run = [&](bool possible) {
    meter m;
    ctx.cost = &m;
    for (auto* p : {&in, &a, &b}) p->clear_gradient();
    int again = 0;
    tape<float> t(ctx);
    var<float, 0> loss;
    {
      const auto y = tripled(t, t.leaf(in), &again, possible);
      loss = sum(t, add(t, linear(t, y, t.leaf(a)), linear(t, y, t.leaf(b))));
    }
    const auto saved = static_cast<index_t>(m.total().saved_bytes), live = static_cast<index_t>(ctx.pool().live_bytes());
    t.backward(loss);
    CHECK(again == (possible ? 1 : 0));
    CHECK(m.total().saved_bytes == 0);
    ctx.cost = nullptr;
    std::vector<float> gradients;
    for (auto* p : {&in, &a, &b}) gradients.insert(gradients.end(), p->gradient_values().begin(), p->gradient_values().end());
    return std::tuple(gradients, saved, live);
  };
  const auto [kept_gradients, kept, kept_live] = run(false);
  const auto [gradients, saved, live] = run(true);
  CHECK(gradients == kept_gradients);
  CHECK(kept - saved == bytes);
  CHECK(kept_live - live >= bytes);
  CHECK(ctx.pool().live_bytes() == 0);
}

TEST_CASE("every operation that can be repeated gives the same bits again") {
  context ctx;
  const index_t n = 20, c = 40;
  const auto check = [&](auto operation) {
    parameter<float, 2> x(random_tensor<float, 2>({n, c}, 1)), u(random_tensor<float, 2>({n, c}, 2));
    parameter<float, 1> gain(random_tensor<float, 1>({c}, 3)), bias(random_tensor<float, 1>({c}, 4));
    tape<float> t(ctx);
    const auto y = operation(t, t.leaf(x), t.leaf(u), t.leaf(gain), t.leaf(bias));
    const auto promised = t.retain(y);
    CHECK(promised.maker == y.id);
    const auto z = scale(t, y, 2.0);  // what was saved for y is kept by its node
    CHECK(test::equal_bits(t.value(promised), tensor_view<const float, 2>(y.value)));
    CHECK(t.value(promised).data == t.value(promised).data);
  };
  using v2 = const var<float, 2>&;
  using v1 = const var<float, 1>&;
  check([](tape<float>& t, v2 x, v2, v1 gain, v1) { return rms_norm(t, x, gain); });
  check([](tape<float>& t, v2 x, v2, v1 gain, v1 bias) { return layer_norm(t, x, gain, bias); });
  check([](tape<float>& t, v2 x, v2 u, v1, v1) { return swiglu(t, x, u); });
  check([](tape<float>& t, v2 x, v2, v1, v1) { return silu(t, x); });
  check([](tape<float>& t, v2 x, v2, v1, v1) { return gelu(t, x); });
  check([](tape<float>& t, v2 x, v2, v1, v1) { return gelu_tanh(t, x); });
  check([](tape<float>& t, v2 x, v2, v1, v1) { return relu(t, x); });
}

TEST_CASE("what is not whole, not recorded or not repeatable is kept instead") {
  context ctx;
  parameter<float, 2> x(random_tensor<float, 2>({6, 8}, 1)), up(random_tensor<float, 2>({6, 8}, 2));
  tape<float> t(ctx);
  const auto y = silu(t, t.leaf(x));
  const var<float, 1> flat{y.value.reshape(extents<1>{48}), y.storage, y.id};
  CHECK(t.retain(flat).maker == no_node);
  auto elsewhere = t.empty<2>(y.shape());
  elsewhere.id = y.id;
  CHECK(t.retain(elsewhere).maker == no_node);
  const auto plain = silu(t, t.constant(x.view()));
  CHECK(t.retain(plain).view.data == plain.value.data);
  const auto half = swiglu(t, t.constant(x.view()), t.leaf(up));  // up itself is not saved
  CHECK(t.retain(half).maker == no_node);
  CHECK(t.retain(scale(t, y, 2.0)).maker == no_node);
}

TEST_CASE("where a context says so, values are kept in 16 bits, once for all that retain them, and forward passes stay as they are") {
  const index_t n = 64, c = 96, values = n * c;
  parameter<float, 2> in(random_tensor<float, 2>({n, c}, 1)), a(random_tensor<float, 2>({c, c}, 2)), b(random_tensor<float, 2>({c, c}, 3));
  context ctx;
  const auto run = [&](saved_precision saved) {
    meter m;
    ctx.cost = &m;
    ctx.saved = saved;
    for (auto* p : {&in, &a, &b}) p->clear_gradient();
    tape<float> t(ctx);
    var<float, 0> loss;
    {
      const auto x = scale(t, t.leaf(in), 2.0);
      loss = sum(t, add(t, multiply(t, linear(t, x, t.leaf(a)), linear(t, x, t.leaf(b))), gelu(t, x)));
    }
    const auto kept = static_cast<index_t>(m.total().saved_bytes), live = static_cast<index_t>(ctx.pool().live_bytes());
    t.backward(loss);
    CHECK(m.total().saved_bytes == 0);
    ctx.cost = nullptr;
    auto gradients = tensor<float, 2>::zeros({3, std::max(values, c * c)});
    for (index_t i = 0; auto* p : {&in, &a, &b}) std::ranges::copy(p->gradient_values(), &gradients(i++, 0));
    return std::tuple(loss.item(), gradients.clone(), kept, live);
  };
  const auto [loss, gradients, kept, live] = run(saved_precision::full);
  const auto [rounded_loss, rounded_gradients, rounded_kept, rounded_live] = run(saved_precision::int16);
  CHECK(rounded_loss == loss);
  CHECK(kept >= 3 * values * 4);  // x and both factors
  CHECK(rounded_kept >= 3 * values * 17 / 8);
  CHECK(rounded_kept < 3 * values * 17 / 8 * 9 / 8);  // a buffer is at most an eighth larger than what it holds
  CHECK(live - rounded_live >= (kept - rounded_kept) * 9 / 10);
  CHECK(test::near(rounded_gradients, gradients, 1e-4));
  CHECK_FALSE(test::equal_bits(rounded_gradients, gradients));
  CHECK(ctx.pool().live_bytes() == 0);
}

TEST_CASE("what is small, or nobody's result, is not rounded") {
  context ctx;
  ctx.saved = saved_precision::int16;
  parameter<float, 2> x(random_tensor<float, 2>({32, 33}, 1)), few(random_tensor<float, 2>({31, 33}, 2));
  tape<float> t(ctx);
  const auto y = scale(t, t.leaf(x), 2.0);
  const auto kept = t.retain(y);
  CHECK(kept.maker == y.id);
  CHECK(t.is_kept(kept));
  CHECK(test::near(t.value(kept), y.value, 1 / 65000.0));
  CHECK(t.retain(scale(t, t.leaf(few), 2.0)).maker == no_node);
  CHECK(t.retain(t.leaf(x)).maker == no_node);
  CHECK(t.retain(scale(t, t.constant(x.view()), 2.0)).maker == no_node);
  const auto last = sum(t, y);  // takes what was kept for it
  CHECK(last.needs_grad());
}

TEST_CASE("a chain of values that could be computed again keeps every other one") {
  context ctx;
  meter m;
  ctx.cost = &m;
  parameter<float, 2> in(random_tensor<float, 2>({64, 64}, 1));
  tape<float> t(ctx);
  {
    auto x = scale(t, t.leaf(in), 2.0);
    for (int i = 0; i < 6; ++i) x = tanh(t, x);
    const auto promised = t.retain(x);
    CHECK(promised.maker == no_node);  // the one before it is not kept
    CHECK(m.total().saved_bytes == 3 * 64 * 64 * sizeof(float));
    t.backward(sum(t, x));
  }
  ctx.cost = nullptr;
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
