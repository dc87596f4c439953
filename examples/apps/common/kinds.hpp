// SPDX-License-Identifier: Apache-2.0
// Every kind of adapter by its name, for --kind. Read next: ../classify.cpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "graft/io/peft_folder.hpp"
#include "graft/io/safetensors.hpp"
#include "graft/methods/finegates.hpp"
#include "graft/peft/bottleneck.hpp"
#include "graft/peft/compound.hpp"
#include "graft/peft/dora.hpp"

namespace app {

struct kind_options {
  std::string kind = "lora";
  graft::lora_options lora{.rank = 8, .alpha = 16, .dropout = 0.1};
  double sparsity = 0.4;         // of gates
  graft::index_t gate_rank = 0;  // of the low-rank part inside gates
};

inline const std::vector<std::string> kinds{"lora", "dora", "ia3", "vera", "bottleneck", "oft", "hamming", "gates", "full"};
inline const std::vector<std::string> peft_kinds{"lora", "dora", "ia3", "vera", "oft"};  // saved as PEFT folders

/// Attaches adapters of the named kind, or for "full" makes every weight trainable; returns on how many layers.
template <class M>
graft::index_t attach_kind(M& model, const graft::target_modules& where, const kind_options& o, std::uint64_t seed) {
  const graft::attach_options as{.seed = seed};
  if (o.kind == "lora") return graft::attach(model, where, o.lora, as);
  if (o.kind == "dora") return graft::attach(model, where, graft::dora_options{.lora = o.lora}, as);
  if (o.kind == "ia3") return graft::attach(model, where, graft::ia3_options{}, as);
  if (o.kind == "vera") return graft::attach(model, where, graft::vera_options{}, as);
  if (o.kind == "bottleneck") return graft::attach(model, where, graft::bottleneck_options{}, as);
  if (o.kind == "oft") return graft::attach(model, where, graft::compound_options{.blocks = 12, .orders = {1}, .rotate = graft::compound_options::side::input}, as);
  if (o.kind == "hamming") return graft::attach(model, where, graft::compound_options{}, as);
  if (o.kind == "gates") return graft::attach(model, where, graft::gated_options{.sparsity = o.sparsity, .rank = o.gate_rank}, as);
  graft::index_t layers = 0;
  graft::unfreeze(model);
  graft::visit_layers(model, [&](std::string_view, auto&) { ++layers; });
  return layers;
}

/// Writes what is trainable: a PEFT folder where PEFT has the kind, else adapter.safetensors. Returns the bytes of the files.
template <class M>
std::uintmax_t save_kind(M& model, const kind_options& o, const std::filesystem::path& folder, const graft::save_peft_options& as) {
  if (std::ranges::find(peft_kinds, o.kind) != peft_kinds.end()) {
    graft::save_peft(model, folder, as);
  } else {
    std::filesystem::create_directories(folder);
    graft::save_safetensors(folder / "adapter.safetensors", graft::save_state(model, graft::is_trainable));
  }
  std::uintmax_t bytes = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) bytes += file.file_size();
  return bytes;
}

}  // namespace app
