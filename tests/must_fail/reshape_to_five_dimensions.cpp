// SPDX-License-Identifier: Apache-2.0
// expects: graft: tensors have at most four dimensions
#include "graft/core/tensor.hpp"

int main() {
  const auto x = graft::tensor<float, 2>::zeros({2, 3});
  return static_cast<int>(x.reshape(1, 1, 1, 2, 3).size());
}
