// SPDX-License-Identifier: Apache-2.0
// expects: graft: transpose() needs a tensor of rank 2 or more
#include "graft/core/tensor.hpp"

int main() {
  const graft::tensor_view<float, 1> x;
  return x.transpose().data != nullptr;
}
