// SPDX-License-Identifier: Apache-2.0
// The eager tape: operations compute at once and record how to go back, but only where a trainable leaf asks for it.
// Read next: ops/linear.hpp for how an operation looks, autograd/custom.hpp for one of your own.
#pragma once
#include <algorithm>
#include <cstring>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "graft/autograd/detail/tape_store.hpp"
#include "graft/autograd/var.hpp"
#include "graft/core/context.hpp"
#include "graft/core/random.hpp"
#include "graft/kernel/rounded_row.hpp"

namespace graft {

struct op_info {
  std::string_view name;
  std::uint64_t flops = 0;  // of the forward pass
};

/// What varies from batch to batch and is not a tensor.
struct batch_info {
  bool training = false;  // dropout and gate noise are on
  std::uint64_t step = 0;  // random numbers are keyed by (seed, step, part, path of the module)
  std::span<const index_t> sequence_offsets{};  // which rows belong to one sample: sequence s is [offsets[s], offsets[s + 1])
  std::uint64_t part = 0;  // of a step that takes several batches: their random numbers differ
  std::span<const double> local_weights{};  // share of the local branch of dual adapters: one a sequence, one for all, or none
  std::span<const index_t> routes{};        // which adapter of a routed slot a sequence takes: one a sequence, or none

  /// What random numbers of this batch are keyed by, besides the seed and the module.
  std::uint64_t random_key() const noexcept { return mix(step, part); }
};

/// Whether a tape writes down how to go back; again: for a block that ran before, whose result is known.
enum class recording { on, off, again };

/// Records operations on vars and runs them backwards. Make one for every step: it takes its memory from the context's
/// pool and gives it back, so a repeated step allocates nothing. Gradients are computed once; second derivatives are not
/// supported. No module may be moved and no optimiser stepped between an operation and its backward pass.
template <class T>
class tape {
 public:
  explicit tape(context& c, recording r = recording::on, batch_info b = {})
      : batch(b), store_(c), recording_(r != recording::off), repeats_(r == recording::again) {
    store_.leave_operations();
  }

  context& ctx() noexcept { return store_.ctx(); }
  bool is_recording() const noexcept { return recording_; }
  /// Whether only the way back is wanted, and a last_of_block() may leave out its product: see checkpoint().
  bool is_repeating() const noexcept { return repeats_; }
  node_id nodes() const noexcept { return store_.count(); }

  batch_info batch;  ///< of the batch now in work

  /// A trainable leaf becomes a node; without a slot it is a constant. The elements must outlive the tape.
  template <std::size_t R>
  var<T, R> leaf(tensor_view<const T, R> value, gradient_slot<T>* slot) {
    var<T, R> v = constant(value);
    if (slot == nullptr) return v;
    met_trainable_ = true;
    if (!recording_) return v;
    v.id = add_node(value.shape);
    store_.node(v.id).closure = slot;
    return v;
  }
  /// The same for anything with view() and gradient(): a parameter. Frozen ones make no node and cost nothing.
  template <class P>
  auto leaf(P& p) { return leaf(p.view(), p.gradient()); }

  /// Elements somebody else owns and nobody trains. They must outlive the tape.
  template <std::size_t R>
  var<T, R> constant(tensor_view<const T, R> x) {
    GRAFT_ASSERT(x.contiguous());
    return {{const_cast<T*>(x.data), x.shape}, {}, no_node};
  }
  template <std::size_t R>
  var<T, R> constant(tensor_view<T, R> x) { return constant(tensor_view<const T, R>(x)); }
  template <std::size_t R>
  var<T, R> constant(const tensor<T, R>& x) { return constant(x.view()); }
  template <std::size_t R>
  var<T, R> constant(const tensor<T, R>&& x) = delete;  // it would be gone before the tape

  /// A new value of pooled, uninitialised memory, for an operation to fill.
  template <std::size_t R>
  var<T, R> empty(extents<R> shape) {
    buffer_handle b = ctx().pool().take(checked_bytes(shape, sizeof(T)));
    T* data = reinterpret_cast<T*>(b.data());
    return {{data, shape}, std::move(b), no_node};
  }

