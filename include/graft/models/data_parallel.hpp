// SPDX-License-Identifier: Apache-2.0
// A batch cut into micro-batches that threads work on side by side: less to wait for, and activations that stay in cache.
// Read next: core/worker_list.hpp, models/memory_plan.hpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/autograd/tape.hpp"
#include "graft/core/worker_list.hpp"
#include "graft/kernel/elementwise.hpp"
#include "graft/nn/batch.hpp"
#include "graft/nn/filter.hpp"

namespace graft {

struct data_parallel_options {
  index_t micro_batch = 0;           // sequences, >= 0; 0: as many neighbours as have micro_batch_tokens together, at least one
  index_t micro_batch_tokens = 512;  // >= 1; more leave the caches, fewer read the weights more often
  index_t replicas = 8;              // most of them, >= 1: as many threads have work

  void validate() const {
    if (micro_batch < 0) throw_error<option_error>("data_parallel: micro_batch is ", micro_batch, ", expected 0 or more");
    if (micro_batch_tokens < 1) throw_error<option_error>("data_parallel: micro_batch_tokens is ", micro_batch_tokens, ", expected 1 or more");
    if (replicas < 1) throw_error<option_error>("data_parallel: replicas is ", replicas, ", expected 1 or more");
  }
};

/// One tape over a batch: its loss times `weight`, whose gradients are added to the model's.
template <module M>
double loss_and_gradients(context& ctx, M& model, const token_batch& batch, batch_info info = {.training = true}, double weight = 1) {
  using T = typename M::value_type;
  tape<T> t(ctx, recording::on, info);
  const auto loss = model.loss(t, batch);
  t.backward(loss, static_cast<T>(weight));
  return weight * static_cast<double>(loss.item());
}

/// Losses and gradients of a model, micro-batch by micro-batch. Where one tape runs all its operations one after another,
/// each on every thread, here each thread runs whole micro-batches. Every replica, of which the model is the first, takes an equal
/// run of neighbours; their gradients are added in order, so results depend on the options and not on the number of threads. They
/// are those of one tape over the whole batch, rounded otherwise; dropout draws for every micro-batch anew. With one replica, one
/// thread, or more threads than replicas keep busy, micro-batches follow one another and all threads share every operation.
/// Memory: activations of one micro-batch a thread, and values and gradients of what is trainable for every further replica at
/// work; frozen values are shared. A step allocates nothing once its like has run before.
/// Of local_weights and routes, which have one entry a sequence, every micro-batch takes its own.
template <module M>
class data_parallel {
 public:
  using value_type = typename M::value_type;

  /// The model and the context must outlive this; what is trainable must stay so.
  data_parallel(context& ctx, M& model, data_parallel_options o = {}) : ctx_(ctx), model_(model), parameters_(trainable(model)), options_(o) {
    o.validate();
  }

  /// The mean loss over the batch's counted labels. Its gradients are added to the model's, for an optimiser of the model.
  /// A meter of the context hears of one operation, "data_parallel", or everything where micro-batches follow one another.
  /// Throws shape_error when local_weights are not none, one, or one a sequence, and routes not none or one a sequence.
  double loss_and_gradients(const token_batch& batch, batch_info info = {.training = true}) {
    const auto check = [&](std::string_view what, std::size_t entries) {
      if (std::cmp_not_equal(entries, batch.sequences()))
        throw_error<shape_error>("data_parallel: ", entries, " ", what, " for ", batch.sequences(), " sequences");
    };
    if (info.local_weights.size() > 1) check("local_weights", info.local_weights.size());
    if (!info.routes.empty()) check("routes", info.routes.size());
    split(batch);
    const index_t used = std::min<index_t>(std::ssize(parts_), options_.replicas), threads = ctx_.executor().concurrency();
    losses_.assign(static_cast<std::size_t>(used), 0.0);
    const bool keeps_threads_busy = 4 * used >= 3 * threads;
    if (used > 1 && threads > 1 && keeps_threads_busy) side_by_side(info);
    else one_after_another(info);
    return std::accumulate(losses_.begin(), losses_.end(), 0.0);
  }

 private:
  using T = value_type;
  struct replica {
    explicit replica(const M& m) : model(replicate(m)), parameters(trainable(model)) {}
    M model;
    std::vector<parameter_ref<T>> parameters;
  };
  struct part {
    token_batch batch;
    index_t first = 0;  // its first sequence in the whole batch
    double weight = 0;  // its share of the counted labels
  };

