// SPDX-License-Identifier: Apache-2.0
// Many LoRA adapters over one frozen model: chosen by sequence within a batch, exchanged while other threads compute.
// Read next: io/adapter_registry.hpp for adapters in files, kernel/routed_low_rank.hpp for the sums.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/kernel/routed_low_rank.hpp"
#include "graft/peft/attach.hpp"
#include "graft/peft/lora.hpp"

namespace graft {

/// A LoRA adapter as it is served: its factors where they lie, and what keeps them there. Not yet bound to a model.
template <class T>
struct served_adapter {
  struct factors {
    std::string layer;            // path
    tensor_view<const T, 2> a;    // (R, in), contiguous
    tensor_view<const T, 2> b;    // (out, R), contiguous
    double scale = 1;
  };
  std::vector<factors> layers;
  std::shared_ptr<const void> owner;  // of all factors: heap blocks, a mapped file
};

/// An immutable set of adapters for one model, numbered from 0. Weights, scale and ranks of an adapter are one thing: they change
/// together or not at all. A changed set is a new bank, which shares what did not change: a pointer an adapter, no weights.
template <class T>
class adapter_bank {
 public:
  using pointer = std::shared_ptr<const adapter_bank>;
  struct layer {
    std::string path;
    index_t in, out;
  };
  /// What an adapter has at a layer; without factors it is the base there.
  struct part {
    const T *a = nullptr, *b = nullptr;
    index_t rank = 0;
    double scale = 0;
  };

  /// Of no adapters, for these layers. serve() makes it for a model.
  explicit adapter_bank(std::vector<layer> layers) : layers_(std::make_shared<layer_list>(std::move(layers))) {}

  index_t size() const noexcept { return static_cast<index_t>(adapters_.size()); }
  const std::string& name(index_t number) const { return adapters_[static_cast<std::size_t>(number)]->name; }
  /// The number of the adapter of this name, to route by; -1 when there is none.
  index_t find(std::string_view name) const {
    for (std::size_t i = 0; i < adapters_.size(); ++i)
      if (adapters_[i]->name == name) return static_cast<index_t>(i);
    return -1;
  }
  /// What batches without routes take; -1: the base alone.
  index_t standard() const noexcept { return standard_; }
  const std::vector<layer>& layers() const noexcept { return layers_->all; }
  /// What an adapter has at the layer of this number.
  const part& at(index_t of_adapter, index_t at_layer) const {
    return adapters_[static_cast<std::size_t>(of_adapter)]->parts[static_cast<std::size_t>(at_layer)];
  }
  /// Whether both are for the same layers.
  bool fits(const adapter_bank& o) const {
    return layers_ == o.layers_ || std::ranges::equal(layers(), o.layers(), [](const layer& a, const layer& b) {
             return a.path == b.path && a.in == b.in && a.out == b.out;
           });
  }

  /// With one more adapter, behind the others; or in the place, and under the number, of the one that has the name. Cost: the
  /// adapter's layers, and a pointer for each other adapter. Throws option_error for a layer the model does not serve, twice the same or none at all, and for
  /// a scale that is not finite; shape_error for factors that do not fit the layer.
  pointer with(std::string name, const served_adapter<T>& a) const {
    auto next = std::make_shared<adapter_bank>(*this);
    const index_t place = find(name);
    auto made = std::make_shared<const adapter>(bind(std::move(name), a));
    if (place < 0) next->adapters_.push_back(std::move(made));
    else next->adapters_[static_cast<std::size_t>(place)] = std::move(made);
    return next;
  }
  /// Without one: those behind it move up by one number, and batches without routes take the base if it was the standard. Throws
  /// option_error when there is no such adapter.
  pointer without(std::string_view name) const {
    const index_t place = require(name);
    auto next = std::make_shared<adapter_bank>(*this);
    next->adapters_.erase(next->adapters_.begin() + place);
    if (standard_ == place) next->standard_ = -1;
    else if (standard_ > place) --next->standard_;
    return next;
  }
  /// With this adapter as the one that batches without routes take. Throws option_error when there is no such adapter.
  pointer with_standard(std::string_view name) const {
    auto next = std::make_shared<adapter_bank>(*this);
    next->standard_ = require(name);
    return next;
  }

