// SPDX-License-Identifier: Apache-2.0
// expects: graft: give one index per dimension of the tensor
#include "graft/core/tensor.hpp"

int main() {
  const auto x = graft::tensor<float, 2>::zeros({2, 3});
  return static_cast<int>(x(1));
}
