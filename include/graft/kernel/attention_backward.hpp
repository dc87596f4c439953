// SPDX-License-Identifier: Apache-2.0
// Scaled dot-product attention: backward, for all heads of all sequences. Read next: ops/attention.hpp.
#pragma once
#include "graft/kernel/attention_backward_task.hpp"
#include "graft/kernel/bf16_attention_backward.hpp"

namespace graft::kernel {
namespace detail {

/// to = beta * to + sum over the group's copies, in order. copies: (heads, rows, head size).
template <class T, class Arch>
void reduce_groups(context& ctx, const attention_layout& at, index_t rows, const T* copies, gradient_target<T> to) {
  const index_t d = at.head_size, group = at.group();
  ctx.executor().parallel_for(rows, 16, [&](index_t first, index_t last) {
    for (index_t n = first; n < last; ++n)
      for (index_t g = 0; g < at.kv_heads; ++g) {
        const T* const from = copies + (g * group * rows + n) * d;
        T* const out = to.data + n * to.row_step + g * d;
        for_each_vector<T, Arch>(d, [&](index_t c, index_t lanes) GRAFT_INLINED {
          auto sum = simd::load_first<T, Arch>(from + c, lanes);
          for (index_t h = 1; h < group; ++h) sum += simd::load_first<T, Arch>(from + h * rows * d + c, lanes);
          if (to.beta != T(0)) sum = simd::fma(simd::batch<T, Arch>(to.beta), simd::load_first<T, Arch>(out + c, lanes), sum);
          simd::store_first(out + c, sum, lanes);
        });
      }
  });
}

/// attention_backward, by pairs of bf16 values or not. Tasks are (sequence, query head); where heads share keys, each writes a copy that is
/// summed after.
template <class T, class Arch>
void run_backward(context& ctx, const backward_task<T, Arch>& all, bool in_pairs) {
  const attention_layout& at = all.at;
  const index_t d = at.head_size, copy = all.k.shape[0] * d;
  const std::size_t copied = static_cast<std::size_t>(at.heads * copy);
  const bool shared_keys = at.group() > 1;  // then every query head writes a copy of its own
  gradient_target<T> dk_of_head = all.dk, dv_of_head = all.dv;
  buffer_handle copies;
  if (shared_keys && (all.dk.data != nullptr || all.dv.data != nullptr)) {
    copies = ctx.pool().take(2 * copied * sizeof(T));
    T* const first = reinterpret_cast<T*>(copies.data());
    if (all.dk.data != nullptr) dk_of_head = {first, d, T(0)};
    if (all.dv.data != nullptr) dv_of_head = {first + copied, d, T(0)};
  }

  index_t room = all.scratch_elements(d);
  if constexpr (could_go_in_bf16<T, Arch>)
    if (in_pairs) room = all.scratch_elements_in_pairs(d, longest(at.key_offsets));
  ctx.scratch().reserve(static_cast<std::size_t>(room) * sizeof(T));
  ctx.executor().parallel_for(at.sequences() * at.heads, 1, [&](index_t t, index_t) {
    const auto scratch = ctx.scratch().take();
    backward_task<T, Arch> one = all;
    one.s = t / at.heads;
    one.head = t % at.heads;
    one.key_column = shared_keys ? one.head * copy : one.head / at.group() * d;
    one.dk = dk_of_head;
    one.dv = dv_of_head;
    if (rows_of(at.query_offsets, one.s).count == 0) return one.unseen_keys();
    if constexpr (could_go_in_bf16<T, Arch>)
      if (in_pairs) return one.run_in_pairs(scratch.template as<T>());
    one.run(scratch.template as<T>());
  });
  if (shared_keys && all.dk.data != nullptr) reduce_groups<T, Arch>(ctx, at, all.k.shape[0], dk_of_head.data, all.dk);
  if (shared_keys && all.dv.data != nullptr) reduce_groups<T, Arch>(ctx, at, all.k.shape[0], dv_of_head.data, all.dv);
}

}  // namespace detail

/// Gradients of attention() for the output gradient dy. Takes what forward took and gave, and adds to dq, dk and dv as
/// their targets say. Where the context asks for bf16 products and the processor has matrix registers, the factors of all five are rounded.
/// Cost: 10 D flops for every visible pair and head. Workspace: with groups, one dk and dv of the queries' width; of a thread, in bf16,
/// the keys and values of one head as well.
template <class T, class Arch = simd::default_arch>
void attention_backward(context& ctx, const attention_layout& at, tensor_view<const T, 2> q, tensor_view<const T, 2> k,
                        tensor_view<const T, 2> v, tensor_view<const T, 2> y, const T* log_sum, tensor_view<const T, 2> dy,
                        gradient_target<T> dq, gradient_target<T> dk, gradient_target<T> dv) {
  const bool in_pairs = detail::could_go_in_bf16<T, Arch> && detail::attends_in_pairs(ctx, at);
  detail::run_backward(ctx, detail::backward_task<T, Arch>{at, q, k, v, y, dy, log_sum, dq, dk, dv, 0, 0, 0}, in_pairs);
}

}  // namespace graft::kernel
