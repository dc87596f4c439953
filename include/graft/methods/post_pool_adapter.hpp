// SPDX-License-Identifier: Apache-2.0
// A search that learns from clicks, over vectors of any engine: a low-rank map of the query vectors alone, so that no document
// is ever embedded again. Read next: ops/embedding_loss.hpp, nn/state.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/finite.hpp"
#include "graft/nn/init.hpp"
#include "graft/ops/embedding_loss.hpp"
#include "graft/optim/adamw.hpp"

namespace graft {

struct post_pool_options {
  index_t rank = 16;         // 1 to 64, and to the dimension
  double scale = 1;          // > 0, of the change B A q
  double lr = 1e-4;          // in (0, 1], of AdamW
  double temperature = 0.05;  // in [0.001, 100], of the contrast between documents
  double proximity = 0.1;    // >= 0: weight of the mean squared length of the change in the loss
  double max_shift = 0.5;    // in (0, 1): the longest change of a query of length 1, whatever was learned
  index_t memory = 128;      // 2 or more: documents, and pairs, that are remembered
  index_t replay = 8;        // 0 or more: remembered pairs learned again with every new one, where there are so many
  index_t shown = 8;         // 0 or more: of the documents shown but not clicked, so many are remembered, half the memory at most
  std::uint64_t seed = 0;    // of A, and of which pairs are learned again

  static constexpr index_t most_rank = 64;

  void validate(index_t dimension) const {
    const auto refuse = [](std::string_view name, const auto& value, const auto&... expected) {
      throw_error<option_error>("post_pool_adapter: ", name, " is ", value, ", expected ", expected...);
    };
    if (dimension < 1) refuse("the dimension", dimension, "1 or more");
    if (rank < 1 || rank > std::min(dimension, most_rank)) refuse("rank", rank, "1 to ", std::min(dimension, most_rank));
    if (!(scale > 0) || !std::isfinite(scale)) refuse("scale", scale, "more than 0");
    if (!(lr > 0 && lr <= 1)) refuse("lr", lr, "more than 0, up to 1");
    if (!(temperature >= 1e-3 && temperature <= 100)) refuse("temperature", temperature, "0.001 to 100");
    if (!(proximity >= 0) || !std::isfinite(proximity)) refuse("proximity", proximity, "0 or more");
    if (!(max_shift > 0 && max_shift < 1)) refuse("max_shift", max_shift, "more than 0, below 1");
    if (memory < 2 || memory > (1 << 20)) refuse("memory", memory, "2 to 1048576");
    if (replay < 0) refuse("replay", replay, "0 or more");
    if (shown < 0) refuse("shown", shown, "0 or more");
  }
};

namespace detail {

/// The last documents that were met, each once, and the last pairs of a query and one of them. Rows of length 1. The oldest
/// give way; a pair goes with its document.
template <class T>
class click_memory {
 public:
  click_memory(index_t capacity, index_t dimension) : documents_({capacity, dimension}), queries_({capacity, dimension}) {
    document_of_.assign(static_cast<std::size_t>(capacity), -1);
  }

  index_t documents() const noexcept { return documents_held_; }
  /// The documents held: (documents(), dimension).
  matrix_ref matrix() const { return std::as_const(documents_).view().slice(0, 0, documents_held_); }
  index_t pairs() const noexcept { return pairs_held_; }
  const T* query(index_t pair) const noexcept { return &queries_(pair, 0); }
  /// The row of the pair's document; -1 when that is gone.
  index_t document_of(index_t pair) const noexcept { return document_of_[static_cast<std::size_t>(pair)]; }
  std::size_t bytes() const noexcept { return static_cast<std::size_t>(2 * documents_.size()) * sizeof(T) + document_of_.size() * sizeof(index_t); }

  static bool same(index_t dimension, const T* a, const T* b) { return row_product(dimension, a, b) > T(1) - T(1e-6); }