  /// x's own memory when nobody else holds it, else new memory of its shape; the contents are kept only in the first case.
  template <std::size_t R>
  var<T, R> reuse(var<T, R>&& x) {
    if (x.storage.unique()) return {x.value, std::move(x.storage), no_node};
    return empty(x.value.shape);
  }

  /// Elements that must live as long as the tape: a copy in its arena.
  template <class E>
  std::span<const E> keep(std::span<const E> elements) {
    const std::span<E> to = keep_room<E>(elements.size());
    if (!elements.empty()) std::memcpy(to.data(), elements.data(), elements.size_bytes());
    return to;
  }
  /// The same for the caller to fill.
  template <class E>
  std::span<E> keep_room(std::size_t count) {
    static_assert(std::is_trivially_copyable_v<E>);
    return {static_cast<E*>(store_.allocate(count * sizeof(E) + 1)), count};
  }

  /// Keeps x for the backward pass of the operation that is recorded next.
  template <std::size_t R>
  tensor_view<const T, R> save(const var<T, R>& x) {
    if (recording_) store_.save(x.storage);
    return x.value;
  }
  template <std::size_t R>
  tensor_view<const T, R> save_if(bool needed, const var<T, R>& x) {
    return needed ? save(x) : tensor_view<const T, R>{};
  }

  /// The same for an operation that asks value() for x in its backward pass. Where x is cheap to compute again from what the tape
  /// keeps anyway, nothing is kept; where the context says so, a large x is kept in fewer bits. Then value() makes it, once for all that ask.
  template <std::size_t R>
  retained<T, R> retain(const var<T, R>& x) {
    if (recording_ && (can_make_again(x) || keep_rounded(x))) return {{nullptr, x.value.shape}, x.id};
    return {save(x), no_node};
  }
  template <std::size_t R>
  retained<T, R> retain_if(bool needed, const var<T, R>& x) {
    return needed ? retain(x) : retained<T, R>{};
  }
  /// Whether value() will read x from memory, in full or in fewer bits. What is computed from such an x is cheap to compute again; from others
  /// it would take a chain of operations.
  template <std::size_t R>
  bool is_kept(const retained<T, R>& x) {
    return x.maker == no_node || store_.node(x.maker).again->rounded;
  }
  /// What retain() promised.
  template <std::size_t R>
  tensor_view<const T, R> value(const retained<T, R>& x) {
    if (x.maker == no_node) return x.view;
    detail::tape_node& n = store_.node(x.maker);
    buffer_handle& value = n.again->value;
    if (!value) {
      value = ctx().pool().take(checked_bytes(x.view.shape, sizeof(T)));
      n.again->fill(n, this, value.data());
    }
    return {reinterpret_cast<const T*>(value.data()), x.view.shape};
  }

  /// Makes `out` a node when any input needs a gradient. f(dy, tape) runs in the backward pass: it captures views and node
  /// ids by value, never a var, and asks grad() where to put its results.
  template <std::size_t R, class F>
  void record(op_info op, var<T, R>& out, bool any_input_needs_grad, F f) {
    if (detail::tape_node* n = add_operation(op, out, any_input_needs_grad)) n->run = keep_closure<R>(*n, f);
  }
  /// The same for an operation that needs its own result to go back, which is retained: f(dy, y, tape).
  template <std::size_t R, class F>
  void record_with_result(op_info op, var<T, R>& out, bool any_input_needs_grad, F f) {
    detail::tape_node* n = add_operation(op, out, any_input_needs_grad);
    if (n == nullptr) return;
    const auto y = retain(out);
    store_.keep_pending(*n);
    n->run = keep_closure<R>(*n, [f, y](tensor_view<const T, R> dy, tape& t) { f(dy, t.value(y), t); });
  }
  /// The same as record() for a value that is cheap to compute again from what was saved for f: again(y, tape) fills y, with the same bits.
  /// `possible` is false where not all of that was saved.
  template <std::size_t R, class F, class Again>
  void record(op_info op, var<T, R>& out, bool any_input_needs_grad, F f, Again again, bool possible = true) {
    struct both {
      F f;
      Again again;
      void operator()(tensor_view<const T, R> dy, tape& t) { f(dy, t); }
    };
    detail::tape_node* n = add_operation(op, out, any_input_needs_grad);
    if (n == nullptr) return;
    n->run = keep_closure<R>(*n, both{f, again});
    if (!possible) return;
    const auto fill = [](detail::tape_node& self, void* t, void* to) {
      static_cast<both*>(self.closure)->again(tensor_view<T, R>(static_cast<T*>(to), leading<R>(self.shape)), *static_cast<tape*>(t));
    };
    n->again = ::new (store_.allocate(sizeof(detail::repeatable))) detail::repeatable{fill, out.value.data, {}, {}};
  }

