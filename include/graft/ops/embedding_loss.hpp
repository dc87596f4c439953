// SPDX-License-Identifier: Apache-2.0
// Losses that train vectors to be searched by: contrast with other documents, triplets, similarities to match or to rank.
// Read next: ops/loss.hpp, methods/post_pool_adapter.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "graft/ops/elementwise.hpp"
#include "graft/ops/loss.hpp"
#include "graft/ops/reduce.hpp"

namespace graft {

enum class vector_similarity { cosine, dot };
enum class vector_distance { euclidean, cosine };

struct info_nce_options {
  double temperature = 0.05;  // > 0; similarities are divided by it
  vector_similarity similarity = vector_similarity::cosine;

  void validate() const {
    if (!(temperature > 0) || !std::isfinite(temperature)) throw_error<option_error>("info_nce: temperature is ", temperature, ", expected more than 0");
  }
};

struct triplet_options {
  double margin = 1;  // >= 0, in units of the distance
  vector_distance distance = vector_distance::euclidean;

  void validate() const {
    if (!(margin >= 0) || !std::isfinite(margin)) throw_error<option_error>("triplet_loss: margin is ", margin, ", expected 0 or more");
  }
};

struct cosent_options {
  double scale = 20;  // > 0; differences of cosines are multiplied by it

  void validate() const {
    if (!(scale > 0) || !std::isfinite(scale)) throw_error<option_error>("cosent_loss: scale is ", scale, ", expected more than 0");
  }
};

namespace detail {

template <class T>
GRAFT_INLINE T row_product(index_t columns, const T* x, const T* y) {
  using arch = simd::default_arch;
  simd::batch<T, arch> sum(T(0));
  kernel::detail::for_each_vector<T, arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
    sum = simd::fma(simd::load_first<T, arch>(x + c, lanes), simd::load_first<T, arch>(y + c, lanes), sum);
  });
  return simd::sum(sum);
}

/// out = a x + b y + beta out. With beta = 0 the old contents are not read.
template <class T>
GRAFT_INLINE void row_combination(index_t columns, T a, const T* x, T b, const T* y, T* out, T beta) {
  using arch = simd::default_arch;
  using batch = simd::batch<T, arch>;
  const batch av(a), bv(b), keep(beta);
  kernel::detail::for_each_vector<T, arch>(columns, [&](index_t c, index_t lanes) GRAFT_INLINED {
    batch v = simd::fma(av, simd::load_first<T, arch>(x + c, lanes), bv * simd::load_first<T, arch>(y + c, lanes));
    if (beta != T(0)) v = simd::fma(keep, simd::load_first<T, arch>(out + c, lanes), v);
    simd::store_first(out + c, v, lanes);
  });
}

/// Calls f(n) for every row, in parallel.
template <class F>
void for_each_row(context& ctx, index_t rows, index_t columns, F f) {
  ctx.executor().parallel_for(rows, kernel::detail::row_grain(columns), [&](index_t first, index_t last) {
    for (index_t n = first; n < last; ++n) f(n);
  });
}

/// Target scores: one a row, all of them numbers.
template <class T>
void check_scores(std::string_view op, std::span<const T> scores, index_t rows) {
  if (static_cast<index_t>(scores.size()) != rows)
    throw_error<shape_error>(op, ": there are ", rows, " pairs and ", scores.size(), " scores");
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (!std::isfinite(scores[i])) throw_error<option_error>(op, ": score ", i, " is ", scores[i], ", expected a finite number");
}

/// log(1 + sum of exp(scale (c_j - c_i)) over pairs with score_i > score_j), and its gradient. N^2 exponentials, in double.
template <class T>
double cosent_value(std::span<const T> scores, const T* cosines, double scale, std::span<double> gradient) {
  const std::size_t n = scores.size();
  const auto exponent = [&](std::size_t i, std::size_t j) { return scale * (static_cast<double>(cosines[j]) - static_cast<double>(cosines[i])); };
  double most = 0;  // the 1 inside the logarithm is exp(0)
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      if (scores[i] > scores[j]) most = std::max(most, exponent(i, j));
  double sum = std::exp(-most);
  std::ranges::fill(gradient, 0.0);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      if (scores[i] > scores[j]) {
        const double e = std::exp(exponent(i, j) - most);
        sum += e;
        gradient[j] += e;
        gradient[i] -= e;
      }
  for (double& g : gradient) g *= scale / sum;
  return most + std::log(sum);
}

}  // namespace detail

