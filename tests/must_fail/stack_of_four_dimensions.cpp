// SPDX-License-Identifier: Apache-2.0
// expects: graft: tensors have at most four dimensions
#include "graft/tensor/shape.hpp"

int main() {
  const auto x = graft::zeros<float>(1, 2, 3, 4);
  return static_cast<int>(graft::stack(0, x, x).size());
}
