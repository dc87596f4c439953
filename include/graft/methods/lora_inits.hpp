// SPDX-License-Identifier: Apache-2.0
// Starts of LoRA that need linear algebra: PiSSA, OLoRA, which take a part of the frozen weight over, and orthogonal factors; and
// the way back to a plain LoRA of the weight as it was. Read next: io/peft_folder.hpp, which saves that.
#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/executor.hpp"
#include "graft/linalg/svd.hpp"
#include "graft/nn/storage.hpp"
#include "graft/peft/lora.hpp"

namespace graft {

struct pissa_options {
  std::string name = "default";  // of the LoRA
  index_t iterations = 0;        // 0: the exact decomposition; else a randomised one with so many power iterations, 4 to 16 as a rule
  std::uint64_t seed = 0;        // of the randomised one

  void validate() const {
    if (iterations < 0 || iterations > 1000) throw_error<option_error>("init_pissa: iterations is ", iterations, ", expected 0 to 1000");
  }
};

/// Where LoRA adapters that took a part of their base over started from: what as_plain_lora() needs. The weights are those the
/// model had, shared and not copied; the factors are copies.
template <class T>
struct lora_start {
  struct layer {
    std::string path;
    frozen_array weight;  // (out, in)
    tensor<T, 2> a, b;    // (R, in), (out, R)
  };
  std::string name;  // of the adapters
  std::vector<layer> layers;
};

namespace detail {

template <class T>
struct lora_site {
  std::string path;
  adapted_linear<T>* layer;
  lora<T>* low_rank;
};

/// The LoRA of one name, with their layers, each trainable and of a rank that the layer has.
template <module M>
std::vector<lora_site<typename M::value_type>> lora_sites(M& model, std::string_view what, std::string_view name) {
  using T = typename M::value_type;
  std::vector<lora_site<T>> sites;
  visit_layers(model, [&](std::string_view path, adapted_linear<T>& layer) {
    const auto at = std::ranges::find(layer.adapters, name, &named_adapter<T>::name);
    if (at == layer.adapters.end()) return;
    auto* const l = at->adapter.template get<lora<T>>();
    if (l == nullptr) throw_error<state_error>(what, ": the adapter of ", path, " is ", at->adapter.describe(), ", expected a LoRA");
    if (!l->a.weight.trainable() || !l->b.weight.trainable()) throw_error<state_error>(what, ": the LoRA of ", path, " is frozen");
    sites.push_back({std::string(path), &layer, l});
  });
  if (sites.empty()) throw_error<option_error>(what, ": no layer has an adapter named \"", name, "\"");
  return sites;
}

/// Throws state_error unless the LoRA is alone on a frozen weight: nothing else may see that the weight changes.
template <class T>
void require_own_weight(std::string_view what, std::string_view path, const adapted_linear<T>& layer) {
  if (layer.adapters.size() != 1)
    throw_error<state_error>(what, ": ", path, " has ", layer.adapters.size(), " adapters, expected the LoRA alone, because its base changes");
  if (layer.weight.trainable()) throw_error<state_error>(what, ": the weight of ", path, " is trainable, expected a frozen one");
}

template <class T>
struct lora_pair {
  tensor<T, 2> b, a;  // (out, R), (R, in)
};

/// Replaces the weight W of every layer by a frozen array of its own, W - scale B A, in the type W has, and the factors of its LoRA
/// by B and A = factors(site, W). Nothing is changed before all are made.
template <module M, class Factors>
lora_start<typename M::value_type> take_over_base(M& model, std::string_view what, std::string_view name, const executor_ref& threads, Factors factors) {
  using T = typename M::value_type;
  const auto sites = lora_sites(model, what, name);
  for (const auto& s : sites) {
    require_own_weight<T>(what, s.path, *s.layer);
    const index_t out = s.layer->outputs(), in = s.layer->inputs(), rank = s.low_rank->options.rank;
    if (rank > std::min(out, in)) throw_error<option_error>(what, ": rank is ", rank, ", but ", s.path, " is ", to_string(extents<2>{out, in}));
  }
  lora_start<T> start{std::string(name), std::vector<typename lora_start<T>::layer>(sites.size())};
  std::vector<frozen_array> rests(sites.size());
  threads.parallel_for(std::ssize(sites), 1, [&](index_t first, index_t last) {
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
      const auto& s = sites[i];
      auto& to = start.layers[i];
      to.path = s.path;
      to.weight = s.layer->weight.share();
      auto w = to.weight.template to_tensor<T, 2>();
      auto made = factors(s, std::as_const(w).view());
      to.b = std::move(made.b), to.a = std::move(made.a);
      context serial;
      kernel::matmul_nn<T>(serial, std::as_const(to.b).view(), std::as_const(to.a).view(), w.view(), {-s.low_rank->options.scale(), 1});
      parameter<T, 2> rest(std::move(w));
      rest.freeze();
      rests[i] = rest.type() == to.weight.type() ? rest.share() : convert_array(rest.share(), to.weight.type());
    }
  });
  for (std::size_t i = 0; i < sites.size(); ++i) {
    std::ranges::copy(start.layers[i].a.span(), sites[i].low_rank->a.weight.value().begin());
    std::ranges::copy(start.layers[i].b.span(), sites[i].low_rank->b.weight.value().begin());
    sites[i].layer->weight.assign(rests[i]);
  }
  return start;
}

template <class Scalar>
Eigen::MatrixX<Scalar> normal_matrix(index_t rows, index_t columns, random_stream random) {
  Eigen::MatrixX<Scalar> m(rows, columns);
  for (index_t j = 0; j < columns; ++j)
    for (index_t i = 0; i < rows; ++i) m(i, j) = random.normal();
  return m;
}

/// The leading singular triples, nearly: those of W within the range of (W W^T)^iterations W G, for a random G of some columns more
/// than the rank. Cost: 4 M N (rank + 8) (iterations + 1) flops. Method: Halko, Martinsson and Tropp 2011.
template <class T>
truncated_svd<T> leading_triples(std::string_view what, tensor_view<const T, 2> w, index_t rank, index_t iterations, random_stream random) {
  const auto m = checked_double<T>(what, w);
  const index_t k = std::min({rank + 8, w.shape[0], w.shape[1]});
  auto range = qr_of<double>(m * normal_matrix<double>(w.shape[1], k, random)).q;
  for (index_t i = 0; i < iterations; ++i) range = qr_of<double>(m * qr_of<double>(m.transpose() * range).q).q;
  tensor<T, 2> core({k, w.shape[1]});
  as_eigen(core) = (range.transpose() * m).template cast<T>();
  return svd_of_product<T>(leading_columns<T>(range, k), core, rank);
}

}  // namespace detail