  /// Where to put a gradient of the value with this node id: every element must be written, as the accumulator says.
  template <std::size_t R>
  accumulator<T, R> grad(node_id id, extents<R> shape) {
    detail::tape_node& n = store_.node(id);
    if (n.is_leaf()) {
      auto& slot = *static_cast<gradient_slot<T>*>(n.closure);
      return {{slot.data, shape}, std::exchange(slot.written, true) ? T(1) : T(0)};
    }
    if (!n.gradient) {
      n.gradient = ctx().pool().take(checked_bytes(shape, sizeof(T)));
      return {{reinterpret_cast<T*>(n.gradient.data()), shape}, T(0)};
    }
    if (!n.gradient.unique()) {  // shared by pass_grad: whoever adds to it takes a copy first
      const buffer_handle shared = std::exchange(n.gradient, ctx().pool().take(checked_bytes(shape, sizeof(T))));
      std::memcpy(n.gradient.data(), shared.data(), checked_bytes(shape, sizeof(T)));
    }
    return {{reinterpret_cast<T*>(n.gradient.data()), shape}, T(1)};
  }

  /// Hands the gradient now in work on unchanged, without a copy where nothing arrived before.
  template <std::size_t R>
  void pass_grad(node_id id, tensor_view<const T, R> dy) {
    detail::tape_node& n = store_.node(id);
    if (!n.is_leaf() && !n.gradient) {
      n.gradient = store_.node(running_).gradient;
      return;
    }
    auto to = grad(id, dy.shape);
    for (index_t i = 0; i < dy.size(); ++i) to.view.data[i] = to.beta == T(0) ? dy.data[i] : to.view.data[i] + dy.data[i];
  }

  /// Runs the recorded operations from the newest to the oldest. Each node's buffers go back to the pool as soon as it
  /// has run. `seed` is the gradient of the loss itself. Throws state_error when the loss depends on nothing trainable.
  void backward(const var<T, 0>& loss, T seed = T(1)) {
    require_node(loss.id);
    *grad(loss.id, extents<0>{}).view.data = seed;
    sweep();
  }
  /// The same from any value whose gradient is known.
  template <std::size_t R>
  void backward(const var<T, R>& y, tensor_view<const T, R> dy) {
    require_node(y.id);
    auto to = grad(y.id, dy.shape);
    for (index_t i = 0; i < dy.size(); ++i) to.view.data[i] = to.beta == T(0) ? dy.data[i] : to.view.data[i] + dy.data[i];
    sweep();
  }

  /// Names the module whose operations follow, for the meter, until the scope ends.
  class scope_guard {
   public:
    scope_guard(detail::tape_store& s, std::string_view name) : store_(s), before_(s.enter(name)) {}
    scope_guard(const scope_guard&) = delete;
    ~scope_guard() { store_.leave(before_); }

   private:
    detail::tape_store& store_;
    std::size_t before_;
  };
  [[nodiscard]] scope_guard scope(std::string_view name) { return {store_, name}; }
  /// "layers.3"
  [[nodiscard]] scope_guard scope(std::string_view name, index_t number) {
    if (ctx().cost == nullptr) return {store_, name};
    return {store_, concat(name, '.', number)};
  }
  std::string_view path() const noexcept { return store_.path(); }

  /// Runs f without recording, and tells whether a trainable leaf was met meanwhile. For checkpoint().
  template <class F>
  bool without_recording(F f) {
    const bool before = std::exchange(recording_, false), repeated = std::exchange(repeats_, false), met_before = std::exchange(met_trainable_, false);
    f();
    recording_ = before;
    repeats_ = repeated;
    const bool met = met_trainable_;
    met_trainable_ = met || met_before;
    return met;
  }

