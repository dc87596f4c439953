// SPDX-License-Identifier: Apache-2.0
// Cross-entropy, alone and fused with the linear layer before it so that the logits of a batch never exist at once.
// Read next: models/llama.hpp.
#pragma once
#include <cstdint>
#include <span>

#include "graft/core/frozen_array.hpp"
#include "graft/kernel/blocked_cross_entropy.hpp"
#include "graft/kernel/gemm.hpp"
#include "graft/kernel/softmax.hpp"
#include "graft/ops/embedding.hpp"
#include "graft/ops/linear.hpp"

namespace graft {

namespace detail {

/// Rows of logits that exist at once where the weight is trained: 128 rows of 49,152 floats are 24 MiB.
inline constexpr index_t loss_chunk = 128;

/// Logits that exist at once where the weight is frozen: so many rows and classes. Classes are whole panels of every tile, an even
/// number of them for threads to share, and few enough that their weights stay near for the second product.
inline constexpr index_t loss_rows = 256, loss_classes = 768;

/// How many labels count. Throws shape_error for a label outside [0, classes) that is not ignored_label.
inline index_t count_labels(std::string_view op, std::span<const std::int32_t> labels, index_t rows, index_t classes) {
  if (static_cast<index_t>(labels.size()) != rows)
    throw_error<shape_error>(op, ": there are ", rows, " rows and ", labels.size(), " labels");
  index_t counted = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] == kernel::ignored_label) continue;
    if (labels[i] < 0 || labels[i] >= classes)
      throw_error<shape_error>(op, ": label ", labels[i], " at row ", i, " is not one of ", classes, " classes");
    ++counted;
  }
  return counted;
}

template <class T>
T mean_loss(const T* losses, index_t rows, index_t counted) {
  double sum = 0;
  for (index_t i = 0; i < rows; ++i) sum += static_cast<double>(losses[i]);
  return counted == 0 ? T(0) : static_cast<T>(sum / static_cast<double>(counted));
}

/// The backward pass of a mean whose gradient was computed in the forward pass: add it, times the loss's own gradient.
template <class T>
void add_scaled(tape<T>& g, node_id id, tensor_view<const T, 2> gradient, T factor) {
  const auto to = g.grad(id, gradient.shape);
  kernel::map<T>(g.ctx(), gradient.size(), to.view.data, to.beta, kernel::times_constant<T>{factor}, gradient.data);
}

/// The losses of rows and the gradients of x, unless dx is empty, and of w, by whole logits of some rows at a time.
template <class T>
void loss_by_rows(tape<T>& t, tensor_view<const T, 2> x, const matrix_ref& w, std::span<const std::int32_t> labels, T factor, T* losses,
                  tensor_view<T, 2> dx, tensor_view<T, 2> dw) {
  const index_t n = x.shape[0], classes = w.rows;
  auto logits = t.template empty<2>({std::min(n, loss_chunk), classes});
  for (index_t first = 0; first < n; first += loss_chunk) {
    const index_t rows = std::min(loss_chunk, n - first);
    const tensor_view<T, 2> chunk(logits.value.data, {rows, classes});
    const auto xc = x.slice(0, first, first + rows);
    kernel::matmul_nt<T>(t.ctx(), xc, w, chunk);
    kernel::cross_entropy_rows<T>(t.ctx(), rows, classes, chunk.data, labels.data() + first, factor, losses + first);
    if (dx.shape[0] != 0) kernel::matmul_nn<T>(t.ctx(), chunk, w, dx.slice(0, first, first + rows));
    kernel::matmul_tn<T>(t.ctx(), chunk, xc, dw, {1, first == 0 ? 0.0 : 1.0});
  }
}

/// The losses of rows and the gradient of x, unless dx is empty, by some rows and some classes at a time.
template <class T>
void loss_by_blocks(tape<T>& t, tensor_view<const T, 2> x, const matrix_ref& w, std::span<const std::int32_t> labels, T factor, T* losses,
                    tensor_view<T, 2> dx) {
  const index_t n = x.shape[0], most_rows = std::min(n, loss_rows), most_classes = std::min(w.rows, loss_classes);
  auto logits = t.template empty<2>({most_rows, most_classes}), state = t.template empty<2>({3, most_rows});
  const kernel::softmax_so_far<T> so_far{state.value.data, state.value.data + most_rows, state.value.data + 2 * most_rows};
  for (index_t first = 0; first < n; first += most_rows) {
    const index_t rows = std::min(most_rows, n - first);
    const auto xr = x.slice(0, first, first + rows);
    const auto dxr = dx.shape[0] == 0 ? dx : dx.slice(0, first, first + rows);
    const std::int32_t* const row_labels = labels.data() + first;
    for (index_t c = 0; c < w.rows; c += most_classes) {
      const auto block_weights = rows_of(w, c, std::min(most_classes, w.rows - c));
      const tensor_view<T, 2> block(logits.value.data, {rows, block_weights.rows});
      kernel::matmul_nt<T>(t.ctx(), xr, block_weights, block);
      kernel::cross_entropy_block<T>(t.ctx(), block, c, row_labels, so_far, dxr);
      if (dx.shape[0] != 0) kernel::matmul_nn<T>(t.ctx(), block, block_weights, dxr, {1, c == 0 ? 0.0 : 1.0});
    }
    kernel::cross_entropy_end<T>(t.ctx(), rows, w, row_labels, so_far, factor, dxr, losses + first);
  }
}

