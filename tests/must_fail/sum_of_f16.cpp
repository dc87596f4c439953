// SPDX-License-Identifier: Apache-2.0
// expects: graft: bf16 and f16 only store numbers
#include "graft/tensor/create.hpp"
#include "graft/tensor/reduce.hpp"

int main() {
  return static_cast<int>(graft::sum(graft::eye<graft::f16>(2)));
}