  /// The row of a document, a new one unless it is there.
  index_t remember(const T* document) {
    const index_t d = documents_.shape()[1], capacity = documents_.shape()[0];
    for (index_t i = 0; i < documents_held_; ++i)
      if (same(d, &documents_(i, 0), document)) return i;
    const index_t row = std::exchange(next_document_, (next_document_ + 1) % capacity);
    documents_held_ = std::max(documents_held_, row + 1);
    std::ranges::replace(document_of_, row, index_t{-1});
    std::copy_n(document, d, &documents_(row, 0));
    return row;
  }
  /// Which pair it became.
  index_t remember_pair(const T* query, index_t document) {
    const index_t pair = std::exchange(next_pair_, (next_pair_ + 1) % queries_.shape()[0]);
    pairs_held_ = std::max(pairs_held_, pair + 1);
    std::copy_n(query, queries_.shape()[1], &queries_(pair, 0));
    document_of_[static_cast<std::size_t>(pair)] = document;
    return pair;
  }
  void clear() {
    documents_held_ = next_document_ = pairs_held_ = next_pair_ = 0;
    std::ranges::fill(document_of_, index_t{-1});
    std::ranges::fill(documents_.span(), T(0));
    std::ranges::fill(queries_.span(), T(0));
  }

 private:
  tensor<T, 2> documents_, queries_;
  std::vector<index_t> document_of_;
  index_t documents_held_ = 0, next_document_ = 0, pairs_held_ = 0, next_pair_ = 0;
};

}  // namespace detail

/// q' = normalise(q + limit(scale B A q)) for queries of length 1, where limit() shortens what is longer than max_shift. A
/// starts random and B as zero, so it starts as the identity; whatever is learned, the cosine of q' and q is at least
/// sqrt(1 - max_shift^2), and a click moves no entry of A or B by much more than lr.
///
/// learn() contrasts the clicked document with those in a memory of `memory` documents that were clicked or shown before
/// (InfoNCE), for the new pair and `replay` remembered ones, and makes one step of AdamW. Its work depends on the options
/// alone: about 8 (1 + replay) D (memory + 2 rank) + 2 (1 + shown) D memory flops. State: 2 memory D + 8 rank D numbers.
/// Paths: "lora_A.weight" (R, D), "lora_B.weight" (D, R), tag "adapter". A saved state holds the map alone, no click; after
/// loading, memory and moments begin anew. Queries may be mapped on several threads at once, while none learns. Source: low-rank change: Hu et al. 2021.
template <class T>
class post_pool_adapter {
 public:
  using value_type = T;

  /// Throws option_error.
  explicit post_pool_adapter(index_t dimension, post_pool_options o = {})
      : options_((o.validate(dimension), o)), dimension_(dimension), map_(std::make_unique<trained_map>(dimension, o)),
        memory_(o.memory, dimension), unit_({3, dimension}) {
    picked_.reserve(static_cast<std::size_t>(o.memory));
  }

  static void visit(auto& self, auto& v) {
    v("lora_A.weight", self.map_->a);
    v("lora_B.weight", self.map_->b);
  }

  const post_pool_options& options() const noexcept { return options_; }
  index_t dimension() const noexcept { return dimension_; }
  /// Pairs learned since it was made.
  std::int64_t learned() const noexcept { return learned_; }
  /// What it keeps between calls: the map with gradients and moments, and the memory. Before the first click it holds less.
  std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(8 * options_.rank * dimension_ + unit_.size()) * sizeof(T) + memory_.bytes() + picked_.capacity() * sizeof(index_t);
  }
  /// Drops the remembered clicks, and keeps what was learned from them.
  void forget() { memory_.clear(); }

