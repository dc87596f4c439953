// SPDX-License-Identifier: Apache-2.0
// Differentiable attention and rotary positions. Read next: kernel/attention.hpp, models/llama.hpp.
#pragma once
#include <cstdint>
#include <span>

#include "graft/autograd/tape.hpp"
#include "graft/kernel/attention.hpp"
#include "graft/kernel/attention_backward.hpp"
#include "graft/kernel/rope.hpp"

namespace graft {

/// softmax(scale q k^T, masked) v for every head of every sequence, as `at` lays them out.
/// Shapes: q (N, H * D), k, v (M, G * D) -> (N, H * D). Cost: 4 D flops for every visible pair and head, 10 backward.
/// Retains q, k, v and y and saves one number a row and head, if anything needs a gradient. The offsets of `at` must outlive the tape.
/// Throws shape_error when columns and offsets do not agree with the layout.
template <class T>
var<T, 2> attention(tape<T>& t, const kernel::attention_layout& at, const var<T, 2>& q, const var<T, 2>& k, const var<T, 2>& v) {
  const index_t n = q.shape()[0], d = at.head_size;
  const bool heads_fit = at.kv_heads > 0 && at.heads % at.kv_heads == 0 && q.shape()[1] == at.heads * d &&
                         k.shape()[1] == at.kv_heads * d && v.shape() == k.shape();
  const bool rows_fit = !at.query_offsets.empty() && at.query_offsets.size() == at.key_offsets.size() &&
                        at.query_offsets.back() == n && at.key_offsets.back() == k.shape()[0];
  if (!heads_fit || !rows_fit)
    throw_error<shape_error>("attention: q is ", to_string(q.shape()), ", k is ", to_string(k.shape()), ", v is ", to_string(v.shape()),
                             "; the layout has ", at.heads, " query heads and ", at.kv_heads, " key heads of size ", d, " and ",
                             at.query_offsets.empty() ? 0 : at.query_offsets.back(), " query rows");
  auto y = t.template empty<2>(q.shape());
  const bool needs = q.needs_grad() || k.needs_grad() || v.needs_grad();
  var<T, 2> log_sum;
  if (needs) log_sum = t.template empty<2>({n, at.heads});
  kernel::attention<T>(t.ctx(), at, q.value, k.value, v.value, y.value, log_sum.value.data);
  std::uint64_t pairs = 0;
  for (index_t s = 0; s < at.sequences(); ++s)
    for (index_t rows = kernel::detail::rows_of(at.query_offsets, s).count, keys = kernel::detail::rows_of(at.key_offsets, s).count, i = 0; i < rows; ++i)
      pairs += static_cast<std::uint64_t>(kernel::detail::visible_keys(at, rows, keys, i));
  const auto qr = t.retain_if(needs, q), kr = t.retain_if(needs, k), vr = t.retain_if(needs, v);
  const auto ls = t.save_if(needs, log_sum);
  t.record_with_result({"attention", 4 * pairs * static_cast<std::uint64_t>(at.heads * d)}, y, needs,
           [=, qi = q.id, ki = k.id, vi = v.id](tensor_view<const T, 2> dy, tensor_view<const T, 2> ys, tape<T>& g) {
             const auto qs = g.value(qr), ks = g.value(kr), vs = g.value(vr);
             const auto target = [&](node_id id, const extents<2>& shape) -> kernel::gradient_target<T> {
               if (id == no_node) return {};
               const auto to = g.grad(id, shape);
               return {to.view.data, shape[1], to.beta};
             };
             kernel::attention_backward<T>(g.ctx(), at, qs, ks, vs, ys, ls.data, dy, target(qi, qs.shape), target(ki, ks.shape), target(vi, vs.shape));
           });
  return y;
}

/// Rotary position embedding, half-split: see kernel::rotate_positions. Shapes: x (N, H * D), positions (N), cosine and
/// sine (P, D / 2). Saves nothing; positions and tables must outlive the tape.
template <class T>
var<T, 2> rotate_positions(tape<T>& t, const var<T, 2>& x, index_t head_size, std::span<const std::int32_t> positions,
                           tensor_view<const T, 2> cosine, tensor_view<const T, 2> sine) {
  const index_t n = x.shape()[0], heads = x.shape()[1] / head_size;
  if (static_cast<index_t>(positions.size()) != n || cosine.shape[1] * 2 != head_size || heads * head_size != x.shape()[1])
    throw_error<shape_error>("rotate_positions: x is ", to_string(x.shape()), ", there are ", positions.size(), " positions, heads of ",
                             head_size, " and tables of ", to_string(cosine.shape));
  auto y = t.template empty<2>(x.shape());
  kernel::rotate_positions<T>(t.ctx(), n, heads, head_size, x.value.data, positions.data(), cosine.data, sine.data, false, y.value.data, T(0));
  t.record({"rotate_positions", 3 * static_cast<std::uint64_t>(x.value.size())}, y, x.needs_grad(),
           [=, xi = x.id](tensor_view<const T, 2> dy, tape<T>& g) {
             const auto to = g.grad(xi, dy.shape);
             kernel::rotate_positions<T>(g.ctx(), n, heads, head_size, dy.data, positions.data(), cosine.data, sine.data, true, to.view.data, to.beta);
           });
  return y;
}

}  // namespace graft
