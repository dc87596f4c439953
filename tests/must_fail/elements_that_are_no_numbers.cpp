// SPDX-License-Identifier: Apache-2.0
// expects: graft: tensor elements are plain numbers
#include <string>

#include "graft/core/tensor.hpp"

int main() {
  return graft::tensor<std::string, 1>({3}).data() != nullptr;
}
