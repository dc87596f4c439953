// SPDX-License-Identifier: Apache-2.0
// expects: graft: a number of rank 0 has no axis to reduce
#include "graft/tensor/reduce.hpp"

int main() {
  const graft::tensor_view<const float, 0> x;
  return static_cast<int>(graft::sum(x, 0)());
}
