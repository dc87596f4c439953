// SPDX-License-Identifier: Apache-2.0
// Several LoRA adapters as one: weighted sums, exact or truncated, and the thinned merges TIES, DARE and magnitude pruning.
// Read next: methods/convert.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/finite.hpp"
#include "graft/linalg/svd.hpp"
#include "graft/methods/sparse_updates.hpp"
#include "graft/nn/filter.hpp"
#include "graft/peft/lora.hpp"

namespace graft {

/// How adapters i with updates D_i = scale_i B_i A_i and weights w_i are merged.
/// linear: sums of the factors, each weighted by sqrt(w_i scale_i), which adds cross terms B_i A_j. Needs equal ranks.
/// cat:    the factors side by side: exactly the sum of w_i D_i; the ranks add.
/// svd:    the sum of w_i D_i truncated to a rank. No dense matrix is formed.
/// The others thin every D_i as a dense matrix, combine them and truncate the result to a rank:
/// magnitude_prune: keep the largest entries, then the weighted sum.       ties:      keep them, then elect signs.
/// dare_linear:     drop at random and rescale, then the weighted sum.     dare_ties: drop them, then elect signs.
enum class merge_method { linear, cat, svd, ties, dare_linear, dare_ties, magnitude_prune };

struct merge_lora_options {
  merge_method method = merge_method::svd;
  index_t rank = 0;         // of the truncation, 1 to 65536; 0: the largest of the sources'. linear and cat have theirs
  double density = 1;       // share of the entries to keep, above 0 to 1; 1 for linear, cat and svd, which keep all
  sign_election election = sign_election::total;  // of ties and dare_ties
  std::uint64_t seed = 0;   // of what dare drops
  bool keep_sources = false;  // leave the merged adapters in their slots; the new one then adds to them

  /// Whether the method works on dense matrices.
  bool thins() const { return method > merge_method::svd; }
  void validate() const {
    if (rank < 0 || rank > (1 << 16)) throw_error<option_error>("merge: rank is ", rank, ", expected 0 to 65536");
    if (rank != 0 && method < merge_method::svd) throw_error<option_error>("merge: rank is ", rank, ", but linear and cat take theirs from the sources");
    check_density("merge", density);
    if (density != 1 && !thins()) throw_error<option_error>("merge: density is ", density, ", but linear, cat and svd keep every entry");
  }
};

/// One of the adapters to merge. The name keys what dare drops, so that it does not depend on the order.
template <class T>
struct weighted_lora {
  const lora<T>* adapter;
  double weight;
  std::string_view name;
};

/// A LoRA of scale 1 that stands for an update, and how well: |update - B A| / |update|, Frobenius norms, before rounding to T.
template <class T>
struct fitted_lora {
  lora<T> adapter;
  double relative_error;
};

/// What a change of a whole model to LoRA cost, layer by layer.
struct low_rank_report {
  struct layer {
    std::string path;
    index_t rank;
    double relative_error;  // of the update, see fitted_lora
  };
  std::vector<layer> layers;