/// The shared body of both forms: `weights` is the matrix, `wi` its node when it is trainable. Where a quarter of the rows and more do
/// not count, as those of prompts, only the others are worked on.
template <class T>
var<T, 0> linear_cross_entropy(tape<T>& t, const var<T, 2>& x, const matrix_ref& weights, node_id wi, std::span<const std::int32_t> labels) {
  check_inner_extents("linear_cross_entropy", "x", x.shape(), x.shape()[1], "weight", extents<2>{weights.rows, weights.cols}, weights.cols);
  const index_t n = x.shape()[0], c = x.shape()[1], classes = weights.rows;
  const index_t counted = count_labels("linear_cross_entropy", labels, n, classes);
  if (counted > 0 && 4 * counted <= 3 * n) {
    const auto rows = t.template keep_room<std::int32_t>(static_cast<std::size_t>(counted)), kept = t.template keep_room<std::int32_t>(rows.size());
    for (std::size_t i = 0, to = 0; i < labels.size(); ++i) {
      if (labels[i] == kernel::ignored_label) continue;
      rows[to] = static_cast<std::int32_t>(i);
      kept[to++] = labels[i];
    }
    return linear_cross_entropy(t, take_rows<T>(t, x, rows), weights, wi, kept);
  }
  const bool x_wanted = x.needs_grad(), w_wanted = wi != no_node;
  const T factor = counted == 0 ? T(0) : T(1) / static_cast<T>(counted);
  auto loss = t.template empty<0>({});
  auto losses = t.template empty<1>({n});
  var<T, 2> dx, dw;
  if (x_wanted) dx = t.template empty<2>(x.shape());
  if (w_wanted) dw = t.template empty<2>({classes, c});
  if (w_wanted) loss_by_rows<T>(t, x.value, weights, labels, factor, losses.value.data, dx.value, dw.value);
  else loss_by_blocks<T>(t, x.value, weights, labels, factor, losses.value.data, dx.value);
  *loss.value.data = mean_loss(losses.value.data, n, counted);
  const auto dxs = t.save_if(x_wanted, dx), dws = t.save_if(w_wanted, dw);
  const std::uint64_t products = 1 + (x_wanted ? 1 : 0) + (w_wanted ? 1 : 0);  // gradients are made here and only scaled in the backward pass
  t.record({"linear_cross_entropy", products * product_flops(n, classes, c)}, loss, x_wanted || w_wanted,
           [dxs, dws, xi = x.id, wi](tensor_view<const T, 0> dl, tape<T>& g) {
             if (xi != no_node) add_scaled(g, xi, dxs, *dl.data);
             if (wi != no_node) add_scaled(g, wi, dws, *dl.data);
           });
  return loss;
}

}  // namespace detail

/// Mean over the counted rows of -log softmax(x W^T)(n, label(n)). Labels equal to -100 do not count; without any that
/// does, the loss is 0. Computes the gradient on the way, with a frozen w by blocks of rows and classes, with a trained one through
/// 128 rows of all classes at a time; saves the gradient of x, and of w if that is trainable. Shapes: x (N, C), w (V, C), labels (N).
/// Cost: 2 N V C flops, twice more per gradient, where N is of the counted rows once they are three quarters or fewer.
template <class T>
var<T, 0> linear_cross_entropy(tape<T>& t, const var<T, 2>& x, const var<T, 2>& w, std::span<const std::int32_t> labels) {
  return detail::linear_cross_entropy(t, x, matrix_ref(w.value), w.id, labels);
}
/// The same with a frozen weight of any storage type.
template <class T>
var<T, 0> linear_cross_entropy(tape<T>& t, const var<T, 2>& x, const matrix_ref& w, std::span<const std::int32_t> labels) {
  return detail::linear_cross_entropy(t, x, w, no_node, labels);
}

/// The same from logits (N, V) that exist already: classification heads. Saves the gradient of the logits.
template <class T>
var<T, 0> cross_entropy(tape<T>& t, const var<T, 2>& logits, std::span<const std::int32_t> labels) {
  const index_t n = logits.shape()[0], classes = logits.shape()[1];
  const index_t counted = detail::count_labels("cross_entropy", labels, n, classes);
  auto loss = t.template empty<0>({});
  auto losses = t.template empty<1>({n});
  auto gradient = t.template empty<2>(logits.shape());
  std::copy_n(logits.value.data, logits.value.size(), gradient.value.data);
  kernel::cross_entropy_rows<T>(t.ctx(), n, classes, gradient.value.data, labels.data(), counted == 0 ? T(0) : T(1) / static_cast<T>(counted), losses.value.data);
  *loss.value.data = detail::mean_loss(losses.value.data, n, counted);
  const auto gs = t.save_if(logits.needs_grad(), gradient);
  t.record({"cross_entropy", 4 * static_cast<std::uint64_t>(logits.value.size())}, loss, logits.needs_grad(),
           [gs, li = logits.id](tensor_view<const T, 0> dl, tape<T>& g) { detail::add_scaled(g, li, gs, *dl.data); });
  return loss;
}

}  // namespace graft