/// Every row divided by its Euclidean length. Rows shorter than eps are divided by eps, so that zeros stay zeros.
/// Shapes: (N, C) -> (N, C). Cost: 3 N C flops. Saves the result and N lengths.
template <class T>
var<T, 2> l2_normalise(tape<T>& t, const var<T, 2>& x, double eps = 1e-12) {
  const index_t n = x.shape()[0], c = x.shape()[1];
  const T least = static_cast<T>(eps);
  auto y = t.template empty<2>(x.shape());
  auto length = t.template empty<1>({n});
  detail::for_each_row(t.ctx(), n, c, [&](index_t i) {
    const T* row = x.value.data + i * c;
    length.value.data[i] = std::sqrt(detail::row_product(c, row, row));
    detail::row_combination(c, T(1) / std::max(length.value.data[i], least), row, T(0), row, y.value.data + i * c, T(0));
  });
  const auto ys = t.save_if(x.needs_grad(), y);
  const auto ls = t.save_if(x.needs_grad(), length);
  t.record({"l2_normalise", 3 * static_cast<std::uint64_t>(n * c)}, y, x.needs_grad(), [=, xi = x.id](tensor_view<const T, 2> dy, tape<T>& g) {
    const auto to = g.grad(xi, dy.shape);
    detail::for_each_row(g.ctx(), n, c, [&](index_t i) {
      const T *yr = ys.data + i * c, *dyr = dy.data + i * c;
      const T by = T(1) / std::max(ls.data[i], least);
      const T along = ls.data[i] > least ? -by * detail::row_product(c, yr, dyr) : T(0);  // a short row's divisor is a constant
      detail::row_combination(c, by, dyr, along, yr, to.view.data + i * c, to.beta);
    });
  });
  return y;
}

/// s(n) = sum over c of x(n, c) y(n, c). Shapes: x and y (N, C) -> (N). Saves each operand the other's gradient needs.
template <class T>
var<T, 1> row_dot(tape<T>& t, const var<T, 2>& x, const var<T, 2>& y) {
  detail::check_same_shape("row_dot", x.shape(), y.shape());
  const index_t n = x.shape()[0], c = x.shape()[1];
  auto s = t.template empty<1>({n});
  detail::for_each_row(t.ctx(), n, c, [&](index_t i) { s.value.data[i] = detail::row_product(c, x.value.data + i * c, y.value.data + i * c); });
  const auto xs = t.save_if(y.needs_grad(), x), ys = t.save_if(x.needs_grad(), y);
  t.record({"row_dot", 2 * static_cast<std::uint64_t>(n * c)}, s, x.needs_grad() || y.needs_grad(),
           [=, xi = x.id, yi = y.id](tensor_view<const T, 1> ds, tape<T>& g) {
             const auto give = [&](node_id id, const T* other) {
               if (id == no_node) return;
               const auto to = g.grad(id, extents<2>{n, c});
               detail::for_each_row(g.ctx(), n, c, [&](index_t i) {
                 detail::row_combination(c, ds.data[i], other + i * c, T(0), other + i * c, to.view.data + i * c, to.beta);
               });
             };
             give(xi, ys.data);
             give(yi, xs.data);
           });
  return s;
}

/// The cosine of the angle between row n of x and row n of y; 0 where one of them is zero. Shapes: x and y (N, C) -> (N).
template <class T>
var<T, 1> cosine_similarity(tape<T>& t, const var<T, 2>& x, const var<T, 2>& y) {
  detail::check_same_shape("cosine_similarity", x.shape(), y.shape());
  return row_dot(t, l2_normalise(t, x), l2_normalise(t, y));
}