 private:
  struct adapter {
    std::string name;
    std::vector<part> parts;  // one a layer of the model
    std::shared_ptr<const void> owner;
  };
  struct layer_list {
    explicit layer_list(std::vector<layer> l) : all(std::move(l)) {
      for (std::size_t i = 0; i < all.size(); ++i) number.emplace(all[i].path, i);
    }
    std::vector<layer> all;
    std::map<std::string, std::size_t, std::less<>> number;  // by path
  };

  index_t require(std::string_view name) const {
    const index_t place = find(name);
    if (place < 0) throw_error<option_error>("adapter_bank: there is no adapter \"", name, "\" among ", size());
    return place;
  }

  adapter bind(std::string name, const served_adapter<T>& from) const {
    adapter to{std::move(name), std::vector<part>(layers().size()), from.owner};
    if (from.layers.empty()) throw_error<option_error>("adapter_bank: adapter \"", to.name, "\" has no layers");
    for (const auto& f : from.layers) {
      const auto found = layers_->number.find(f.layer);
      if (found == layers_->number.end())
        throw_error<option_error>("adapter_bank: adapter \"", to.name, "\" has factors for ", f.layer, ", which is none of the ", layers().size(),
                                  " layers the model serves");
      const layer& l = layers()[found->second];
      part& p = to.parts[found->second];
      if (p.a != nullptr) throw_error<option_error>("adapter_bank: adapter \"", to.name, "\" has factors for ", f.layer, " twice");
      const index_t rank = f.a.shape[0];
      if (rank < 1 || f.a.shape != extents<2>{rank, l.in} || f.b.shape != extents<2>{l.out, rank})
        throw_error<shape_error>("adapter_bank: adapter \"", to.name, "\" has factors of shapes ", to_string(f.a.shape), " and ", to_string(f.b.shape),
                                 " for ", f.layer, ", expected (R, ", l.in, ") and (", l.out, ", R)");
      if (!std::isfinite(f.scale))
        throw_error<option_error>("adapter_bank: adapter \"", to.name, "\" has scale ", f.scale, " at ", f.layer, ", expected a finite number");
      GRAFT_ASSERT(f.a.contiguous() && f.b.contiguous());
      p = {f.a.data, f.b.data, rank, f.scale};
    }
    return to;
  }

  std::shared_ptr<const layer_list> layers_;
  std::vector<std::shared_ptr<const adapter>> adapters_;
  index_t standard_ = -1;
};

/// The adapter that serves: y[rows] = f(x)[rows] + scale (x[rows] A^T) B^T, with factors and scale of the adapter that the rows' sequence
/// takes. The batch's routes say which, one number a sequence, -1 for the base alone; a batch without routes takes the bank's
/// standard. The base's product is one for all rows. Where all sequences take the same adapter the result is a plain LoRA's to the
/// bit. For inference: it has no parameters, and throws state_error when a gradient is asked for. Nothing is allocated once its like has run.
/// Throws option_error for a route the bank has not, shape_error when routes do not fit the sequences, or these the rows.
template <class T>
struct served_lora {
  using value_type = T;
  std::shared_ptr<const adapter_bank<T>> bank;
  index_t layer;  // of the bank

  static void visit(auto&, auto&) {}

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    const auto routes = t.batch.routes;
    const index_t rows = x.shape()[0];
    check_routes(t.batch, rows);
    if (routes.empty()) return alike(t, x, f, bank->standard());
    if (std::ranges::all_of(routes, [&](index_t r) { return r == routes.front(); })) return alike(t, x, f, routes.front());
    var<T, 2> y = without_gradient(f(x));
    const tensor_view<const T, 2> from = y.value;
    auto z = t.reuse(std::move(y));
    if (z.value.data != from.data) std::copy_n(from.data, from.size(), z.value.data);
    const plan p = plan_terms(t, rows);
    kernel::routed_low_rank<T>(t.ctx(), x.value, p.terms, z.value);
    t.record({"routed_low_rank", p.flops}, z, false, [](tensor_view<const T, 2>, tape<T>&) {});
    return z;
  }

  /// The standard adapter's change. Throws state_error when there are adapters but no standard one.
  void merge_into(affine<T> w) const {
    if (bank->size() != 0 && bank->standard() < 0)
      throw_error<state_error>("served_lora: sequences choose among ", bank->size(), " adapters; name a standard one to merge");
    const auto* p = part_of(bank->standard());
    if (p == nullptr) return;
    context serial;
    const auto [a, b] = factors(*p);
    kernel::matmul_nn<T>(serial, b, a, w.weight, {p->scale, 1});
  }
  std::string describe() const { return concat("served_lora(", bank->size(), " adapters)"); }

