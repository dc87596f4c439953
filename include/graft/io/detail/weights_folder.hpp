// SPDX-License-Identifier: Apache-2.0
// Folders of a file of weights and one of settings, which belong together. Read next: io/save_model.hpp, io/peft_folder.hpp.
#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include "graft/io/atomic_file.hpp"
#include "graft/io/safetensors.hpp"

namespace graft::detail {

/// The names of the two files.
struct folder_files {
  std::string_view weights, settings;
};
inline constexpr folder_files adapter_files{"adapter_model.safetensors", "adapter_config.json"}, model_files{"model.safetensors", "config.json"};

/// Makes the folder if need be and writes both files. Both are on the disk before either takes its place, so that a full disk leaves the old
/// two. Throws io_error.
template <class = void>
void write_weights_folder(const std::filesystem::path& folder, const folder_files& names, const records<array_ref>& arrays,
                          const records<std::string>& metadata, std::string_view settings_text) {
  const auto plan = plan_safetensors(arrays, metadata);
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) throw_error<io_error>("cannot make the folder \"", folder.string(), "\": ", failure.message());
  temporary_file weights(folder / names.weights), settings(folder / names.settings);
  write_safetensors(plan, [&](std::span<const std::byte> part) { weights.write(part); });
  settings.write(std::as_bytes(std::span(settings_text)));
  weights.complete();
  settings.complete();
  weights.take_place();
  settings.take_place();
}

}  // namespace graft::detail
