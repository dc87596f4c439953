// SPDX-License-Identifier: Apache-2.0
// expects: graft: bf16 and f16 only store numbers
#include "graft/tensor/arithmetic.hpp"
#include "graft/tensor/create.hpp"

int main() {
  const auto x = graft::eye<graft::bf16>(2);
  return static_cast<int>((x * 2).size());
}
