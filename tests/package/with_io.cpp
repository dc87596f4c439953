// SPDX-License-Identifier: Apache-2.0
// graft::io alone: a state through bytes and back.
#include <cstdio>

#include "graft/io/safetensors.hpp"

int main() {
  const auto x = graft::tensor<float, 2>::of({{1, 2}, {3, 4}});
  const graft::state_dict state{{{"x", graft::to_array<float, 2>(x)}}, {}};
  const auto back = graft::from_safetensors(graft::to_safetensors(state), "memory");
  std::printf("io: %s\n", graft::find(back.items, "x")->bytes == state.items[0].second.bytes ? "the same bytes" : "other bytes");
}
