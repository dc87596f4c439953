// SPDX-License-Identifier: Apache-2.0
// expects: graft: matmul of two vectors: use dot()
#include "graft/tensor/create.hpp"
#include "graft/tensor/matmul.hpp"

int main() {
  return static_cast<int>(graft::matmul(graft::zeros<float>(2), graft::zeros<float>(2)).size());
}
