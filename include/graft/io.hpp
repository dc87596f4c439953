// SPDX-License-Identifier: Apache-2.0
// Files and bytes: safetensors, checkpoints, published models, PEFT folders, federated messages, NumPy's arrays. Needs
// nlohmann_json. Tokenizers are in graft/text.hpp, what fewer programs need in
// graft/io/gguf_lora.hpp, prompt_folder.hpp, tuned_folder.hpp and adapter_registry.hpp.
#pragma once
#include "graft/io/load_model.hpp"
#include "graft/io/npy.hpp"
#include "graft/io/peft_folder.hpp"
#include "graft/io/save_model.hpp"
#include "graft/io/update_codec.hpp"
