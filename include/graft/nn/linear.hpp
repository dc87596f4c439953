// SPDX-License-Identifier: Apache-2.0
// The linear layer of every model, its slot for adapters, and what an adapter is. Read next: peft/lora.hpp.
#pragma once
#include <algorithm>
#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/nn/embedding.hpp"
#include "graft/nn/module.hpp"
#include "graft/ops/low_rank.hpp"

namespace graft {

template <class T>
struct adapted_linear;

/// The map an adapter wraps: x (N, in) -> x W^T + b (N, out), with whatever adapters come before it. A few words; valid
/// during apply() only.
template <class T>
class linear_map {
 public:
  linear_map(tape<T>& t, adapted_linear<T>& layer, std::size_t adapters, bool with_bias = true, result of_layer = result::needed)
      : tape_(&t), layer_(&layer), adapters_(adapters), with_bias_(with_bias), of_layer_(of_layer) {}

  var<T, 2> operator()(const var<T, 2>& x) const { return layer_->apply(*tape_, x, adapters_, with_bias_); }
  /// x W^T alone: output-side rotations and norms leave the bias as it is.
  var<T, 2> without_bias(const var<T, 2>& x) const { return layer_->apply(*tape_, x, adapters_, false); }
  /// f(x) + scale (d A^T) B^T, where d is x after dropout or x itself: one product when the map is a frozen layer's own.
  var<T, 2> plus_low_rank(const var<T, 2>& x, const var<T, 2>& d, const var<T, 2>& a, const var<T, 2>& b, double scale) const {
    return plus_low_rank(x, d, a, b, scale, result::needed);
  }
  /// The same as the whole of what an adapter gives: it is not computed where nobody reads the layer's result.
  var<T, 2> ending_in_low_rank(const var<T, 2>& x, const var<T, 2>& d, const var<T, 2>& a, const var<T, 2>& b, double scale) const {
    return plus_low_rank(x, d, a, b, scale, of_layer_);
  }
  /// The same map without its bias, for adapters that have to leave it alone and add it themselves.
  linear_map unbiased() const { return linear_map(*tape_, *layer_, adapters_, false); }
  /// Whether this is the layer's own map, with no adapter before.
  bool is_base() const noexcept { return adapters_ == 0; }
  bool has_bias() const { return with_bias_ && layer_->bias.has_value(); }
  /// The base's own bias. Only when has_bias().
  var<T, 1> bias() const { return tape_->leaf(*layer_->bias); }
  /// The base's own weight, frozen or not, in its storage type.
  matrix_ref weight() const { return layer_->weight.matrix(); }
  index_t inputs() const { return layer_->inputs(); }
  index_t outputs() const { return layer_->outputs(); }

 private:
  var<T, 2> plus_low_rank(const var<T, 2>& x, const var<T, 2>& d, const var<T, 2>& a, const var<T, 2>& b, double scale, result r) const {
    if (adapters_ != 0 || layer_->weight.trainable()) return add_low_rank(*tape_, (*this)(x), d, a, b, scale);
    auto y = linear_low_rank(*tape_, x, layer_->weight.matrix(), d, a, b, scale, r);
    return has_bias() ? add_bias(*tape_, std::move(y), bias()) : y;
  }

