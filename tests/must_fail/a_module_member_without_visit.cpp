// SPDX-License-Identifier: Apache-2.0
// expects: graft: a visited member is neither a parameter nor a module
#include "graft/nn/module.hpp"

struct not_a_module {};

struct outer {
  using value_type = float;
  graft::parameter<float, 1> weight;
  not_a_module inner;
  static void visit(auto& self, auto& v) {
    v("weight", self.weight);
    v("inner", self.inner);
  }
};

int main() {
  outer m;
  return static_cast<int>(graft::parameters(m).size());
}