 private:
  using part = typename adapter_bank<T>::part;
  using term = kernel::routed_term<T>;

  /// What the kernel is to do, in memory of the pool.
  struct plan {
    buffer_handle memory;
    std::span<const term> terms;
    std::uint64_t flops = 0;
  };

  const auto& site() const { return bank->layers()[static_cast<std::size_t>(layer)]; }
  /// Null where the adapter is the base.
  const part* part_of(index_t adapter) const {
    if (adapter < 0) return nullptr;
    const part& p = bank->at(adapter, layer);
    return p.a == nullptr ? nullptr : &p;
  }
  std::pair<tensor_view<const T, 2>, tensor_view<const T, 2>> factors(const part& p) const {
    return {{p.a, {p.rank, site().in}}, {p.b, {site().out, p.rank}}};
  }
  var<T, 2> without_gradient(var<T, 2> y) const {
    if (y.needs_grad())
      throw_error<state_error>("served_lora: ", site().path, " serves adapters and takes no part in training; use a tape that does not record");
    return y;
  }

  /// All rows by one adapter.
  var<T, 2> alike(tape<T>& t, const var<T, 2>& x, const linear_map<T>& f, index_t adapter) const {
    const part* p = part_of(adapter);
    if (p == nullptr) return without_gradient(f(x));
    const auto [a, b] = factors(*p);
    return without_gradient(f.plus_low_rank(x, x, t.constant(a), t.constant(b), p->scale));
  }

  void check_routes(const batch_info& b, index_t rows) const {
    const auto routes = b.routes;
    if (routes.empty()) return;
    if (routes.size() + 1 != b.sequence_offsets.size())
      throw_error<shape_error>("served_lora: ", routes.size(), " routes, expected one for each of ",
                               std::max<std::size_t>(b.sequence_offsets.size(), 1) - 1, " sequences");
    if (rows != b.sequence_offsets.back() && rows != std::ssize(routes))
      throw_error<shape_error>("served_lora: ", rows, " rows, but the ", routes.size(), " sequences that have routes are of ",
                               b.sequence_offsets.back(), " rows");
    for (std::size_t s = 0; s < routes.size(); ++s)
      if (routes[s] < -1 || routes[s] >= bank->size())
        throw_error<option_error>("served_lora: route ", routes[s], " of sequence ", s, ", expected -1, for the base, to ", bank->size() - 1);
  }

  /// The rows of every adapter that has this layer: by sequence_offsets, or one row a sequence.
  plan plan_terms(tape<T>& t, index_t rows) const {
    const auto routes = t.batch.routes, offsets = t.batch.sequence_offsets;
    const bool pooled = rows != offsets.back();
    const std::size_t n = routes.size();
    plan p{t.ctx().pool().take(n * sizeof(term) + (n + static_cast<std::size_t>(rows)) * sizeof(index_t)), {}};
    term* const terms = reinterpret_cast<term*>(p.memory.data());
    const std::span<index_t> order(reinterpret_cast<index_t*>(terms + n), n);  // sequences of one adapter beside one another
    std::iota(order.begin(), order.end(), index_t{0});
    std::ranges::sort(order, {}, [&](index_t s) { return std::pair(routes[static_cast<std::size_t>(s)], s); });
    index_t* next = order.data() + n;
    std::size_t count = 0;
    for (std::size_t i = 0; i < n;) {
      const index_t adapter = routes[static_cast<std::size_t>(order[i])];
      index_t* const first = next;
      for (; i < n && routes[static_cast<std::size_t>(order[i])] == adapter; ++i) {
        const auto s = static_cast<std::size_t>(order[i]);
        const index_t begin = pooled ? order[i] : offsets[s], end = pooled ? order[i] + 1 : offsets[s + 1];
        for (index_t row = begin; row < end; ++row) *next++ = row;
      }
      const part* found = part_of(adapter);
      if (found == nullptr || next == first) {
        next = first;
        continue;
      }
      const auto [a, b] = factors(*found);
      ::new (terms + count++) term{a, b, found->scale, {first, next}};
      p.flops += detail::product_flops(next - first, found->rank, site().in + site().out);
    }
    p.terms = {terms, count};
    return p;
  }
};

