// SPDX-License-Identifier: Apache-2.0
// expects: graft: tensors of different rank are joined
#include "graft/tensor/shape.hpp"

int main() {
  return static_cast<int>(graft::concatenate(0, graft::zeros<float>(2), graft::zeros<float>(2, 2)).size());
}