  tape<T>* tape_;
  adapted_linear<T>* layer_;
  std::size_t adapters_;
  bool with_bias_;
  result of_layer_;
};

/// A dense linear map to be changed in place when adapters are merged. `bias` is empty where the layer has none.
template <class T>
struct affine {
  tensor_view<T, 2> weight;
  tensor_view<T, 1> bias;
};

/// An adapter maps a linear map to a linear map: apply() computes around the inner map, from differentiable operations
/// alone, and merge_into() does the same to a dense weight. Adapters are copyable and list their parameters in visit().
/// One whose training wants a term of the loss has `var<T, 0> penalty(tape<T>&)` besides: see nn/penalty.hpp.
template <class A, class T>
concept adapter = std::copy_constructible<A> && visitable<A, parameter_visitor<T>> &&
                  requires(A& a, const A& c, tape<T>& t, const var<T, 2>& x, linear_map<T> inner, affine<T> w) {
                    { a.apply(t, x, inner) } -> std::same_as<var<T, 2>>;
                    c.merge_into(w);                                          // throws state_error when it cannot
                    { c.describe() } -> std::convertible_to<std::string>;     // kind and options, for people
                  };

/// Any adapter, owned. One virtual call a layer and pass. Itself an adapter.
template <class T>
class any_adapter {
 public:
  template <class A>
    requires(!std::same_as<std::remove_cvref_t<A>, any_adapter> && adapter<std::remove_cvref_t<A>, T>)
  any_adapter(A&& a) : held_(std::make_unique<holder<std::remove_cvref_t<A>>>(std::forward<A>(a))) {}
  any_adapter(const any_adapter& o) : held_(o.held_->clone()) {}
  any_adapter(any_adapter&&) noexcept = default;
  any_adapter& operator=(any_adapter o) noexcept {
    held_ = std::move(o.held_);
    return *this;
  }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) { return held_->apply(t, x, f); }
  void merge_into(affine<T> w) const { held_->merge_into(w); }
  std::string describe() const { return held_->describe(); }
  static void visit(auto& self, parameter_visitor<T>& v) { self.held_->visit(v); }
  /// The adapter's term of the loss, where it has one.
  std::optional<var<T, 0>> penalty(tape<T>& t) { return held_->penalty(t); }

  /// The adapter itself when it is an A, else null.
  template <class A>
  const A* get() const noexcept {
    return held_->kind() == &kind_of<A> ? &static_cast<const holder<A>&>(*held_).value : nullptr;
  }
  template <class A>
  A* get() noexcept { return const_cast<A*>(std::as_const(*this).template get<A>()); }

 private:
  template <class A>
  static constexpr char kind_of = 0;  // its address names the type, so that run-time type information may be off

  struct interface {
    virtual ~interface() = default;
    virtual std::unique_ptr<interface> clone() const = 0;
    virtual var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) = 0;
    virtual void merge_into(affine<T> w) const = 0;
    virtual std::string describe() const = 0;
    virtual void visit(parameter_visitor<T>& v) = 0;
    virtual std::optional<var<T, 0>> penalty(tape<T>& t) = 0;
    virtual const char* kind() const noexcept = 0;
  };
  template <class A>
  struct holder final : interface {
    explicit holder(A a) : value(std::move(a)) {}
    std::unique_ptr<interface> clone() const override { return std::make_unique<holder>(value); }
    var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) override { return value.apply(t, x, f); }
    void merge_into(affine<T> w) const override { value.merge_into(w); }
    std::string describe() const override { return value.describe(); }
    void visit(parameter_visitor<T>& v) override { A::visit(value, v); }
    std::optional<var<T, 0>> penalty(tape<T>& t) override {
      if constexpr (requires { value.penalty(t); }) return value.penalty(t);
      else return {};
    }
    const char* kind() const noexcept override { return &kind_of<A>; }
    A value;
  };
  std::unique_ptr<interface> held_;
};

/// An adapter in a slot. The name is a segment of its parameters' paths and of its folder when saved.
template <class T>
struct named_adapter {
  std::string name;
  any_adapter<T> adapter;
};

/// A dense copy of a linear layer with its adapters folded in.
template <class T>
struct merged_linear {
  tensor<T, 2> weight;
  std::optional<tensor<T, 1>> bias;
};

/// y = x W^T + b with a list of adapters around it: the type of every projection in every model. Adapters are data in a
/// slot, applied first to last, the last outermost; nothing in the model is replaced when one is attached.
/// Paths: "weight", "bias", "adapters.<name>.<parameter>".
template <class T>
struct adapted_linear {
  using value_type = T;
  parameter<T, 2> weight;  // (out, in)
  std::optional<parameter<T, 1>> bias;
  std::vector<named_adapter<T>> adapters;

  adapted_linear() = default;
  adapted_linear(index_t in, index_t out, bool with_bias = false) : weight({out, in}) {
    if (with_bias) bias.emplace(extents<1>{out});
  }

  static void visit(auto& self, auto& v) {
    v("weight", self.weight);
    v("bias", self.bias);
    for (auto& [name, a] : self.adapters) {
      const std::string path = "adapters." + name;
      v(path, a);
    }
  }

