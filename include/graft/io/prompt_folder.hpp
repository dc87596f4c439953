// SPDX-License-Identifier: Apache-2.0
// Soft prompts and prefixes as the folders Python's peft writes and reads for its types PROMPT_TUNING and PREFIX_TUNING.
// Read next: io/peft_folder.hpp.
#pragma once
#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "graft/io/checkpoint.hpp"
#include "graft/io/detail/adapter_folder.hpp"
#include "graft/peft/prefix.hpp"
#include "graft/peft/prompt.hpp"

namespace graft {

namespace detail {

inline constexpr std::string_view prompt_key = "prompt_embeddings";
inline constexpr index_t most_virtual_tokens = 1 << 16, widest_prompt = 1 << 20, most_prompt_layers = 4096;

/// One matrix under the key of both types, and settings that PEFT would otherwise take from the model.
template <class = void>
void write_prompt_folder(const std::filesystem::path& folder, array rows, json_object_text settings, index_t token_dim, index_t layers,
                         index_t heads) {
  settings.add("num_virtual_tokens", rows.shape[0]);
  settings.add("num_transformer_submodules", index_t{1});
  settings.add("token_dim", token_dim);
  settings.add("num_layers", layers);
  settings.add("num_attention_heads", heads);
  state_dict state{{}, {{"format", "pt"}}};
  state.items.emplace_back(std::string(prompt_key), std::move(rows));
  write_adapter_folder(folder, state, settings.str());
}

/// The folder's one matrix, (virtual tokens, parts * token_dim), as the settings say; parts is 2 num_layers for a prefix, else 1.
template <class T>
tensor<T, 2> read_prompt_rows(const std::filesystem::path& folder, const json_node& config, index_t parts) {
  if (const auto n = config.optional("num_transformer_submodules"); n && n->as<index_t>() != 1) n->reject("1, as of a model of one part");
  const index_t tokens = config.required("num_virtual_tokens").integer<index_t>(1, most_virtual_tokens);
  const index_t width = parts * config.required("token_dim").integer<index_t>(1, widest_prompt);
  const auto path = folder / "adapter_model.safetensors";
  const checkpoint_files file(path);
  const array_ref* rows = file.find(prompt_key);
  if (rows == nullptr) throw_error<format_error>(path.string(), ": has no tensor ", in_quotes(prompt_key));
  if (file.arrays().size() != 1)
    throw_error<format_error>(path.string(), ": has ", file.arrays().size(), " tensors, expected ", prompt_key, " alone");
  if (rows->shape != std::vector<index_t>{tokens, width})
    throw_error<format_error>(path.string(), ": ", prompt_key, " is ", to_string(rows->shape), ", adapter_config.json says ",
                              to_string(extents<2>{tokens, width}));
  check_finite(path.string(), prompt_key, rows->type, rows->bytes);
  tensor<T, 2> values({tokens, width});
  convert_array(rows->type, rows->shape, rows->bytes.data(), values.data());
  return values;
}

}  // namespace detail

/// Writes a model's soft prompt. Throws io_error when the files cannot be written, and then the old ones stay.
template <module M>
void save_prompt(const prompted<M>& model, const std::filesystem::path& folder, const adapter_folder_options& o = {}) {
  using T = typename M::value_type;
  auto settings = detail::adapter_settings_text("PROMPT_TUNING", o);
  settings.add("prompt_tuning_init", "RANDOM");
  detail::write_prompt_folder(folder, to_array<T, 2>(model.prompt.embeddings.view()), std::move(settings), model.prompt.width(),
                              model.config.num_hidden_layers, model.config.num_attention_heads);
}

/// The soft prompt in a folder: prompted(std::move(model), load_prompt<float>(folder)) puts it before a model. Throws format_error when
/// the folder is of another type, its tensor is not as its settings say, or values are not finite.
template <class T>
soft_prompt<T> load_prompt(const std::filesystem::path& folder) {
  const auto config = detail::read_adapter_settings(
      folder, "PROMPT_TUNING", {"num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules",
                                "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"});
  return soft_prompt<T>(detail::read_prompt_rows<T>(folder, config, 1));
}

/// Writes a model's prefix. Throws io_error when the files cannot be written, and then the old ones stay.
template <module M>
void save_prefix(const prefixed<M>& model, const std::filesystem::path& folder, const adapter_folder_options& o = {}) {
  using T = typename M::value_type;
  const auto& p = model.prefix;
  tensor<T, 2> rows({p.tokens(), 2 * p.layers() * p.width()});
  for (std::size_t i = 0; i < p.rows.size(); ++i)
    for (index_t r = 0; r < p.tokens(); ++r)
      std::copy_n(&p.rows[i].view()(r, 0), p.width(), &rows(r, static_cast<index_t>(i) * p.width()));
  index_t heads = model.config.num_attention_heads;
  if constexpr (requires { model.config.num_key_value_heads; }) heads = model.config.num_key_value_heads;
  auto settings = detail::adapter_settings_text("PREFIX_TUNING", o);
  settings.add("prefix_projection", false);
  detail::write_prompt_folder(folder, to_array<T, 2>(rows.view()), std::move(settings), p.width(), p.layers(), heads);
}

/// The prefix in a folder: prefixed(std::move(model), load_prefix<float>(folder)). A projection of PEFT's is folded into the rows when it
/// saves them, so that it makes no difference here. Throws as load_prompt() does.
template <class T>
key_value_prefix<T> load_prefix(const std::filesystem::path& folder) {
  const auto config = detail::read_adapter_settings(
      folder, "PREFIX_TUNING", {"num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules",
                                "prefix_projection", "encoder_hidden_size", "init_weights"});
  const index_t parts = 2 * config.required("num_layers").integer<index_t>(1, detail::most_prompt_layers);
  const auto rows = detail::read_prompt_rows<T>(folder, config, parts);
  const index_t tokens = rows.shape()[0], width = rows.shape()[1] / parts;
  std::vector<tensor<T, 2>> all;
  for (index_t i = 0; i < parts; ++i) {
    auto& part = all.emplace_back(extents<2>{tokens, width});
    for (index_t r = 0; r < tokens; ++r) std::copy_n(&rows(r, i * width), width, &part(r, 0));
  }
  return key_value_prefix<T>(std::move(all));
}

}  // namespace graft