/// PiSSA: the LoRA of this name start as the leading singular triples of their weights, the root of the singular values over the scale
/// in each factor, and the weights keep the rest. Layers compute what they computed, to rounding; the rest is rounded to the type
/// the weight has. Only this model's weights change: arrays that others share are left as they are. Until as_plain_lora() the
/// adapters mean nothing over another base. Cost: an SVD of every weight, about 20 M N min(M, N) flops, or the randomised one, on
/// the executor's threads, a layer each. Throws option_error for an unknown name, a rank above the layer's, or an alpha that is not
/// positive, state_error where the LoRA is frozen or not alone or the weight is not a frozen finite one; then nothing has changed.
/// Source: Meng et al. 2024.
template <module M>
lora_start<typename M::value_type> init_pissa(M& model, const pissa_options& o = {}, const executor_ref& threads = {}) {
  using T = typename M::value_type;
  o.validate();
  return detail::take_over_base(model, "init_pissa", o.name, threads, [&](const detail::lora_site<T>& s, tensor_view<const T, 2> w) {
    const lora_options& l = s.low_rank->options;
    if (!(l.alpha > 0)) throw_error<option_error>("init_pissa: alpha of ", s.path, " is ", l.alpha, ", expected more than 0");
    const auto top = o.iterations == 0 ? svd<T>(w, l.rank)
                                       : detail::leading_triples<T>("init_pissa", w, l.rank, o.iterations, random_stream(o.seed).substream(s.path));
    detail::lora_pair<T> to{tensor<T, 2>({w.shape[0], l.rank}), tensor<T, 2>({l.rank, w.shape[1]})};
    for (index_t k = 0; k < l.rank; ++k) {
      const T root = std::sqrt(top.s.view()(k) / static_cast<T>(l.scale()));
      for (index_t i = 0; i < w.shape[0]; ++i) to.b.view()(i, k) = root * top.u.view()(i, k);
      for (index_t j = 0; j < w.shape[1]; ++j) to.a.view()(k, j) = root * top.v.view()(j, k);
    }
    return to;
  });
}

