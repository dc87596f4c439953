// SPDX-License-Identifier: Apache-2.0
// Dual adapters: a shared and a local low-rank branch, mixed at the output of a layer by a weight of each sequence.
// Read next: methods/feddpa.hpp for how they are trained in a federation, peft/lora.hpp for a branch.
#pragma once
#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "graft/peft/attach.hpp"
#include "graft/peft/lora.hpp"

namespace graft {

struct dual_options {
  lora_options shared, local;
  double training_mix = 0.5;                  // in [0, 1]: the local branch's share while it is trained beside the frozen shared one
  std::optional<double> local_weight = 0.5;   // in [0, 1]: its share where a batch names none; nothing: batches have to name theirs
  bool detach_frozen = false;                 // cut the input gradient of frozen branches, as the released program of FedDPA does

  void validate() const {
    shared.validate();
    local.validate();
    check_share("training_mix", training_mix);
    if (local_weight) check_share("local_weight", *local_weight);
  }
  static void check_share(std::string_view name, double v) {
    if (!(v >= 0 && v <= 1)) throw_error<option_error>("dual: ", name, " is ", v, ", expected 0 to 1");
  }
};

/// What dual adapters do now. set_phase() changes it for a whole model, and what is trainable with it.
enum class dual_phase {
  train_shared,  // the local branch is absent; the shared one trains
  train_local,   // mixed by training_mix; the local one trains, the shared one is frozen
  local_alone,   // the shared branch is absent; the local one trains
  mixed          // mixed by the batch's local_weights, or else by local_weight; nothing trains
};
constexpr std::string_view name_of(dual_phase p) noexcept {
  constexpr std::string_view names[] = {"train_shared", "train_local", "local_alone", "mixed"};
  return names[static_cast<std::size_t>(p)];
}

namespace detail {

/// Row n of x times factors[n], which must outlive the tape. Saves nothing.
template <class T>
var<T, 2> scale_rows(tape<T>& t, const var<T, 2>& x, std::span<const T> factors) {
  const index_t n = x.shape()[0], c = x.shape()[1];
  const auto rows = [factors, n, c](context& ctx, const T* from, T* to, T beta) {
    ctx.executor().parallel_for(n, 1 + kernel::map_grain / (c + 1), [&](index_t first, index_t last) {
      for (index_t r = first; r < last; ++r)
        for (index_t i = r * c; i < (r + 1) * c; ++i) {
          const T v = factors[static_cast<std::size_t>(r)] * from[i];
          to[i] = beta == T(0) ? v : beta * to[i] + v;
        }
    });
  };
  auto y = t.template empty<2>(x.shape());
  rows(t.ctx(), x.value.data, y.value.data, T(0));
  t.record({"scale_rows", static_cast<std::uint64_t>(n * c)}, y, x.needs_grad(), [rows, xi = x.id](tensor_view<const T, 2> dy, tape<T>& g) {
    const auto to = g.grad(xi, dy.shape);
    rows(g.ctx(), dy.data, to.view.data, to.beta);
  });
  return y;
}

}  // namespace detail

/// y = f(x) + (1 - w) s_g B_g A_g x + w s_l B_l A_l x, with w the local share: of the phase, of the whole batch, or of each sequence;
/// it carries no gradient. Where all of w is 0 or 1 the other branch is not computed, and the result is a single LoRA's to the bit.
/// The input gradient goes through frozen branches too. Dropout acts on branches that train. Starts as the identity, in the phase mixed
/// with both branches trainable. Paths: "shared.lora_A.weight", "shared.lora_B.weight" (tag "shared"), "local.lora_A.weight",
/// "local.lora_B.weight" (tag "local"). Cost: that of two LoRAs, and with weights by sequence a copy of x for each.
/// Source: Yang et al. 2024 (FedDPA).
template <class T>
struct dual {
  using value_type = T;
  lora<T> shared, local;
  dual_options options;
  dual_phase phase = dual_phase::mixed;

