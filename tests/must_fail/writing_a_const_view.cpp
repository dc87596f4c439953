// SPDX-License-Identifier: Apache-2.0
// expects: graft: the elements of this view are const and cannot be written
#include "graft/tensor/arithmetic.hpp"

int main() {
  const auto x = graft::tensor<float, 2>::zeros({2, 3});
  x.row(0) += 1;
  return 0;
}