/// OLoRA: with the decomposition W = Q R of the weight, B starts as the first columns of Q, A as the first rows of R, and the weight
/// keeps W - scale B A. All else as for init_pissa(), and any alpha. Cost: 4/3 to 2 M N min(M, N) flops a layer. Source: Büyükakyüz 2024.
template <module M>
lora_start<typename M::value_type> init_olora(M& model, std::string_view name = "default", const executor_ref& threads = {}) {
  using T = typename M::value_type;
  return detail::take_over_base(model, "init_olora", name, threads, [](const detail::lora_site<T>& s, tensor_view<const T, 2> w) {
    const index_t rank = s.low_rank->options.rank;
    const auto qr = detail::qr_of<double>(detail::checked_double<T>("init_olora", w));
    detail::lora_pair<T> to{detail::leading_columns<T>(qr.q, rank), tensor<T, 2>({rank, w.shape[1]})};
    as_eigen(to.a) = qr.r.topRows(rank).template cast<T>();
    return to;
  });
}

/// Orthogonal start: A = P^T X^T / 10 and B = Y P' / 10 with X (in, R/2) and Y (out, R/2) normal, P and P' two halves of the rows of a
/// random orthogonal (R, R) matrix, so that B A = 0 to rounding while neither factor is zero. The base stays. Throws
/// option_error for an unknown name or an odd rank, state_error where the adapter is not a LoRA or is frozen; then nothing has changed.
template <module M>
void init_orthogonal(M& model, random_stream random = random_stream{}, std::string_view name = "default") {
  using T = typename M::value_type;
  const auto sites = detail::lora_sites(model, "init_orthogonal", name);
  for (const auto& s : sites)
    if (s.low_rank->options.rank % 2 != 0)
      throw_error<option_error>("init_orthogonal: the rank of ", s.path, " is ", s.low_rank->options.rank, ", expected an even one");
  for (const auto& s : sites) {
    const index_t rank = s.low_rank->options.rank;
    const auto own = random.substream(s.path);
    const auto normal = [&](std::string_view what, index_t rows, index_t columns) { return detail::normal_matrix<double>(rows, columns, own.substream(what)); };
    const auto q = detail::qr_of<double>(normal("orthogonal", rank, rank)).q;
    const auto x = normal("lora_A", s.layer->inputs(), rank / 2), y = normal("lora_B", s.layer->outputs(), rank / 2);
    as_eigen(s.low_rank->a.weight.mutable_view()) = (q.topRows(rank / 2).transpose() * x.transpose() / 10).template cast<T>();
    as_eigen(s.low_rank->b.weight.mutable_view()) = (y * q.bottomRows(rank / 2) / 10).template cast<T>();
  }
}

/// The way back: every layer gets its whole weight again, and its LoRA, with the factors A and B it has now, becomes one of twice the
/// rank, [A; A0] and [B, -B0], which is what they changed: B A - B0 A0, at the same scale. Layers compute what they computed, to
/// rounding; save_peft() then writes a folder that fits the base as it was published. An optimiser of the old factors does not fit the
/// new ones: train first, or convert a copy of the model. Throws state_error where a layer or its LoRA is not as it was
/// started, option_error when twice the rank is too large; then nothing has changed.
template <module M>
void as_plain_lora(M& model, const lora_start<typename M::value_type>& start) {
  using T = typename M::value_type;
  const auto sites = detail::lora_sites(model, "as_plain_lora", start.name);
  std::vector<lora<T>> plain;
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const auto& [path, layer, old] = sites[i];
    const auto a = old->a.weight.view(), b = old->b.weight.view();
    if (sites.size() != start.layers.size() || start.layers[i].path != path || start.layers[i].a.shape() != a.shape || start.layers[i].b.shape() != b.shape)
      throw_error<state_error>("as_plain_lora: the LoRA of ", path, " is not where it was started, or not of the same shape");
    detail::require_own_weight<T>("as_plain_lora", path, *layer);
    lora_options options = old->options;
    options.rank *= 2;
    options.alpha *= options.rank_stabilised ? std::sqrt(2.0) : 2.0;
    auto& to = plain.emplace_back(a.shape[1], b.shape[0], options);
    to.stream = old->stream;
    const auto ta = to.a.weight.mutable_view(), tb = to.b.weight.mutable_view();
    const index_t r = a.shape[0];
    const auto copy = [](tensor_view<T, 2> into, tensor_view<const T, 2> from, T sign) {
      detail::zip_elements(into, from, [sign](T& x, const T& y) { x = sign * y; });
    };
    copy(ta.slice(0, 0, r), a, T(1)), copy(ta.slice(0, r, 2 * r), start.layers[i].a.view(), T(1));
    copy(tb.slice(1, 0, r), b, T(1)), copy(tb.slice(1, r, 2 * r), start.layers[i].b.view(), T(-1));
  }
  for (std::size_t i = 0; i < sites.size(); ++i) {
    sites[i].layer->weight.assign(start.layers[i].weight);
    sites[i].layer->adapters.front().adapter = std::move(plain[i]);
  }
}

}  // namespace graft
