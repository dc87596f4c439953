// SPDX-License-Identifier: Apache-2.0
// Parsed once for all programs that read or write models and adapters, which declare here what files.cpp compiles once. Not a part of
// graft::precompiled: adapters compute in the flags of who compiles them, and here these are our programs'.
#pragma once
#include "graft/io.hpp"
#include "graft/precompiled.hpp"
#include "graft/text.hpp"

#define GRAFT_FILES(EXTERN, T)                                                                                                           \
  namespace graft {                                                                                                                     \
  EXTERN template struct dora<T>;                                                                                                       \
  EXTERN template struct vera<T>;                                                                                                       \
  EXTERN template struct ia3<T>;                                                                                                        \
  EXTERN template struct bottleneck<T>;                                                                                                 \
  EXTERN template struct compound<T>;                                                                                                   \
  EXTERN template tokenizer load_tokenizer<void>(const std::filesystem::path&);                                                         \
  EXTERN template safetensors_view view_safetensors<void>(std::span<const std::byte>, std::string_view, foreign_types);                 \
  EXTERN template state_dict from_safetensors<void>(std::span<const std::byte>, std::string_view);                                      \
  EXTERN template state_dict load_safetensors<void>(const std::filesystem::path&);                                                      \
  EXTERN template std::vector<std::byte> to_safetensors<void>(const records<array_ref>&, const records<std::string>&);                  \
  EXTERN template std::vector<std::byte> to_safetensors<void>(const state_dict&);                                                       \
  EXTERN template void save_safetensors<void>(const std::filesystem::path&, const records<array_ref>&, const records<std::string>&);    \
  EXTERN template void save_safetensors<void>(const std::filesystem::path&, const state_dict&);                                         \
  EXTERN template llama<T> load_llama<T>(const std::filesystem::path&, const load_model_options&);                                      \
  EXTERN template llama<T> load_or_make_llama<T>(const std::string&, std::uint64_t);                                                    \
  EXTERN template gpt2<T> load_gpt2<T>(const std::filesystem::path&, const load_model_options&);                                        \
  EXTERN template bert<T> load_bert<T>(const std::filesystem::path&, const load_model_options&);                                        \
  EXTERN template bert_classifier<T> load_bert_classifier<T>(const std::filesystem::path&, index_t, pooling, std::uint64_t,             \
                                                             const load_model_options&);                                                \
  EXTERN template void save_model<T>(llama<T>&, const std::filesystem::path&, const save_model_options&);                               \
  EXTERN template void save_model<T>(gpt2<T>&, const std::filesystem::path&, const save_model_options&);                                \
  EXTERN template void save_model<T>(bert<T>&, const std::filesystem::path&, const save_model_options&);                                \
  EXTERN template void save_model<T>(bert_classifier<T>&, const std::filesystem::path&, const save_model_options&);                     \
  EXTERN template void load_peft<llama<T>>(llama<T>&, const std::filesystem::path&, const load_peft_options&);                          \
  EXTERN template void load_peft<bert<T>>(bert<T>&, const std::filesystem::path&, const load_peft_options&);                            \
  EXTERN template void load_peft<bert_classifier<T>>(bert_classifier<T>&, const std::filesystem::path&, const load_peft_options&);      \
  EXTERN template void save_peft<llama<T>>(llama<T>&, const std::filesystem::path&, const save_peft_options&);                          \
  EXTERN template void save_peft<bert<T>>(bert<T>&, const std::filesystem::path&, const save_peft_options&);                            \
  EXTERN template void save_peft<bert_classifier<T>>(bert_classifier<T>&, const std::filesystem::path&, const save_peft_options&);      \
  }

GRAFT_FILES(extern, float)
