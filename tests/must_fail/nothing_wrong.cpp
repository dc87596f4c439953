// SPDX-License-Identifier: Apache-2.0
// expects: nothing
#include "graft/tensor/arithmetic.hpp"
#include "graft/tensor/print.hpp"
#include "graft/tensor/matmul.hpp"
#include "graft/tensor/shape.hpp"

int main() {
  auto x = graft::zeros<float>(2, 3);
  x += 1;
  const auto y = graft::matmul(x, x.transpose()) * 2;
  return y(0, 1) == 12 && graft::to_string(y).empty() ? 1 : 0;
}
