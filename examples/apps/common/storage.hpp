// SPDX-License-Identifier: Apache-2.0
// What --dtype means: how frozen weights are stored. Read next: ../generate.cpp.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/dtype.hpp"
#include "graft/nn/storage.hpp"

namespace app {

/// The names of --dtype, and what they stand for.
inline constexpr std::pair<std::string_view, graft::dtype> weight_types[] = {
    {"f32", graft::dtype::f32}, {"bf16", graft::dtype::bf16}, {"f16", graft::dtype::f16},
    {"q8", graft::dtype::q8_0}, {"q4", graft::dtype::q4_0},   {"nf4", graft::dtype::nf4}};

inline void add_dtype_option(CLI::App& cli, std::string& name) {
  std::vector<std::string> names{"stored"};
  for (const auto& [known, type] : weight_types) names.emplace_back(known);
  cli.add_option("--dtype", name, "Storage of the frozen weights: f32, bf16, f16, q8 (8.5 bits), q4, nf4 (4.5 bits), or as stored")->check(CLI::IsMember(names));
}

/// Converts the frozen weights, unless they stay as stored. Throws option_error for a name of neither.
template <class M>
void store_weights(M& model, std::string_view name) {
  if (name == "stored") return;
  for (const auto& [known, type] : weight_types)
    if (known == name) return graft::store_weights_as(model, type);
  graft::throw_error<graft::option_error>("--dtype \"", name, "\" is not one of stored, f32, bf16, f16, q8, q4, nf4");
}

}  // namespace app