 private:
  template <std::size_t R>
  node_id add_node(const extents<R>& shape) {
    const node_id id = store_.add_node();
    for (std::size_t i = 0; i < R; ++i) store_.node(id).shape[i] = shape[i];
    return id;
  }
  template <std::size_t R>
  static extents<R> leading(const extents<max_rank>& shape) {
    extents<R> s{};
    for (std::size_t i = 0; i < R; ++i) s[i] = shape[i];
    return s;
  }
  /// The new node of an operation, with what was saved for it; null where nothing is recorded.
  template <std::size_t R>
  detail::tape_node* add_operation(const op_info& op, var<T, R>& out, bool any_input_needs_grad) {
    const bool recorded = recording_ && any_input_needs_grad;
    const meter::place at = store_.finish_forward(op.name, op.flops, recorded);
    if (!recorded) {
      store_.drop_pending();
      return nullptr;
    }
    out.id = add_node(out.value.shape);
    detail::tape_node& n = store_.node(out.id);
    n.place = at;
    store_.keep_pending(n);
    return &n;
  }
  template <std::size_t R, class F>
  auto keep_closure(detail::tape_node& n, const F& f) {
    static_assert(std::is_trivially_destructible_v<F>, "graft: a backward function captures views and numbers, not owners");
    n.closure = ::new (store_.allocate(sizeof(F))) F(f);
    return [](detail::tape_node& self, void* t) {
      (*static_cast<F*>(self.closure))(tensor_view<const T, R>(reinterpret_cast<const T*>(self.gradient.data()), leading<R>(self.shape)),
                                       *static_cast<tape*>(t));
    };
  }
  /// Whether x is a value, and the whole of it, whose node knows how to compute it again.
  template <std::size_t R>
  bool can_make_again(const var<T, R>& x) {
    if (x.id == no_node) return false;
    const detail::tape_node& n = store_.node(x.id);
    return n.again != nullptr && n.again->first == x.value.data && leading<R>(n.shape) == x.value.shape;
  }
  /// Keeps x in blocks of 16-bit integers, if the context says so, x is a node's value as the node made it, and large.
  template <std::size_t R>
  bool keep_rounded(const var<T, R>& x) {
    if constexpr (!std::is_same_v<T, float>) {
      return false;
    } else {
      constexpr index_t large = 1024;
      if (ctx().saved != saved_precision::int16 || x.id == no_node || !x.storage || x.value.size() < large) return false;
      detail::tape_node& n = store_.node(x.id);
      if (n.again != nullptr || leading<R>(n.shape) != x.value.shape) return false;
      const auto blocks = static_cast<std::size_t>(kernel::rounded_blocks(x.value.size()));
      buffer_handle rounded = ctx().pool().take(blocks * sizeof(kernel::rounded_block));
      kernel::round_to_blocks<T>(ctx(), x.value.size(), x.value.data, reinterpret_cast<kernel::rounded_block*>(rounded.data()));
      store_.save(rounded);
      const auto fill = [](detail::tape_node& self, void* t, void* to) {
        const auto* from = reinterpret_cast<const kernel::rounded_block*>(self.again->rounded.data());
        const tensor_view<T, R> all(static_cast<T*>(to), leading<R>(self.shape));
        kernel::values_of_blocks<T>(static_cast<tape*>(t)->ctx(), all.size(), from, all.data);
      };
      n.again = ::new (store_.allocate(sizeof(detail::repeatable))) detail::repeatable{fill, x.value.data, std::move(rounded), {}};
      return true;
    }
  }
  void require_node(node_id id) const {
    if (id == no_node) throw_error<state_error>("backward: the loss depends on no trainable parameter");
    if (swept_) throw_error<state_error>("backward: this tape has run already; its buffers are gone");
  }
  void sweep() {
    swept_ = true;
    store_.leave_operations();
    for (running_ = store_.count(); running_-- > 0;) {
      detail::tape_node& n = store_.node(running_);
      if (n.run != nullptr && n.gradient) {
        n.run(n, this);
        store_.finish_backward(n);
      }
      store_.release_saved(n);
      n.gradient = {};
    }
  }

  detail::tape_store store_;
  node_id running_ = no_node;
  bool recording_, repeats_;
  bool met_trainable_ = false, swept_ = false;
};

}  // namespace graft
