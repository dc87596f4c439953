// SPDX-License-Identifier: Apache-2.0
// Cross-entropy of rows whose classes come block by block, so that no row of logits ever exists as a whole: like attention in its
// online form, with the rows of the weight as keys and as values. Read next: ops/loss.hpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "graft/core/frozen_array.hpp"
#include "graft/kernel/softmax.hpp"
#include "graft/simd/blocks.hpp"

namespace graft::kernel {

/// What is known of every row's softmax after some of the classes. The label's class is kept apart from the others: 1 - its
/// probability is then a sum, not a difference, and stays exact where the label is nearly certain.
template <class T>
struct softmax_so_far {
  T* most;    // the largest logit
  T* others;  // the sum of exp(logit - most) over the classes that are not the label
  T* target;  // the label's logit, once it was met
};

/// The next block of classes: logits (N, B) of the classes from `first` on, which become exp(logit - most), and 0 at the label. `sums`
/// (N, C), what the blocks before gave, are scaled to the new `most`; they may be empty. With first = 0 a row begins. A row with an
/// ignored label becomes 0. Logits and sums are contiguous in a row.
template <class T, class Arch = simd::default_arch>
void cross_entropy_block(context& ctx, tensor_view<T, 2> logits, index_t first, const std::int32_t* labels, softmax_so_far<T> so_far,
                         tensor_view<T, 2> sums) {
  const index_t columns = logits.shape[1];
  ctx.executor().parallel_for(logits.shape[0], detail::row_grain(columns), [&](index_t begin, index_t end) {
    for (index_t n = begin; n < end; ++n) {
      T* const row = logits.data + n * logits.stride[0];
      T &most = so_far.most[n], &others = so_far.others[n];
      if (labels[n] == ignored_label) {
        std::fill_n(row, columns, T(0));
        continue;
      }
      if (first == 0) {
        most = std::numeric_limits<T>::lowest();
        others = 0;
      }
      const T new_most = simd::max(most, detail::row_maximum<T, Arch>(row, columns));
      if (first != 0 && new_most > most) {
        const T factor = std::exp(most - new_most);
        others *= factor;
        if (sums.shape[0] != 0) detail::row_scale<T, Arch>(sums.data + n * sums.stride[0], sums.shape[1], factor);
      }
      most = new_most;
      const index_t label = labels[n] - first;
      if (label >= 0 && label < columns) {
        so_far.target[n] = row[label];
        row[label] = -std::numeric_limits<T>::infinity();
      }
      others += detail::row_exponentials<T, Arch>(row, columns, T(1), most);
    }
  });
}

/// After the last block: loss(n) = log sum exp logits(n, .) - logits(n, label(n)), and `sums`, which hold the exponentials of all blocks
/// times the weight's rows, become `factor` times the loss's gradient; they may be empty. Rows with an ignored label get loss 0 and gradient 0.
/// Shapes: weight (V, C) in any storage, sums (N, C).
template <class T, class Arch = simd::default_arch>
void cross_entropy_end(context& ctx, index_t rows, const matrix_ref& weight, const std::int32_t* labels, softmax_so_far<T> so_far, T factor,
                       tensor_view<T, 2> sums, T* loss) {
  visit_matrix(weight, [&](auto from) {
    ctx.executor().parallel_for(rows, detail::row_grain(weight.cols), [&](index_t begin, index_t end) {
      for (index_t n = begin; n < end; ++n) {
        T* const row = sums.shape[0] == 0 ? nullptr : sums.data + n * sums.stride[0];
        if (labels[n] == ignored_label) {
          loss[n] = 0;
          if (row != nullptr) std::fill_n(row, weight.cols, T(0));
          continue;
        }
        const T all = so_far.others[n] + std::exp(so_far.target[n] - so_far.most[n]);
        loss[n] = so_far.most[n] + std::log(all) - so_far.target[n];
        if (row == nullptr) continue;
        const simd::batch<T, Arch> by(factor / all), less(-factor * (so_far.others[n] / all));
        const auto label_row = from.data + labels[n] * from.stride[0];
        detail::for_each_vector<T, Arch>(weight.cols, [&](index_t c, index_t lanes) GRAFT_INLINED {
          const auto of_label = lanes == simd::width<T, Arch> ? simd::load_as<T, Arch>(label_row + c) : simd::load_partial_as<T, Arch>(label_row + c, lanes);
          simd::store_first(row + c, simd::fma(less, of_label, by * simd::load_first<T, Arch>(row + c, lanes)), lanes);
        });
      }
    });
  });
}

}  // namespace graft::kernel