  /// The query to search with, of length 1. Shapes: (D) -> (D). Cost: 4 D R flops. Throws shape_error for another dimension,
  /// format_error for a vector that is zero or not finite.
  std::vector<T> operator()(std::span<const T> query) const {
    std::vector<T> to(query.size());
    apply(query, to);
    return to;
  }
  /// The same without an allocation; `to` may be the query.
  void apply(std::span<const T> query, std::span<T> to) const {
    check("the query", query);
    if (to.size() != query.size()) throw_error<shape_error>("post_pool_adapter: the result has ", to.size(), " elements, expected ", dimension_);
    const index_t d = dimension_, r = options_.rank;
    const T *a = map_->a.view().data, *b = map_->b.view().data;
    normalise(query.data(), to.data());
    T h[post_pool_options::most_rank];
    for (index_t i = 0; i < r; ++i) h[i] = detail::row_product(d, a + i * d, to.data());
    double square = 0;
    const auto change = [&](index_t i) { return options_.scale * static_cast<double>(detail::row_product(r, b + i * r, h)); };
    for (index_t i = 0; i < d; ++i) square += change(i) * change(i);
    const double by = options_.max_shift / std::max(std::sqrt(square), options_.max_shift);
    for (index_t i = 0; i < d; ++i) to[static_cast<std::size_t>(i)] += static_cast<T>(by * change(i));
    normalise(to.data(), to.data());
  }
  /// The same for many queries at once, differentiable in queries and map. Shapes: (N, D) -> (N, D).
  var<T, 2> operator()(tape<T>& t, const var<T, 2>& queries) {
    if (queries.shape()[1] != dimension_)
      throw_error<shape_error>("post_pool_adapter: queries is ", to_string(queries.shape()), ", expected ", dimension_, " columns");
    const auto q = l2_normalise(t, queries);
    return moved(t, q, change_of(t, q));
  }

  /// Learns that this document was clicked for this query, and that those shown, (K, D), were not. Vectors of any length but
  /// zero. Returns the contrast's loss before the step; 0 while there is no second document. After the first calls under a
  /// context it allocates nothing. Throws shape_error for another dimension, format_error for a vector that is zero or not
  /// finite, state_error when the map is frozen; then nothing has changed.
  double learn(context& ctx, std::span<const T> query, std::span<const T> clicked, tensor_view<const T, 2> shown = {}) {
    check("the query", query);
    check("the clicked document", clicked);
    for (index_t i = 0; i < shown.shape[0]; ++i) check("a shown document", shown.row(i).span());
    if (!map_->a.trainable() || !map_->b.trainable()) throw_error<state_error>("post_pool_adapter: the map is frozen; unfreeze() it to learn");
    T *const q = &unit_(0, 0), *const own = &unit_(1, 0), *const other = &unit_(2, 0);
    normalise(query.data(), q);
    normalise(clicked.data(), own);
    const index_t most_shown = std::min(options_.shown, options_.memory / 2);
    for (index_t i = 0, kept = 0; i < shown.shape[0] && kept < most_shown; ++i) {
      normalise(shown.row(i).span().data(), other);
      if (memory_.same(dimension_, own, other)) continue;
      memory_.remember(other);
      ++kept;
    }
    const index_t newest = memory_.remember_pair(q, memory_.remember(own));
    ++learned_;
    return memory_.documents() < 2 ? 0 : step(ctx, newest);
  }

 private:
  /// On the heap, since the optimiser points at the parameters.
  struct trained_map {
    parameter<T, 2> a, b;
    adamw<T> optimizer;

    trained_map(index_t d, const post_pool_options& o)
        : a(tensor<T, 2>({o.rank, d})), b(tensor<T, 2>::zeros({d, o.rank})),
          optimizer(named(), {.lr = o.lr, .weight_decay = 0}) {
      fill_uniform(a.value(), random_stream(o.seed).substream("lora_A"), 1 / std::sqrt(static_cast<double>(d)));
      a.tag = b.tag = "adapter";
    }
    std::vector<parameter_ref<T>> named() { return {{"lora_A.weight", &a}, {"lora_B.weight", &b}}; }
  };

