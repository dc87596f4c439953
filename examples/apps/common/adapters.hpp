// SPDX-License-Identifier: Apache-2.0
// What --adapter means, given once or several times. Read next: ../generate.cpp.
#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "graft/io/peft_folder.hpp"

namespace app {

inline void add_adapter_option(CLI::App& cli, std::vector<std::string>& folders) {
  cli.add_option("--adapter", folders, "PEFT folder to attach; may be given several times")->allow_extra_args(false);
}

/// Attaches PEFT folders in order, frozen: the first under the name "default", the others under "adapter2" and so on.
template <class M>
void load_adapters(M& model, const std::vector<std::string>& folders) {
  for (std::size_t i = 0; i < folders.size(); ++i)
    graft::load_peft(model, folders[i], {.name = i == 0 ? "default" : "adapter" + std::to_string(i + 1), .trainable = false});
}

}  // namespace app
