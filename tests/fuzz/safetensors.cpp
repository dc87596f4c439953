// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: any bytes are refused as a safetensors file, or seen in a way that makes sense.
#include "support/safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (!graft::test::refused_or_consistent(std::as_bytes(std::span(data, size)))) __builtin_trap();
  return 0;
}