  void check(std::string_view what, std::span<const T> v) const {
    if (static_cast<index_t>(v.size()) != dimension_)
      throw_error<shape_error>("post_pool_adapter: ", what, " has ", v.size(), " elements, expected ", dimension_);
    if (const index_t i = first_not_finite(dtype_of<T>, std::as_bytes(v)); i >= 0)
      throw_error<format_error>("post_pool_adapter: ", what, " holds ", v[static_cast<std::size_t>(i)], " at element ", i);
    if (std::ranges::all_of(v, [](T x) { return x == T(0); })) throw_error<format_error>("post_pool_adapter: ", what, " is zero, and has no direction");
  }
  /// Divides by the largest element first, so that squares neither overflow nor vanish.
  void normalise(const T* from, T* to) const {
    double most = 0, square = 0;
    for (index_t i = 0; i < dimension_; ++i) most = std::max(most, std::abs(static_cast<double>(from[i])));
    for (index_t i = 0; i < dimension_; ++i) square += (static_cast<double>(from[i]) / most) * (static_cast<double>(from[i]) / most);
    const double length = std::sqrt(square);
    for (index_t i = 0; i < dimension_; ++i) to[i] = static_cast<T>(static_cast<double>(from[i]) / most / length);
  }

  var<T, 2> change_of(tape<T>& t, const var<T, 2>& q) { return linear(t, linear(t, q, t.leaf(map_->a)), t.leaf(map_->b)); }
  /// normalise(q + limit(scale change)): rows divided by max(length, limit) and multiplied by limit are the rows, or shorter.
  var<T, 2> moved(tape<T>& t, const var<T, 2>& q, const var<T, 2>& change) {
    return l2_normalise(t, add(t, q, scale(t, l2_normalise(t, change, options_.max_shift / options_.scale), options_.max_shift)));
  }

  /// The pair that is new, and `replay` others drawn from those whose documents are still there.
  void pick(index_t newest) {
    picked_.clear();
    for (index_t p = 0; p < memory_.pairs(); ++p)
      if (p != newest && memory_.document_of(p) >= 0) picked_.push_back(p);
    auto random = random_stream(options_.seed).substream("replay").substream(static_cast<std::uint64_t>(learned_));
    const std::size_t others = std::min(picked_.size(), static_cast<std::size_t>(options_.replay));
    for (std::size_t i = 0; i < others; ++i) std::swap(picked_[i], picked_[i + random.below(picked_.size() - i)]);
    picked_.resize(others);
    picked_.push_back(newest);
  }

  double step(context& ctx, index_t newest) {
    pick(newest);
    const auto n = static_cast<index_t>(picked_.size());
    tape<T> t(ctx);
    auto q = t.template empty<2>({n, dimension_});
    const auto clicked = t.template keep_room<std::int32_t>(picked_.size());
    for (std::size_t i = 0; i < picked_.size(); ++i) {
      std::copy_n(memory_.query(picked_[i]), dimension_, &q.value(static_cast<index_t>(i), 0));
      clicked[i] = static_cast<std::int32_t>(memory_.document_of(picked_[i]));
    }
    const auto change = change_of(t, q);
    const auto contrast = linear_cross_entropy(t, scale(t, moved(t, q, change), 1 / options_.temperature), memory_.matrix(), clicked);
    const double weight = options_.proximity * options_.scale * options_.scale / static_cast<double>(n);
    t.backward(add(t, contrast, scale(t, sum(t, multiply(t, change, change)), weight)));
    map_->optimizer.step(ctx);
    return static_cast<double>(contrast.item());
  }

  post_pool_options options_;
  index_t dimension_;
  std::unique_ptr<trained_map> map_;
  detail::click_memory<T> memory_;
  tensor<T, 2> unit_;           // query, clicked and shown document, of length 1
  std::vector<index_t> picked_;  // of the pairs in memory
  std::int64_t learned_ = 0;
};

}  // namespace graft