/// The Euclidean distance of row n of x from row n of y. Where the rows are equal the gradient is taken as zero.
/// Shapes: x and y (N, C) -> (N). Cost: 3 N C flops. Saves both operands and N distances.
template <class T>
var<T, 1> euclidean_distance(tape<T>& t, const var<T, 2>& x, const var<T, 2>& y) {
  detail::check_same_shape("euclidean_distance", x.shape(), y.shape());
  const index_t n = x.shape()[0], c = x.shape()[1];
  auto d = t.template empty<1>({n});
  auto difference = t.template empty<2>(x.shape());
  detail::for_each_row(t.ctx(), n, c, [&](index_t i) {
    T* row = difference.value.data + i * c;
    detail::row_combination(c, T(1), x.value.data + i * c, T(-1), y.value.data + i * c, row, T(0));
    d.value.data[i] = std::sqrt(detail::row_product(c, row, row));
  });
  const bool needs = x.needs_grad() || y.needs_grad();
  const auto rows = t.save_if(needs, difference);
  const auto distances = t.save_if(needs, d);
  t.record({"euclidean_distance", 3 * static_cast<std::uint64_t>(n * c)}, d, needs, [=, xi = x.id, yi = y.id](tensor_view<const T, 1> dd, tape<T>& g) {
    const auto give = [&](node_id id, T sign) {
      if (id == no_node) return;
      const auto to = g.grad(id, extents<2>{n, c});
      detail::for_each_row(g.ctx(), n, c, [&](index_t i) {
        const T by = distances.data[i] > T(0) ? sign * dd.data[i] / distances.data[i] : T(0);
        detail::row_combination(c, by, rows.data + i * c, T(0), rows.data + i * c, to.view.data + i * c, to.beta);
      });
    };
    give(xi, T(1));
    give(yi, T(-1));
  });
  return d;
}

/// InfoNCE: the mean over the queries of -log softmax(similarity / temperature) at the query's own document, against all
/// documents. Row n of the documents belongs to query n; the rows after the queries' own are hard negatives of every query.
/// Shapes: queries (N, C), documents (M, C) with M >= N. Cost: 2 N M C flops, twice more per gradient; 128 rows of
/// similarities exist at once, or a block where the documents are not trained. The largest similarity of a row is taken off before
/// exponentials, so that no temperature overflows. Throws shape_error, or option_error. Source: van den Oord et al. 2018; documents of the same batch as
/// negatives: Henderson et al. 2017.
template <class T>
var<T, 0> info_nce(tape<T>& t, const var<T, 2>& queries, const var<T, 2>& documents, info_nce_options o = {}) {
  o.validate();
  const index_t n = queries.shape()[0];
  detail::check_inner_extents("info_nce", "queries", queries.shape(), queries.shape()[1], "documents", documents.shape(), documents.shape()[1]);
  if (documents.shape()[0] < n)
    throw_error<shape_error>("info_nce: there are ", n, " queries and ", documents.shape()[0], " documents, expected one or more for each query");
  const auto own = t.template keep_room<std::int32_t>(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < own.size(); ++i) own[i] = static_cast<std::int32_t>(i);
  if (o.similarity == vector_similarity::dot) return linear_cross_entropy(t, scale(t, queries, 1 / o.temperature), documents, own);
  return linear_cross_entropy(t, scale(t, l2_normalise(t, queries), 1 / o.temperature), l2_normalise(t, documents), own);
}