  dual(index_t in, index_t out, dual_options o = {}, random_stream random = random_stream{})
      : shared(branch(in, out, (o.validate(), o.shared), random, "shared")), local(branch(in, out, o.local, random, "local")), options(o) {}
  static void visit(auto& self, auto& v) {
    v("shared", self.shared);
    v("local", self.local);
  }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    const share w = local_share(t.batch);
    if (w.each.empty()) {
      if (w.all == 1) return f.ending_in_low_rank(x, input(t, x, local), t.leaf(local.a.weight), t.leaf(local.b.weight), local.options.scale());
      auto y = f.plus_low_rank(x, input(t, x, shared), t.leaf(shared.a.weight), t.leaf(shared.b.weight), (1 - w.all) * shared.options.scale());
      return w.all == 0 ? y : plus_local(t, std::move(y), input(t, x, local), w.all);
    }
    const auto [of_shared, of_local] = row_factors(t, x.shape()[0], w.each);
    const auto d = detail::scale_rows<T>(t, input(t, x, shared), of_shared);
    auto y = f.plus_low_rank(x, d, t.leaf(shared.a.weight), t.leaf(shared.b.weight), shared.options.scale());
    return plus_local(t, std::move(y), detail::scale_rows<T>(t, input(t, x, local), of_local), 1);
  }

  /// W + (1 - w) s_g B_g A_g + w s_l B_l A_l, with the phase's share. Throws state_error in the phase mixed without a local_weight.
  void merge_into(affine<T> w) const {
    const share s = local_share({});
    context serial;
    const auto add = [&](const lora<T>& l, double by) {
      if (by != 0) kernel::matmul_nn<T>(serial, l.b.weight.view(), l.a.weight.matrix(), w.weight, {by * l.options.scale(), 1});
    };
    add(shared, 1 - s.all);
    add(local, s.all);
  }
  std::string describe() const {
    return concat("dual(shared ", shared.describe(), ", local ", local.describe(), ", phase ", name_of(phase), ")");
  }

  /// Starts the local branch anew: A random, B zero. It stays as trainable as it was.
  void renew_local(random_stream random) {
    const bool trained = local.a.weight.trainable();
    local = branch(shared.a.weight.extent()[1], shared.b.weight.extent()[0], options.local, random, "local");
    if (!trained) freeze(local);
  }

 private:
  /// One share for all rows, or one for each sequence.
  struct share {
    double all = 0;
    std::span<const double> each;
  };

  static lora<T> branch(index_t in, index_t out, const lora_options& o, random_stream random, std::string_view tag) {
    lora<T> l(in, out, o, random.substream(tag));
    l.a.weight.tag = l.b.weight.tag = tag;
    return l;
  }

  share local_share(const batch_info& b) const {
    switch (phase) {
      case dual_phase::train_shared: return {0, {}};
      case dual_phase::train_local: return {options.training_mix, {}};
      case dual_phase::local_alone: return {1, {}};
      case dual_phase::mixed: break;
    }
    const auto each = b.local_weights;
    if (each.empty()) {
      if (!options.local_weight)
        throw_error<state_error>("dual: nothing says how to mix: the adapter has no local_weight, and no batch its local_weights");
      return {*options.local_weight, {}};
    }
    if (each.size() != 1 && each.size() + 1 != b.sequence_offsets.size())
      throw_error<shape_error>("dual: ", each.size(), " local_weights, expected 1 or one for each of ",
                               std::max<std::size_t>(b.sequence_offsets.size(), 1) - 1, " sequences");
    for (const double w : each) dual_options::check_share("a batch's local weight", w);
    if (std::ranges::all_of(each, [&](double w) { return w == each.front(); })) return {each.front(), {}};
    return {0, each};
  }

  /// What a branch multiplies: x after its dropout if it trains; x without a gradient if it is frozen and to be detached.
  var<T, 2> input(tape<T>& t, const var<T, 2>& x, const lora<T>& l) const {
    if (l.a.weight.trainable()) return dropout(t, x, l.options.dropout, l.stream);
    return options.detach_frozen ? var<T, 2>{x.value, x.storage, no_node} : x;
  }
  var<T, 2> plus_local(tape<T>& t, var<T, 2> y, const var<T, 2>& d, double by) {
    return add_low_rank(t, std::move(y), d, t.leaf(local.a.weight), t.leaf(local.b.weight), by * local.options.scale());
  }