  /// Where the micro-batch that begins at this sequence ends.
  index_t end_of_part(const token_batch& batch, index_t first) const {
    const index_t sequences = batch.sequences();
    if (options_.micro_batch > 0) return std::min(sequences, first + options_.micro_batch);
    const auto offset = [&](index_t s) { return batch.offsets[static_cast<std::size_t>(s)]; };
    index_t last = first + 1;
    while (last < sequences && offset(last + 1) - offset(first) <= options_.micro_batch_tokens) ++last;
    return last;
  }

  void split(const token_batch& batch) {
    const auto counted = [](const token_batch& b) { return static_cast<double>(std::ssize(b.labels) - std::ranges::count(b.labels, kernel::ignored_label)); };
    const double all = std::max(1.0, counted(batch));
    std::size_t parts = 0;
    for (index_t first = 0; first < batch.sequences();) {
      if (++parts > parts_.size()) parts_.emplace_back();
      part& p = parts_[parts - 1];
      p.first = std::exchange(first, end_of_part(batch, first));
      p.batch.assign_sequences(batch, p.first, first);
      p.weight = counted(p.batch) / all;
    }
    parts_.resize(parts);
  }

  /// Each share of the micro-batches in a replica of its own, on a thread of its own.
  void side_by_side(const batch_info& info) {
    const metered_work work(ctx_.cost, "data_parallel");
    const index_t used = std::ssize(losses_);
    make_replicas(used - 1);
    ctx_.executor().parallel_for(used, 1, [&](index_t r, index_t) {
      const auto ctx = contexts_.take([] { return context(); });
      ctx->seed = ctx_.seed;
      ctx->products = ctx_.products;
      ctx->saved = ctx_.saved;
      run_share(*ctx, r == 0 ? model_ : renewed(*replicas_[static_cast<std::size_t>(r) - 1]), r, info);
    });
    for (index_t r = 1; r < used; ++r) add_gradients(*replicas_[static_cast<std::size_t>(r) - 1]);
  }

  /// The same sums in the same order: one replica takes all shares but the first, one by one.
  void one_after_another(const batch_info& info) {
    const index_t used = std::ssize(losses_);
    if (used > 0) run_share(ctx_, model_, 0, info);
    if (used < 2) return;
    make_replicas(1);
    replica& spare = *replicas_.front();
    renew_values(spare);
    for (index_t r = 1; r < used; ++r) {
      run_share(ctx_, emptied(spare), r, info);
      add_gradients(spare);
    }
  }

  void make_replicas(index_t count) {
    while (std::ssize(replicas_) < count) replicas_.push_back(std::make_unique<replica>(model_));
  }

  /// Gives a replica the values of now.
  void renew_values(replica& r) {
    for (std::size_t i = 0; i < parameters_.size(); ++i)
      std::ranges::copy(std::as_const(*parameters_[i].parameter).value(), r.parameters[i].parameter->value().begin());
  }
  M& emptied(replica& r) {
    for (auto& p : r.parameters) p.parameter->clear_gradient();
    return r.model;
  }
  M& renewed(replica& r) {
    renew_values(r);
    return emptied(r);
  }

  /// The micro-batches of share r, one after another.
  void run_share(context& ctx, M& model, index_t r, const batch_info& whole) {
    const index_t parts = std::ssize(parts_), shares = std::ssize(losses_);
    double loss = 0;
    batch_info info = whole;
    for (index_t i = parts * r / shares; i < parts * (r + 1) / shares; ++i) {
      const part& p = parts_[static_cast<std::size_t>(i)];
      const auto begin = static_cast<std::size_t>(p.first), count = static_cast<std::size_t>(p.batch.sequences());
      if (whole.local_weights.size() > 1) info.local_weights = whole.local_weights.subspan(begin, count);
      if (!whole.routes.empty()) info.routes = whole.routes.subspan(begin, count);
      info.part = static_cast<std::uint64_t>(i);
      loss += graft::loss_and_gradients(ctx, model, p.batch, info, p.weight);
    }
    losses_[static_cast<std::size_t>(r)] = loss;
  }

  void add_gradients(replica& r) {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const auto from = r.parameters[i].parameter->gradient_values();
      if (from.empty()) continue;
      gradient_slot<T>& to = *parameters_[i].parameter->gradient();
      kernel::map<T>(ctx_, std::ssize(from), to.data, std::exchange(to.written, true) ? T(1) : T(0), kernel::times_constant<T>{T(1)}, from.data());
    }
  }

  context& ctx_;
  M& model_;
  std::vector<parameter_ref<T>> parameters_;
  data_parallel_options options_;
  std::vector<part> parts_;
  std::vector<std::unique_ptr<replica>> replicas_;
  std::vector<double> losses_;  // of every replica's share
  worker_list<context> contexts_;  // one a thread at work
};

}  // namespace graft
