// SPDX-License-Identifier: Apache-2.0
// Vector-based random matrix adaptation: one pair of frozen random matrices for the whole model, two trained vectors a layer.
// Read next: peft/attach.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "graft/ops/elementwise.hpp"
#include "graft/peft/attach.hpp"

namespace graft {

struct vera_options {
  index_t rank = 256;      // >= 1
  double d_initial = 0.1;  // of the vector over ranks
  double dropout = 0;      // in [0, 1), on the input of the update while training

  void validate() const {
    if (rank < 1 || rank > (1 << 16)) throw_error<option_error>("vera: rank is ", rank, ", expected 1 to 65536");
    if (!std::isfinite(d_initial)) throw_error<option_error>("vera: d_initial is ", d_initial, ", expected a finite number");
    if (!(dropout >= 0 && dropout < 1)) throw_error<option_error>("vera: dropout is ", dropout, ", expected 0 to below 1");
  }
};

/// The matrices all layers share: A (R, widest input), B (widest output, R), uniform with the deviation sqrt(2 / columns).
/// Layers that are narrower use the first columns of A and the first rows of B.
template <class T>
struct vera_projections {
  tensor<T, 2> a, b;

  vera_projections(tensor<T, 2> first, tensor<T, 2> second) : a(std::move(first)), b(std::move(second)) {}
  vera_projections(index_t rank, index_t in, index_t out, random_stream random) : a({rank, in}), b({out, rank}) {
    fill_uniform(a.span(), random.substream("vera_A"), std::sqrt(6 / static_cast<double>(in)));
    fill_uniform(b.span(), random.substream("vera_B"), std::sqrt(6 / static_cast<double>(rank)));
  }
};

/// y = f(x) + b * (B (d * (A dropout(x)))), with b and d trained. Starts as the identity: b is zero.
/// Paths: "vera_lambda_d" (R), "vera_lambda_b" (out). Cost: 2 N R (in + out) flops. Source: Kopiczko et al. 2023.
template <class T>
struct vera {
  using value_type = T;
  std::shared_ptr<const vera_projections<T>> shared;
  parameter<T, 1> d, b;
  vera_options options;
  std::uint64_t stream = 0;  // of the dropout masks

  vera(std::shared_ptr<const vera_projections<T>> projections, index_t in, index_t out, vera_options o = {}, random_stream random = random_stream{})
      : shared(std::move(projections)), d(tensor<T, 1>::full({o.rank}, static_cast<T>(o.d_initial))), b(tensor<T, 1>::zeros({out})),
        options((o.validate(), o)), stream(random.substream("dropout").bits()) {
    if (shared->a.shape()[0] != o.rank || shared->b.shape()[1] != o.rank || shared->a.shape()[1] < in || shared->b.shape()[0] < out)
      throw_error<shape_error>("vera: projections ", to_string(shared->a.shape()), " and ", to_string(shared->b.shape()), " do not serve a layer of ", in,
                               " inputs and ", out, " outputs at rank ", o.rank);
    d.tag = b.tag = "adapter";
    in_ = in;
  }
  static void visit(auto& self, auto& v) {
    v("vera_lambda_d", self.d);
    v("vera_lambda_b", self.b);
  }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    const auto low = scale(t, linear(t, dropout(t, x, options.dropout, stream), matrix_ref(a())), t.leaf(d));
    return add(t, f(x), scale(t, linear(t, low, matrix_ref(up())), t.leaf(b)));
  }
  void merge_into(affine<T> w) const {
    context serial;
    tensor<T, 2> scaled({up().shape[0], options.rank});
    for (index_t i = 0; i < scaled.shape()[0]; ++i)
      for (index_t r = 0; r < options.rank; ++r) scaled(i, r) = b.view()(i) * up()(i, r) * d.view()(r);
    kernel::matmul_nn<T>(serial, std::as_const(scaled).view(), matrix_ref(a()), w.weight, {1, 1});
  }
  std::string describe() const { return concat("vera(rank ", options.rank, ")"); }

 private:
  tensor_view<const T, 2> a() const {  // the first columns
    auto v = shared->a.view();
    v.shape[1] = in_;
    return v;
  }
  tensor_view<const T, 2> up() const {  // the first rows
    auto v = shared->b.view();
    v.shape[0] = b.extent()[0];
    return v;
  }
  index_t in_;
};

/// VeRA on the named layers, over one pair of projections as wide as the widest of them needs.
template <module M>
index_t attach(M& model, const target_modules& where, const vera_options& vera_o, const attach_options& o = {}) {
  using T = typename M::value_type;
  vera_o.validate();
  index_t in = 0, out = 0;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    if (!where.matches(path)) return;
    in = std::max(in, layer.inputs());
    out = std::max(out, layer.outputs());
  });
  const auto shared = in == 0 ? nullptr : std::make_shared<const vera_projections<T>>(vera_o.rank, in, out, random_stream(o.seed));
  return attach(model, where, [&](const adapter_site& s) { return vera<T>(shared, s.in, s.out, vera_o, s.random); }, o);
}

}  // namespace graft
