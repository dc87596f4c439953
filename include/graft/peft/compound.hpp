// SPDX-License-Identifier: Apache-2.0
// Hamming-weight adapters: a frozen layer's outputs or inputs turned by compounds of small rotations. Read next: ops/compound.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "graft/ops/compound.hpp"
#include "graft/peft/attach.hpp"

namespace graft {

struct compound_options {
  enum class side { output, input };

  index_t blocks = 8;                // of floor(d / blocks) coordinates; 1 to d
  std::vector<index_t> orders = {1, 2};  // of the compounds in every block, each at least 1 and once; {1} is orthogonal fine-tuning
  side rotate = side::output;        // W becomes R W, or W R
  bool shared = false;               // one base matrix for all blocks
  index_t offset = 0;                // moves the blocks along, around the end: in a chain, half a block keeps factors from collapsing
  rotation_form form = rotation_form::cayley;
  kernel::compound_route route = kernel::compound_route::automatic;  // the sandwich serves order 2 alone
  double dropout = 0;                // in [0, 1): how often the whole rotation is left out of a call while training

  /// What the layer's size has no part in; the rest is checked when the size is known.
  template <class = void>
  void validate() const {
    if (blocks < 1) throw_error<option_error>("compound: ", blocks, " blocks, expected at least 1");
    compound_layout::check_orders(orders);
    if (offset < 0) throw_error<option_error>("compound: offset is ", offset, ", expected 0 or more");
    if (!(dropout >= 0 && dropout < 1)) throw_error<option_error>("compound: dropout is ", dropout, ", expected 0 to below 1");
    if (route == kernel::compound_route::sandwich && std::find(orders.begin(), orders.end(), index_t{2}) == orders.end())
      throw_error<option_error>("compound: the sandwich route serves order 2, which is not among the orders");
  }
  /// The blocks and base sizes for a layer. Throws option_error where they do not fit it.
  template <class = void>
  std::shared_ptr<const compound_layout> layout(index_t in, index_t out) const {
    validate();
    auto l = std::make_shared<compound_layout>(rotate == side::output ? out : in, blocks, orders, shared, offset);
    l->form = form;
    l->route = route;
    return l;
  }
};

/// y = R f(x), the bias left as it is, or y = f(R x): R turns every block by C_k(A) for each order k, A an (n, n) rotation of the
/// block's own or of all. Starts as the identity. Norms and angles between features stay. Path: "rotation" (blocks, n(n-1)/2),
/// the free numbers of A: nothing else is stored or trained. Chains of equal blocks are one rotation: see `offset`.
/// Source: "Hyper compressed fine-tuning of large foundation models with quantum inspired adapters" (2025).
template <class T>
struct compound {
  using value_type = T;
  parameter<T, 2> rotation;
  compound_options options;
  std::shared_ptr<const compound_layout> layout;
  std::uint64_t stream = 0;  // of the calls that are left out

  compound(index_t in, index_t out, compound_options o = {}, random_stream random = random_stream{})
      : compound(o.layout(in, out), o, random) {}
  /// With a layout that many layers of one size share.
  compound(std::shared_ptr<const compound_layout> l, compound_options o, random_stream random)
      : rotation(tensor<T, 2>::zeros(l->free_shape())), options(std::move(o)), layout(std::move(l)), stream(random.substream("dropout").bits()) {
    rotation.tag = "adapter";
  }
  static void visit(auto& self, auto& v) { v("rotation", self.rotation); }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    require_finite();
    if (options.rotate == compound_options::side::input) return f(turned(t, x));
    if (!f.has_bias()) return turned(t, f(x));
    if (f.is_base()) return add_bias(t, turned(t, f.without_bias(x)), f.bias());
    // Adapters before this one may have changed the bias: it is what the map makes of zero.
    auto zero = t.template empty<2>({1, f.inputs()});
    std::fill_n(zero.value.data, f.inputs(), T(0));
    const auto row = f(zero);
    const var<T, 1> bias{{row.value.data, {f.outputs()}}, row.storage, row.id};
    return add_bias(t, turned(t, add_bias(t, f(x), scale(t, bias, -1.0))), bias);
  }
  void merge_into(affine<T> w) const {
    require_finite();
    context serial;
    const index_t nn = layout->n() * layout->n();
    const bool output = options.rotate == compound_options::side::output;
    std::vector<double> bases(static_cast<std::size_t>(layout->bases() * nn));
    detail::build_bases<T>(serial, *layout, rotation.view(), bases.data());
    const auto rows = (output ? w.weight.transpose() : w.weight).clone();  // R turns the columns of W, R^T its rows
    tensor<T, 2> to(rows.shape());
    detail::turn_by_compounds<T>(serial, *layout, bases.data(), kernel::compound_route::dense,
                                 output ? detail::turn::by_r : detail::turn::by_transpose, rows.view(), to.view());
    detail::zip_elements(output ? w.weight.transpose() : w.weight, to.view(), [](T& a, const T& b) { a = b; });
  }
  std::string describe() const {
    std::string orders;
    for (const index_t k : layout->orders()) orders += concat(orders.empty() ? "" : "+", k);
    return concat("compound(orders ", orders, ", ", layout->blocks(), " blocks of ", layout->block_size(), layout->bases() == 1 ? ", one base" : "",
                  " of size ", layout->n(), options.rotate == compound_options::side::output ? ", outputs" : ", inputs",
                  layout->form == rotation_form::pyramid ? ", pyramid)" : ")");
  }
  /// What is allowed but seldom wanted, for people; empty when there is nothing to say. Published results without order 1 are poor;
  /// Cayley's transform of very large numbers comes close to the eigenvalue -1, which it cannot reach.
  std::string caution() const {
    if (layout->orders().front() != 1) return concat(describe(), ": order 1 is not among the orders, which has given poor results");
    if (layout->form == rotation_form::cayley)
      for (const T p : rotation.view().span())
        if (std::abs(p) > T(1000)) return concat(describe(), ": a free number is ", p, ", beyond 1000: the base is close to the eigenvalue -1");
    return {};
  }

 private:
  var<T, 2> turned(tape<T>& t, const var<T, 2>& x) {
    bool out = false;
    if (options.dropout > 0 && t.batch.training)
      out = random_stream(t.ctx().seed, mix(stream, t.batch.random_key())).uniform() < options.dropout;
    return out ? left_out_rotation(t, x, t.leaf(rotation)) : compound_rotation(t, x, t.leaf(rotation), *layout);
  }
  void require_finite() const {
    for (const T p : rotation.view().span())
      if (!std::isfinite(p)) throw_error<state_error>("compound: a free number of the rotation is ", p, ", expected finite ones");
  }
};

/// Hamming-weight adapters on the named layers. Throws option_error as attach() does, and where the blocks do not fit a layer.
template <module M>
index_t attach(M& model, const target_modules& where, const compound_options& compound_o, const attach_options& o = {}) {
  using T = typename M::value_type;
  compound_o.validate();
  std::vector<std::shared_ptr<const compound_layout>> layouts;  // one for every size
  return attach(model, where, [&](const adapter_site& s) {
    const index_t d = compound_o.rotate == compound_options::side::output ? s.out : s.in;
    for (const auto& l : layouts)
      if (l->coordinates() == d) return compound<T>(l, compound_o, s.random);
    return compound<T>(layouts.emplace_back(compound_o.layout(s.in, s.out)), compound_o, s.random);
  }, o);
}

}  // namespace graft