/// The mean over the rows of max(0, d(anchor, positive) - d(anchor, negative) + margin), d the Euclidean distance or
/// 1 - cosine. Shapes: all (N, C). Throws shape_error, or option_error. Source: Schroff et al. 2015, there with squares.
template <class T>
var<T, 0> triplet_loss(tape<T>& t, const var<T, 2>& anchor, const var<T, 2>& positive, const var<T, 2>& negative, triplet_options o = {}) {
  o.validate();
  detail::check_same_shape("triplet_loss", anchor.shape(), positive.shape());
  detail::check_same_shape("triplet_loss", anchor.shape(), negative.shape());
  const bool cosine = o.distance == vector_distance::cosine;
  const auto a = cosine ? l2_normalise(t, anchor) : anchor;
  const auto near = cosine ? row_dot(t, a, l2_normalise(t, positive)) : euclidean_distance(t, a, positive);
  const auto far = cosine ? row_dot(t, a, l2_normalise(t, negative)) : euclidean_distance(t, a, negative);
  const index_t n = anchor.shape()[0];
  const T sign = cosine ? T(-1) : T(1), share = T(1) / static_cast<T>(std::max<index_t>(1, n));
  auto loss = t.template empty<0>({});
  auto slope = t.template empty<1>({n});  // of the loss in near(n); that in far(n) is its opposite
  double total = 0;
  for (index_t i = 0; i < n; ++i) {
    const T short_of = sign * (near.value.data[i] - far.value.data[i]) + static_cast<T>(o.margin);
    slope.value.data[i] = short_of > T(0) ? sign * share : T(0);
    total += static_cast<double>(std::max(short_of, T(0)));
  }
  *loss.value.data = static_cast<T>(total) * share;
  const bool needs = near.needs_grad() || far.needs_grad();
  const auto slopes = t.save_if(needs, slope);
  t.record({"triplet_loss", 4 * static_cast<std::uint64_t>(n)}, loss, needs, [=, ni = near.id, fi = far.id](tensor_view<const T, 0> dl, tape<T>& g) {
    const auto give = [&](node_id id, T by) {
      if (id == no_node) return;
      const auto to = g.grad(id, extents<1>{n});
      kernel::map<T>(g.ctx(), n, to.view.data, to.beta, kernel::times_constant<T>{by}, slopes.data);
    };
    give(ni, *dl.data);
    give(fi, -*dl.data);
  });
  return loss;
}

/// The mean over the pairs of (cosine(n) - score(n))^2. Shapes: x and y (N, C), scores (N), in [-1, 1] to be reachable.
/// Throws shape_error; option_error for a score that is no number. Source: Reimers and Gurevych 2019.
template <class T>
var<T, 0> cosine_regression(tape<T>& t, const var<T, 2>& x, const var<T, 2>& y, std::type_identity_t<std::span<const T>> scores) {
  detail::check_same_shape("cosine_regression", x.shape(), y.shape());
  detail::check_scores("cosine_regression", scores, x.shape()[0]);
  return mean_squared_error(t, cosine_similarity(t, x, y), tensor_view<const T, 1>(scores.data(), {x.shape()[0]}));
}

/// CoSENT: log(1 + sum of exp(scale (cosine(j) - cosine(i)))) over all i, j with score(i) > score(j): only the order of the
/// scores counts. Without any such pair the loss is 0. Shapes: x and y (N, C), scores (N). Cost: 6 N C flops and N^2
/// exponentials, on one thread. Saves N gradients. Throws shape_error, or option_error. Source: Su 2022; Li and Li 2023.
template <class T>
var<T, 0> cosent_loss(tape<T>& t, const var<T, 2>& x, const var<T, 2>& y, std::type_identity_t<std::span<const T>> scores, cosent_options o = {}) {
  o.validate();
  detail::check_same_shape("cosent_loss", x.shape(), y.shape());
  detail::check_scores("cosent_loss", scores, x.shape()[0]);
  const auto cosines = cosine_similarity(t, x, y);
  const auto gradient = t.template keep_room<double>(scores.size());
  auto loss = t.template empty<0>({});
  *loss.value.data = static_cast<T>(detail::cosent_value<T>(scores, cosines.value.data, o.scale, gradient));
  t.record({"cosent_loss", 4 * static_cast<std::uint64_t>(scores.size() * scores.size())}, loss, cosines.needs_grad(),
           [gradient, ci = cosines.id](tensor_view<const T, 0> dl, tape<T>& g) {
             const auto to = g.grad(ci, extents<1>{static_cast<index_t>(gradient.size())});
             for (std::size_t i = 0; i < gradient.size(); ++i)
               to.view.data[i] = static_cast<T>(static_cast<double>(*dl.data) * gradient[i]) + (to.beta == T(0) ? T(0) : to.view.data[i]);
           });
  return loss;
}

}  // namespace graft
