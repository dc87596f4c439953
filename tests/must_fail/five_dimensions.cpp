// SPDX-License-Identifier: Apache-2.0
// expects: graft: tensors have at most four dimensions
#include "graft/tensor/create.hpp"

int main() {
  return static_cast<int>(graft::zeros<float>(1, 2, 3, 4, 5).size());
}
