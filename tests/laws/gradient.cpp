// SPDX-License-Identifier: Apache-2.0
// The gradient law: the rule of every operation equals central differences, in double, on the code that ships.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "graft/autograd/checkpoint.hpp"
#include "graft/autograd/custom.hpp"
#include "graft/nn/quantize.hpp"
#include "graft/core/thread_pool.hpp"
#include "graft/ops/attention.hpp"
#include "graft/ops/elementwise.hpp"
#include "graft/ops/embedding.hpp"
#include "graft/ops/low_rank.hpp"
#include "graft/ops/loss.hpp"
#include "graft/ops/norm.hpp"
#include "graft/ops/reduce.hpp"
#include "support/catch.hpp"
#include "support/leaves.hpp"

using namespace graft;

namespace {

using t64 = tape<double>;
using var2 = var<double, 2>;

/// A number that depends on every element of y differently.
template <std::size_t R>
var<double, 0> weigh(t64& t, const var<double, R>& y) {
  static const auto weights = test::random_tensor<double, 1>({4096}, 99);
  const auto w = t.constant(weights.view().slice(0, 0, y.value.size()).reshape(y.shape()));
  return sum(t, multiply(t, y, w));
}

struct op_case {
  std::string name;
  std::function<double(context&)> error;
};

const std::vector<std::int32_t> ids{3, 1, 2, 0, 3, 3, 6};
const std::vector<std::int32_t> labels{1, 2, kernel::ignored_label, 3, 0, 4, 2};
const std::vector<index_t> sequences{0, 3, 7};

/// Applies f to a trainable 7 x 20 matrix.
template <class F>
double unary(context& ctx, F f) {
  test::leaves p;
  auto& x = p.matrix(7, 20);
  return p.gradient_error(ctx, [&](t64& t) { return weigh(t, f(t, t.leaf(x))); });
}

template <class F>
double binary(context& ctx, F f) {
  test::leaves p;
  auto &x = p.matrix(7, 20), &y = p.matrix(7, 20);
  return p.gradient_error(ctx, [&](t64& t) { return weigh(t, f(t, t.leaf(x), t.leaf(y))); });
}

double attention_error(context& ctx, index_t heads, index_t kv_heads, index_t size, bool causal) {
  test::leaves p;
  auto &q = p.matrix(7, heads * size), &k = p.matrix(7, kv_heads * size), &v = p.matrix(7, kv_heads * size);
  const kernel::attention_layout at{heads, kv_heads, size, 1 / std::sqrt(static_cast<double>(size)), causal, sequences, sequences};
  return p.gradient_error(ctx, [&](t64& t) { return weigh(t, attention(t, at, t.leaf(q), t.leaf(k), t.leaf(v))); });
}

const std::vector<op_case> every_op{
    {"linear", [](context& c) {
       test::leaves p;
       auto &x = p.matrix(7, 20), &w = p.matrix(30, 20);
       return p.gradient_error(c, [&](t64& t) { return weigh(t, linear(t, t.leaf(x), t.leaf(w))); });
     }},
    {"linear with a frozen weight", [](context& c) {
       test::leaves p;
       auto& x = p.matrix(7, 20);
       const auto w = test::random_tensor<double, 2>({30, 20}, 5);
       return p.gradient_error(c, [&](t64& t) { return weigh(t, linear(t, t.leaf(x), matrix_ref(w.view()))); });
     }},
    {"linear with a frozen weight in blocks", [](context& c) {
       double worst = 0;
       for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::nf4}) {
         test::leaves p;
         auto& x = p.matrix(7, 20);
         const auto w = convert_array(frozen_array(test::random_tensor<double, 2>({30, 20}, 5)), type);
         worst = std::max(worst, p.gradient_error(c, [&](t64& t) { return weigh(t, linear(t, t.leaf(x), w.matrix())); }));
       }
       return worst;
     }},
    {"add_bias", [](context& c) {
       test::leaves p;
       auto& x = p.matrix(7, 20);
       auto& b = p.vector(20);
       return p.gradient_error(c, [&](t64& t) { return weigh(t, add_bias(t, t.leaf(x), t.leaf(b))); });
     }},
    {"add_low_rank", [](context& c) {
       test::leaves p;
       auto &y = p.matrix(7, 30), &x = p.matrix(7, 20), &a = p.matrix(3, 20), &b = p.matrix(30, 3);
       return p.gradient_error(c, [&](t64& t) { return weigh(t, add_low_rank(t, t.leaf(y), t.leaf(x), t.leaf(a), t.leaf(b), 0.7)); });
     }},
    {"linear_low_rank of one input", [](context& c) {
       test::leaves p;
       auto &x = p.matrix(11, 20), &a = p.matrix(3, 20), &b = p.matrix(30, 3);
       const auto w = test::random_tensor<double, 2>({30, 20}, 5);
       return p.gradient_error(c, [&](t64& t) {
         const auto xv = t.leaf(x);
         return weigh(t, linear_low_rank(t, xv, matrix_ref(w.view()), xv, t.leaf(a), t.leaf(b), 0.7));
       });
     }},
    {"linear_low_rank of two inputs", [](context& c) {
       test::leaves p;
       auto &x = p.matrix(11, 20), &d = p.matrix(11, 20), &a = p.matrix(3, 20), &b = p.matrix(30, 3);
       const auto w = test::random_tensor<double, 2>({30, 20}, 5);
       return p.gradient_error(c, [&](t64& t) {
         return weigh(t, linear_low_rank(t, t.leaf(x), matrix_ref(w.view()), t.leaf(d), t.leaf(a), t.leaf(b), 0.7));
       });
     }},
    {"linear_low_rank of a constant", [](context& c) {
       test::leaves p;
       auto &a = p.matrix(3, 20), &b = p.matrix(30, 3);
       const auto w = test::random_tensor<double, 2>({30, 20}, 5), x = test::random_tensor<double, 2>({11, 20}, 6);
       return p.gradient_error(c, [&](t64& t) {
         const auto xv = t.constant(x.view());
         return weigh(t, linear_low_rank(t, xv, matrix_ref(w.view()), xv, t.leaf(a), t.leaf(b), 0.7));
       });
     }},
    {"add", [](context& c) { return binary(c, [](t64& t, const var2& x, const var2& y) { return add(t, x, y); }); }},
    {"add of a value to itself", [](context& c) { return unary(c, [](t64& t, const var2& x) { return add(t, x, silu(t, add(t, x, x))); }); }},
    {"subtract", [](context& c) { return binary(c, [](t64& t, const var2& x, const var2& y) { return subtract(t, x, y); }); }},
    {"multiply", [](context& c) { return binary(c, [](t64& t, const var2& x, const var2& y) { return multiply(t, x, y); }); }},
    {"multiply of a value with itself", [](context& c) { return unary(c, [](t64& t, const var2& x) { return multiply(t, x, x); }); }},
    {"scale by a number", [](context& c) { return unary(c, [](t64& t, const var2& x) { return scale(t, x, -1.5); }); }},
    {"scale by a row", [](context& c) {
       test::leaves p;
       auto& x = p.matrix(7, 20);
       auto& g = p.vector(20);
       return p.gradient_error(c, [&](t64& t) { return weigh(t, scale(t, t.leaf(x), t.leaf(g))); });
     }},
    {"relu", [](context& c) { return unary(c, [](t64& t, const var2& x) { return relu(t, x); }); }},
    {"silu", [](context& c) { return unary(c, [](t64& t, const var2& x) { return silu(t, x); }); }},
    {"gelu", [](context& c) { return unary(c, [](t64& t, const var2& x) { return gelu(t, x); }); }},
    {"gelu_tanh", [](context& c) { return unary(c, [](t64& t, const var2& x) { return gelu_tanh(t, x); }); }},
    {"tanh", [](context& c) { return unary(c, [](t64& t, const var2& x) { return tanh(t, x); }); }},
    {"swiglu", [](context& c) { return binary(c, [](t64& t, const var2& x, const var2& y) { return swiglu(t, x, y); }); }},
    {"dropout", [](context& c) {
       return unary(c, [](t64& t, const var2& x) {
         t.batch = {true, 3, {}};
         return dropout(t, x, 0.4, 11);
       });
     }},
    {"norms with computed gains that are gone before backward", [](context& c) {
       test::leaves p;
       auto& x = p.matrix(7, 20);
       auto &gain = p.vector(20), &bias = p.vector(20);
       return p.gradient_error(c, [&](t64& t) {
         const auto g = t.leaf(gain);
         const auto y = rms_norm(t, t.leaf(x), multiply(t, g, g));
         const auto z = layer_norm(t, y, multiply(t, g, g), t.leaf(bias));
         return weigh(t, multiply(t, z, z));
       });
     }},
    {"rms_norm", [](context& c) {
       test::leaves p;
       auto& x = p.matrix(7, 20);
       auto& g = p.vector(20);
       return p.gradient_error(c, [&](t64& t) { return weigh(t, rms_norm(t, t.leaf(x), t.leaf(g), 1e-3)); });
     }},
    {"layer_norm", [](context& c) {
       test::leaves p;
       auto& x = p.matrix(7, 20);
       auto &g = p.vector(20), &b = p.vector(20);
       return p.gradient_error(c, [&](t64& t) { return weigh(t, layer_norm(t, t.leaf(x), t.leaf(g), t.leaf(b), 1e-3)); });
     }},
    {"attention, causal", [](context& c) { return attention_error(c, 2, 2, 8, true); }},
    {"attention, grouped queries", [](context& c) { return attention_error(c, 4, 2, 6, true); }},
    {"attention, both directions", [](context& c) { return attention_error(c, 3, 1, 10, false); }},
    {"rotate_positions", [](context& c) {
       static const auto cosine = test::random_tensor<double, 2>({9, 5}, 21), sine = test::random_tensor<double, 2>({9, 5}, 22);
       return unary(c, [](t64& t, const var2& x) { return rotate_positions<double>(t, x, 10, ids, cosine, sine); });
     }},
    {"embedding", [](context& c) { return unary(c, [](t64& t, const var2& x) { return embedding(t, x, ids); }); }},
    {"mean_rows", [](context& c) { return unary(c, [](t64& t, const var2& x) { return mean_rows(t, x, sequences); }); }},
    {"softmax", [](context& c) { return unary(c, [](t64& t, const var2& x) { return softmax(t, x); }); }},
    {"reshape", [](context& c) { return unary(c, [](t64& t, const var2& x) { return silu(t, reshape(t, x, extents<1>{140})); }); }},
    {"cross_entropy", [](context& c) {
       test::leaves p;
       auto& x = p.matrix(7, 5);
       return p.gradient_error(c, [&](t64& t) { return cross_entropy(t, t.leaf(x), labels); });
     }},
    {"linear_cross_entropy with a frozen weight in blocks", [](context& c) {
       double worst = 0;
       for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::nf4}) {
         test::leaves p;
         auto& x = p.matrix(7, 20);
         const auto w = convert_array(frozen_array(test::random_tensor<double, 2>({5, 20}, 5)), type);
         worst = std::max(worst, p.gradient_error(c, [&](t64& t) { return linear_cross_entropy(t, t.leaf(x), w.matrix(), labels); }));
       }
       return worst;
     }},
    {"linear_cross_entropy", [](context& c) {
       test::leaves p;
       auto &x = p.matrix(7, 20), &w = p.matrix(5, 20);
       return p.gradient_error(c, [&](t64& t) { return linear_cross_entropy(t, t.leaf(x), t.leaf(w), labels); });
     }},
    {"mean and mean_squared_error", [](context& c) {
       static const auto target = test::random_tensor<double, 2>({7, 20}, 31);
       test::leaves p;
       auto& x = p.matrix(7, 20);
       return p.gradient_error(c, [&](t64& t) {
         const auto v = t.leaf(x);
         return add(t, mean(t, silu(t, v)), mean_squared_error(t, v, target));
       });
     }},
    {"checkpoint", [](context& c) {
       test::leaves p;
       auto &x = p.matrix(7, 20), &w = p.matrix(20, 20);
       return p.gradient_error(c, [&](t64& t) {
         const auto v = silu(t, t.leaf(x));
         return weigh(t, add(t, v, checkpoint(t, v, [&](t64& inner, const var2& y) { return tanh(inner, linear(inner, y, inner.leaf(w))); })));
       });
     }},
    {"an operation of one's own", [](context& c) {
       return binary(c, [](t64& t, const var2& x, const var2& y) {
         return custom_op<double, 2>(
             t, "product plus square", x.shape(),
             [](tensor_view<double, 2> z, auto a, auto b) {
               for (index_t i = 0; i < z.size(); ++i) z.data[i] = a.data[i] * b.data[i] + a.data[i] * a.data[i];
             },
             [](auto dz, auto, accumulator<double, 2> da, accumulator<double, 2> db, auto a, auto b) {
               for (index_t i = 0; i < dz.size(); ++i) {
                 da.view.data[i] = dz.data[i] * (b.data[i] + 2 * a.data[i]) + (da.beta == 0 ? 0 : da.view.data[i]);
                 db.view.data[i] = dz.data[i] * a.data[i] + (db.beta == 0 ? 0 : db.view.data[i]);
               }
             },
             x, y);
       });
     }},
};

}  // namespace

TEST_CASE("the rule of every operation equals central differences", "[law]") {
  context ctx;
  ctx.seed = 5;
  for (const op_case& op : every_op) {
    INFO(op.name);
    CHECK(op.error(ctx) < 1e-8);
  }
}