  /// The largest relative error; 0 without layers.
  double worst() const {
    double most = 0;
    for (const layer& l : layers) most = std::max(most, l.relative_error);
    return most;
  }
};

namespace detail {

template <class T>
void check_sources(std::span<const weighted_lora<T>> sources, const merge_lora_options& o, std::string_view layer) {
  o.validate();
  if (sources.empty()) throw_error<option_error>("merge: ", layer, ": no adapters to merge");
  const auto& first = *sources.front().adapter;
  for (const auto& s : sources) {
    if (!std::isfinite(s.weight)) throw_error<option_error>("merge: ", layer, ": the weight of \"", s.name, "\" is ", s.weight, ", expected a finite number");
    const auto &a = s.adapter->a.weight, &b = s.adapter->b.weight;
    if (a.extent()[1] != first.a.weight.extent()[1] || b.extent()[0] != first.b.weight.extent()[0])
      throw_error<shape_error>("merge: ", layer, ": \"", s.name, "\" is for a layer of ", to_string(extents<2>{b.extent()[0], a.extent()[1]}), ", \"",
                               sources.front().name, "\" for one of ", to_string(extents<2>{first.b.weight.extent()[0], first.a.weight.extent()[1]}));
    if (o.method == merge_method::linear && s.adapter->options.rank != first.options.rank)
      throw_error<option_error>("merge: ", layer, ": \"", s.name, "\" has rank ", s.adapter->options.rank, ", \"", sources.front().name, "\" ",
                                first.options.rank, "; linear needs equal ranks, the other methods do not");
    if (first_not_finite(a.type(), a.bytes()) >= 0 || first_not_finite(b.type(), b.bytes()) >= 0)
      throw_error<state_error>("merge: ", layer, ": \"", s.name, "\" holds NaN or infinity");
  }
}

/// A trainable LoRA of scale 1 with these factors, and the dropout of another.
template <class T>
lora<T> lora_of(tensor<T, 2> b, tensor<T, 2> a, double dropout = 0) {
  const index_t rank = a.shape()[0];
  lora<T> l(a.shape()[1], b.shape()[0], {.rank = rank, .alpha = static_cast<double>(rank), .dropout = dropout});
  std::ranges::copy(a.span(), l.a.weight.value().begin());
  std::ranges::copy(b.span(), l.b.weight.value().begin());
  return l;
}

/// B = U sqrt(s), A = sqrt(s) V^T, of exactly this rank: filled up with zeros where there were fewer singular values.
template <class T>
fitted_lora<T> lora_of(const truncated_svd<T>& svd, index_t rank, double dropout = 0) {
  auto b = tensor<T, 2>::zeros({svd.u.shape()[0], rank}), a = tensor<T, 2>::zeros({rank, svd.v.shape()[0]});
  for (index_t k = 0; k < svd.s.size(); ++k) {
    const T root = std::sqrt(svd.s(k));
    for (index_t i = 0; i < b.shape()[0]; ++i) b(i, k) = svd.u(i, k) * root;
    for (index_t j = 0; j < a.shape()[1]; ++j) a(k, j) = svd.v(j, k) * root;
  }
  return {lora_of<T>(std::move(b), std::move(a), dropout), svd.relative_error()};
}

/// B (out, sum of ranks) and A (sum of ranks, in) whose product is the sum of w_i D_i.
template <class T>
struct stacked_factors {
  tensor<T, 2> b, a;
};
template <class T>
stacked_factors<T> stack(std::span<const weighted_lora<T>> sources) {
  index_t rank = 0;
  for (const auto& s : sources) rank += s.adapter->options.rank;
  const auto& first = *sources.front().adapter;
  stacked_factors<T> f{tensor<T, 2>({first.b.weight.extent()[0], rank}), tensor<T, 2>({rank, first.a.weight.extent()[1]})};
  index_t at = 0;
  for (const auto& s : sources) {
    const auto factor = s.weight * s.adapter->options.scale();
    const index_t end = at + s.adapter->options.rank;
    zip_elements(f.b.slice(1, at, end), s.adapter->b.weight.view(), [](T& to, const T& from) { to = from; });
    zip_elements(f.a.slice(0, at, end), s.adapter->a.weight.view(), [&](T& to, const T& from) { to = static_cast<T>(factor * static_cast<double>(from)); });
    at = end;
  }
  return f;
}

/// The factors of `linear`.
template <class T>
stacked_factors<T> add_factors(std::span<const weighted_lora<T>> sources) {
  const auto& first = *sources.front().adapter;
  stacked_factors<T> f{tensor<T, 2>::zeros(first.b.weight.extent()), tensor<T, 2>::zeros(first.a.weight.extent())};
  for (const auto& s : sources) {
    const double product = s.weight * s.adapter->options.scale(), root = std::sqrt(std::abs(product));
    const auto add = [](double factor) { return [factor](T& to, const T& from) { to += static_cast<T>(factor * static_cast<double>(from)); }; };
    zip_elements(f.b.view(), s.adapter->b.weight.view(), add(root));
    zip_elements(f.a.view(), s.adapter->a.weight.view(), add(product < 0 ? -root : root));
  }
  return f;
}

/// |x - y| / |y| of two products of factors.
template <class T>
double relative_distance(const stacked_factors<T>& x, const stacked_factors<T>& y) {
  const index_t more = x.a.shape()[0], rank = more + y.a.shape()[0];
  stacked_factors<T> both{tensor<T, 2>({x.b.shape()[0], rank}), tensor<T, 2>({rank, x.a.shape()[1]})};
  const auto copy = [](T& to, const T& from) { to = from; };
  zip_elements(both.b.slice(1, 0, more), x.b.view(), copy);
  zip_elements(both.b.slice(1, more, rank), y.b.view(), [](T& to, const T& from) { to = -from; });
  zip_elements(both.a.slice(0, 0, more), x.a.view(), copy);
  zip_elements(both.a.slice(0, more, rank), y.a.view(), copy);
  const double difference = norm_of_product<T>(both.b.view(), both.a.view());
  return difference == 0 ? 0 : difference / norm_of_product<T>(y.b.view(), y.a.view());
}

/// The thinned updates, combined as the method says.
template <class T>
tensor<T, 2> thinned_update(std::span<const weighted_lora<T>> sources, const merge_lora_options& o, std::string_view layer) {
  const bool at_random = o.method == merge_method::dare_linear || o.method == merge_method::dare_ties;
  std::vector<tensor<T, 2>> updates;
  for (const auto& s : sources) {
    auto& d = updates.emplace_back(tensor<T, 2>::zeros({s.adapter->b.weight.extent()[0], s.adapter->a.weight.extent()[1]}));
    s.adapter->merge_into({d.view(), {}});
    if (at_random) drop_at_random(d.span(), o.density, random_stream(o.seed).substream(layer).substream(s.name));
    else keep_largest(d.span(), o.density);
  }
  tensor<T, 2> out(updates.front().shape());
  std::vector<double> weights;
  for (const auto& s : sources) weights.push_back(s.weight);
  if (o.method == merge_method::ties || o.method == merge_method::dare_ties) {
    std::vector<std::span<const T>> spans;
    for (const auto& d : updates) spans.push_back(d.span());
    merge_by_sign<T>(spans, weights, o.election, out.span());
    return out;
  }
  for (std::size_t i = 0; i < out.span().size(); ++i) {
    double sum = 0;
    for (std::size_t k = 0; k < updates.size(); ++k) sum += weights[k] * static_cast<double>(updates[k].span()[i]);
    out.span()[i] = static_cast<T>(sum);
  }
  return out;
}

}  // namespace detail

/// One LoRA of scale 1 for several of one layer. Its error is against what the method means before truncation: none for cat;
/// for linear against the weighted sum of the updates, so that it tells how much the cross terms are. Dropout is the first
/// source's. `layer` stands for the layer in errors and keys what dare drops. Cost: that of a truncated SVD of the factors,
/// or, for the methods that thin, of the dense update. Throws option_error for no sources, weights that are not finite,
/// unequal ranks with linear and options out of range, shape_error for layers of different shapes, state_error for NaN.
/// Source: the methods of PEFT's add_weighted_adapter; the scale of an adapter counts once.
template <class T>
fitted_lora<T> merge_loras(std::span<const weighted_lora<T>> sources, const merge_lora_options& o = {}, std::string_view layer = "the layer") {
  detail::check_sources(sources, o, layer);
  const double dropout = sources.front().adapter->options.dropout;
  index_t rank = o.rank;
  if (rank == 0)
    for (const auto& s : sources) rank = std::max(rank, s.adapter->options.rank);
  if (o.thins()) return detail::lora_of<T>(svd<T>(detail::thinned_update<T>(sources, o, layer), rank), rank, dropout);
  auto exact = detail::stack(sources);
  if (o.method == merge_method::svd) return detail::lora_of<T>(svd_of_product<T>(exact.b, exact.a, rank), rank, dropout);
  if (o.method == merge_method::cat) {
    if (exact.a.shape()[0] > (1 << 16))
      throw_error<option_error>("merge: ", layer, ": cat would make a rank of ", exact.a.shape()[0], ", at most 65536 is possible");
    return {detail::lora_of<T>(std::move(exact.b), std::move(exact.a), dropout), 0};
  }
  auto sums = detail::add_factors(sources);
  const double error = detail::relative_distance(sums, exact);
  return {detail::lora_of<T>(std::move(sums.b), std::move(sums.a), dropout), error};
}

namespace detail {

/// The adapters of one layer that are to be merged, and where they stand in its slot.
template <class T>
struct merge_site {
  std::string path;
  adapted_linear<T>* layer;
  std::vector<weighted_lora<T>> sources;
  std::vector<std::size_t> places;  // rising
  std::optional<fitted_lora<T>> made;
};

template <class T>
merge_site<T> find_sources(std::string_view path, adapted_linear<T>& layer, const std::vector<std::string>& names,
                           const std::vector<double>& weights, const std::string& new_name, bool keep_sources) {
  merge_site<T> site{std::string(path), &layer, {}, {}, {}};
  for (std::size_t n = 0; n < names.size(); ++n)
    for (std::size_t i = 0; i < layer.adapters.size(); ++i)
      if (const auto& a = layer.adapters[i]; a.name == names[n]) {
        const auto* l = a.adapter.template get<lora<T>>();
        if (l == nullptr)
          throw_error<state_error>("merge: ", path, ": \"", a.name, "\" is ", a.adapter.describe(), ", not a LoRA; convert_to_lora() may make it one");
        site.sources.push_back({l, weights[n], names[n]});
        site.places.push_back(i);
      }
  if (site.sources.empty()) return site;
  std::ranges::sort(site.places);
  for (std::size_t i = 0; i < layer.adapters.size(); ++i) {
    const auto& a = layer.adapters[i];
    const bool goes = !keep_sources && std::ranges::find(site.places, i) != site.places.end();
    if (a.name == new_name && !goes) throw_error<option_error>("merge: ", path, " already has an adapter named \"", new_name, "\"");
    if (i > site.places.front() && i < site.places.back() && a.adapter.template get<lora<T>>() == nullptr)
      throw_error<state_error>("merge: ", path, ": \"", a.name, "\", ", a.adapter.describe(), ", stands between the adapters to merge: they do not add up");
  }
  return site;
}

template <class T>
void put_in_place(merge_site<T>& site, const std::string& new_name, bool keep_sources) {
  auto& slots = site.layer->adapters;
  const bool trains = std::ranges::any_of(site.sources, [](const auto& s) { return s.adapter->a.weight.trainable() || s.adapter->b.weight.trainable(); });
  if (!trains) site.made->adapter.a.weight.freeze(), site.made->adapter.b.weight.freeze();
  named_adapter<T> merged{new_name, std::move(site.made->adapter)};
  const std::size_t at = keep_sources ? site.places.back() + 1 : site.places.front();
  if (!keep_sources)
    for (std::size_t i = site.places.size(); i-- > 0;) slots.erase(slots.begin() + static_cast<std::ptrdiff_t>(site.places[i]));
  slots.insert(slots.begin() + static_cast<std::ptrdiff_t>(at), std::move(merged));
}

}  // namespace detail

/// Merges the LoRA adapters of these names in every layer that has one of them, under a new name; a layer that lacks some merges
/// those it has, as if the others were zero there. The new adapter stands where the first source stood, the sources are gone
/// unless the options keep them; it can be trained if one of them could. Layers are shared among the executor's threads, and
/// the result does not depend on their number. Throws as merge_loras() does, option_error for names that no layer has, that
/// come twice or without a weight, or when the new name is taken, and state_error when an adapter is not a LoRA or one that is
/// not stands between two to merge. Then the model is as it was.
template <module M>
low_rank_report merge_adapters_into(M& model, const std::vector<std::string>& names, const std::vector<double>& weights, const std::string& new_name,
                                    const merge_lora_options& o = {}, const executor_ref& threads = {}) {
  using T = typename M::value_type;
  o.validate();
  if (names.empty()) throw_error<option_error>("merge: no adapters to merge into \"", new_name, "\"");
  if (names.size() != weights.size()) throw_error<option_error>("merge: ", names.size(), " adapters and ", weights.size(), " weights");
  for (auto n = names.begin(); n != names.end(); ++n)
    if (std::find(names.begin(), n, *n) != n) throw_error<option_error>("merge: \"", *n, "\" is named twice");
  for (const std::string& name : names) detail::require_plain_embeddings(model, "merge", name);
  std::vector<detail::merge_site<T>> sites;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    auto site = detail::find_sources(path, layer, names, weights, new_name, o.keep_sources);
    if (!site.sources.empty()) sites.push_back(std::move(site));
  });
  for (const std::string& name : names)
    if (std::ranges::none_of(sites, [&](const auto& site) { return std::ranges::any_of(site.sources, [&](const auto& s) { return s.name == name; }); }))
      throw_error<option_error>("merge: no layer has an adapter named \"", name, "\"");

  threads.parallel_for(std::ssize(sites), 1, [&](index_t first, index_t last) {
    for (index_t i = first; i < last; ++i) {
      auto& site = sites[static_cast<std::size_t>(i)];
      site.made.emplace(merge_loras<T>(site.sources, o, site.path));
    }
  });
  low_rank_report report;
  for (auto& site : sites) {
    report.layers.push_back({site.path, site.made->adapter.options.rank, site.made->relative_error});
    detail::put_in_place(site, new_name, o.keep_sources);
  }
  return report;
}

}  // namespace graft
