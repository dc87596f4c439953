// SPDX-License-Identifier: Apache-2.0
// expects: graft: a rank-0 tensor has no axis to select from
#include "graft/core/tensor.hpp"

int main() {
  const graft::tensor_view<float, 0> x;
  return x.select(0, 0).data != nullptr;
}