  /// 1 - w and w for every row, in the tape: by sequence_offsets, or one row a sequence.
  static std::pair<std::span<const T>, std::span<const T>> row_factors(tape<T>& t, index_t rows, std::span<const double> each) {
    const auto offsets = t.batch.sequence_offsets;
    const bool pooled = rows != offsets.back() && rows == std::ssize(each);
    if (!pooled && rows != offsets.back())
      throw_error<shape_error>("dual: ", rows, " rows, but the ", each.size(), " sequences that have local weights are of ", offsets.back(), " rows");
    const auto n = static_cast<std::size_t>(rows);
    const std::span<T> of_shared = t.template keep_room<T>(n), of_local = t.template keep_room<T>(n);
    for (std::size_t s = 0; s < each.size(); ++s) {
      const std::size_t first = pooled ? s : static_cast<std::size_t>(offsets[s]), last = pooled ? s + 1 : static_cast<std::size_t>(offsets[s + 1]);
      for (std::size_t r = first; r < last; ++r) {
        of_shared[r] = static_cast<T>(1 - each[s]);
        of_local[r] = static_cast<T>(each[s]);
      }
    }
    return {of_shared, of_local};
  }
};

/// Dual adapters on the named layers, in the phase train_shared: a federation's first.
template <module M>
index_t attach(M& model, const target_modules& where, const dual_options& dual_o, const attach_options& o = {}) {
  using T = typename M::value_type;
  dual_o.validate();
  return attach(model, where, [&](const adapter_site& s) {
    dual<T> d(s.in, s.out, dual_o, s.random);
    d.phase = dual_phase::train_shared;
    freeze(d.local);
    return d;
  }, o);
}

/// Calls f(path of the layer, dual) for every dual adapter of a model. Throws state_error when it has none.
template <module M, class F>
void each_dual(M& model, F f) {
  using T = typename M::value_type;
  bool any = false;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    for (auto& a : layer.adapters)
      if (auto* d = a.adapter.template get<dual<T>>()) {
        any = true;
        f(path, *d);
      }
  });
  if (!any) throw_error<state_error>("dual: the model has no dual adapters; attach(model, targets, dual_options{}) first");
}

/// Puts all dual adapters of a model into a phase: how branches are mixed, and which are trainable. Nothing else is frozen or
/// unfrozen. Optimisers and replicas made before no longer fit.
template <module M>
void set_phase(M& model, dual_phase p) {
  const auto train = [](auto& branch, bool yes) {
    if (yes) unfreeze(branch);
    else freeze(branch);
  };
  each_dual(model, [&](std::string_view, auto& d) {
    d.phase = p;
    train(d.shared, p == dual_phase::train_shared);
    train(d.local, p == dual_phase::train_local || p == dual_phase::local_alone);
  });
}

/// The local share of the phase mixed where a batch names none: for generation and for merging. Throws option_error outside [0, 1].
template <module M>
void set_local_weight(M& model, std::optional<double> w) {
  if (w) dual_options::check_share("local_weight", *w);
  each_dual(model, [&](std::string_view, auto& d) { d.options.local_weight = w; });
}

/// Starts every local branch anew, each from the stream of its layer's path.
template <module M>
void renew_local(M& model, random_stream random) {
  each_dual(model, [&](std::string_view path, auto& d) { d.renew_local(random.substream(path)); });
}

/// Gives every local branch the shared one's factors. Throws shape_error naming the layer where rank or scale differ; then nothing
/// has changed.
template <module M>
void copy_shared_to_local(M& model) {
  each_dual(model, [](std::string_view path, auto& d) {
    if (d.shared.a.weight.extent() != d.local.a.weight.extent() || d.shared.options.scale() != d.local.options.scale())
      throw_error<shape_error>("copy_shared_to_local: ", path, " has shared rank ", d.shared.options.rank, " with scale ",
                               d.shared.options.scale(), ", local rank ", d.local.options.rank, " with scale ", d.local.options.scale());
  });
  each_dual(model, [](std::string_view, auto& d) {
    d.local.a.weight.assign(d.shared.a.weight.share());
    d.local.b.weight.assign(d.shared.b.weight.share());
  });
}

}  // namespace graft