  index_t inputs() const { return weight.extent()[1]; }
  index_t outputs() const { return weight.extent()[0]; }

  var<T, 2> operator()(tape<T>& t, const var<T, 2>& x) { return apply(t, x, adapters.size(), true); }

  /// The same for the map that a block ends in, whose result is added to another and else not read. When checkpoint() runs the block
  /// again, a layer that is plain or has a LoRA outermost on a frozen weight leaves zeros, and spares the product.
  var<T, 2> last_of_block(tape<T>& t, const var<T, 2>& x) {
    return apply(t, x, adapters.size(), true, t.is_repeating() ? result::ignored : result::needed);
  }

  /// With the first `count` adapters only.
  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, std::size_t count, bool with_bias, result r = result::needed) {
    if (count != 0) return adapters[count - 1].adapter.apply(t, x, linear_map<T>(t, *this, count - 1, with_bias, r));
    auto y = linear(t, x, weight, r);
    if (with_bias && bias) y = add_bias(t, std::move(y), t.leaf(*bias));
    return y;
  }

  /// New dense values with all adapters folded in, in order. The base is never edited.
  merged_linear<T> merged() const {
    merged_linear<T> m;
    m.weight = weight.share().template to_tensor<T, 2>();
    if (bias) m.bias = bias->share().template to_tensor<T, 1>();
    for (const auto& [name, a] : adapters) a.merge_into({m.weight.view(), m.bias ? m.bias->view() : tensor_view<T, 1>{}});
    return m;
  }
};

/// Hands every layer of one type, adapted_linear<T> or embedding_module<T>, with its path, to a callback.
template <class Layer>
class layer_visitor : public detail::tree_walk<layer_visitor<Layer>> {
 public:
  explicit layer_visitor(function_ref<void(std::string_view path, Layer&)> f) : f_(f) {}

  using T = typename Layer::value_type;
  template <class Member>
  static constexpr bool takes = std::same_as<Member, Layer>;
  template <class Member>
  static constexpr bool ignores = std::derived_from<Member, parameter_base<T>> || std::same_as<Member, any_adapter<T>>;
  void leaf(Layer& layer) { f_(this->path(), layer); }

 private:
  function_ref<void(std::string_view, Layer&)> f_;
};

template <module M>
void visit_layers(M& m, function_ref<void(std::string_view, adapted_linear<typename M::value_type>&)> f) {
  layer_visitor<adapted_linear<typename M::value_type>> v(f);
  v("", m);
}

template <module M>
void visit_embeddings(M& m, function_ref<void(std::string_view, embedding_module<typename M::value_type>&)> f) {
  layer_visitor<embedding_module<typename M::value_type>> v(f);
  v("", m);
}

namespace detail {

/// layer.merged(); when an adapter cannot be merged, the state_error names `what` was asked and the layer.
template <class T>
merged_linear<T> merged(const adapted_linear<T>& layer, std::string_view what, std::string_view path) {
  try {
    return layer.merged();
  } catch (const state_error& e) {
    throw_error<state_error>(what, ": ", path, ": ", e.what());
  }
}

/// Throws state_error, naming it, when an embedding has an adapter of this name: `what` knows of linear layers alone.
template <module M>
void require_plain_embeddings(M& model, std::string_view what, std::string_view name) {
  visit_embeddings(model, [&](std::string_view path, embedding_module<typename M::value_type>& e) {
    for (const auto& a : e.adapters)
      if (a.name == name)
        throw_error<state_error>(what, ": the embedding ", path, " has an adapter named \"", a.name, "\", which is of no linear layer");
  });
}

/// Throws state_error when a table with adapters is the output layer too: looked up and multiplied by, it would be two tables.
template <module M>
void require_own_head(M& model, std::string_view what) {
  if constexpr (requires { model.has_tied_head(); })
    if (model.has_tied_head() && !model.token_embeddings().adapters.empty())
      throw_error<state_error>(what, ": the embedding has an adapter, and its table is the output layer too, which the adapter leaves as it is");
}

}  // namespace detail
}  // namespace graft
