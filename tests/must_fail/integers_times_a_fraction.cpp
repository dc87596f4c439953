// SPDX-License-Identifier: Apache-2.0
// expects: graft: a number with a fraction meets a tensor of integers
#include "graft/tensor/arithmetic.hpp"
#include "graft/tensor/create.hpp"

int main() {
  return static_cast<int>((graft::eye<int>(2) * 0.5).size());
}