/// Puts a served_lora into the slot of every layer the targets name, outermost, and freezes the model. Returns their bank, still
/// without adapters. Throws option_error as attach() does, state_error when the model serves already.
template <module M>
std::shared_ptr<const adapter_bank<typename M::value_type>> serve(M& model, const target_modules& where, const attach_options& o = {.name = "served"}) {
  using T = typename M::value_type;
  std::vector<typename adapter_bank<T>::layer> layers;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& l) {
    for (const auto& a : l.adapters)
      if (a.adapter.template get<served_lora<T>>() != nullptr) throw_error<state_error>("serve: ", path, " serves adapters already");
    if (where.matches(path)) layers.push_back({std::string(path), l.inputs(), l.outputs()});
  });
  const auto bank = std::make_shared<const adapter_bank<T>>(std::move(layers));
  attach(model, where, [&, next = index_t{0}](const adapter_site&) mutable { return served_lora<T>{bank, next++}; }, o);
  return bank;
}

/// Makes a model serve a bank's adapters: between its passes, by the thread that runs them, so that all layers of a pass see one
/// bank. Threads have models of their own, which replicate() makes and which share the base. Cost: a pointer a layer. Throws
/// state_error when the model serves none, option_error when the bank is for other layers; then nothing has changed.
template <module M>
void use(M& model, std::shared_ptr<const adapter_bank<typename M::value_type>> bank) {
  using T = typename M::value_type;
  index_t slots = 0;
  const auto each = [&](auto f) {
    visit_layers(model, [&](std::string_view path, adapted_linear<T>& l) {
      for (auto& a : l.adapters)
        if (auto* s = a.adapter.template get<served_lora<T>>()) f(path, *s);
    });
  };
  each([&](std::string_view path, const served_lora<T>& s) {
    ++slots;
    if (bank == nullptr || !bank->fits(*s.bank))
      throw_error<option_error>("use: the bank is for other layers than those the model serves, ", path, " among them");
  });
  if (slots == 0) throw_error<state_error>("use: the model serves no adapters; serve(model, targets) first");
  each([&](std::string_view, served_lora<T>& s) { s.bank = bank; });
}

/// The LoRA adapter attached to a model under this name, ready for a bank of it or of another model of its shape. Frozen factors are
/// shared; trainable ones, and those stored in another type, are copied. Throws state_error when there is none, or where it
/// is of another kind.
template <module M>
served_adapter<typename M::value_type> attached_adapter(M& model, std::string_view name = "default") {
  using T = typename M::value_type;
  served_adapter<T> made;
  const auto kept = std::make_shared<std::vector<frozen_array>>();
  const auto keep = [&](const parameter<T, 2>& p) {
    frozen_array values = p.share();
    if (!values.template holds<T>()) values = frozen_array(values.template to_tensor<T, 2>());
    return kept->emplace_back(std::move(values)).template view<T, 2>();
  };
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& l) {
    const auto a = std::ranges::find(l.adapters, name, &named_adapter<T>::name);
    if (a == l.adapters.end()) return;
    const auto* low_rank = a->adapter.template get<lora<T>>();
    if (low_rank == nullptr)
      throw_error<state_error>("attached_adapter: the adapter of ", path, " is ", a->adapter.describe(), ", only LoRA is served; convert it");
    made.layers.push_back({std::string(path), keep(low_rank->a.weight), keep(low_rank->b.weight), low_rank->options.scale()});
  });
  if (made.layers.empty()) throw_error<state_error>("attached_adapter: the model has no adapter named \"", name, "\"");
  made.owner = kept;
  return made;
}

/// Where one thread publishes banks and others take the newest. A bank changes hands whole; whoever still computes with an old one
/// keeps it alive. All members may be called from any thread.
template <class T>
class adapter_switch {
 public:
  using pointer = std::shared_ptr<const adapter_bank<T>>;

  explicit adapter_switch(pointer first) : bank_(std::move(first)) {}

  void publish(pointer next) {
    {
      const std::lock_guard lock(mutex_);
      bank_.swap(next);
      version_.fetch_add(1, std::memory_order_release);
    }  // the old one, if nobody else has it, goes here
  }
  /// The lock is held for the copy of a pointer.
  pointer current() const {
    const std::lock_guard lock(mutex_);
    return bank_;
  }
  /// How often was published: ask before current(), which is this version's bank or a newer one. Takes no lock.
  std::uint64_t version() const noexcept { return version_.load(std::memory_order_acquire); }

 private:
  mutable std::mutex mutex_;
  pointer bank_;
  std::atomic<std::uint64_t> version_{0};
};

}  // namespace graft
