// SPDX-License-Identifier: Apache-2.0
// expects: graft: this takes tensors of float or double
#include "graft/tensor/create.hpp"
#include "graft/tensor/matmul.hpp"

int main() {
  return static_cast<int>(graft::matmul(graft::eye<int>(2), graft::eye<int>(2)).size());
}
