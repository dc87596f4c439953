// SPDX-License-Identifier: Apache-2.0
// Random trainable parameters in double, and the gradient check over them.
#pragma once
#include <deque>
#include <vector>

#include "graft/autograd/gradcheck.hpp"
#include "graft/nn/parameter.hpp"
#include "support/near.hpp"

namespace graft::test {

/// Makes parameters and keeps them, so that a check can vary them all.
class leaves {
 public:
  parameter<double, 2>& matrix(index_t rows, index_t columns) {
    return matrices_.emplace_back(random_tensor<double, 2>({rows, columns}, ++seed_));
  }
  parameter<double, 1>& vector(index_t n) { return vectors_.emplace_back(random_tensor<double, 1>({n}, ++seed_)); }

  /// The relative error of the gradients of a loss that uses them.
  template <class Loss>
  double gradient_error(context& ctx, Loss loss) {
    std::vector<checked_leaf<double>> all;
    for (auto& p : matrices_) all.push_back({p.value(), p.gradient()});
    for (auto& p : vectors_) all.push_back({p.value(), p.gradient()});
    return graft::gradient_error<double>(ctx, all, loss);
  }

 private:
  std::deque<parameter<double, 2>> matrices_;
  std::deque<parameter<double, 1>> vectors_;
  std::uint64_t seed_ = 0;
};

}  // namespace graft::test
