// SPDX-License-Identifier: Apache-2.0
// expects: graft: the tensors differ in element type
#include "graft/tensor/arithmetic.hpp"
#include "graft/tensor/create.hpp"

int main() {
  return static_cast<int>((graft::eye<float>(2) + graft::eye<double>(2)).size());
}
