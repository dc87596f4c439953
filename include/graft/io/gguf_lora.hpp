// SPDX-License-Identifier: Apache-2.0
// LoRA adapters of the Llama family as the GGUF files that llama.cpp applies (--lora). Read next: io/peft_folder.hpp.
#pragma once
#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/finite.hpp"
#include "graft/io/checkpoint.hpp"
#include "graft/io/detail/gguf_file.hpp"
#include "graft/models/llama.hpp"
#include "graft/nn/quantize.hpp"
#include "graft/peft/attach.hpp"

namespace graft {

struct save_gguf_lora_options {
  std::string name = "default";  // of the adapter to save
  dtype type = dtype::f32;       // of the factors: f32, f16 or bf16
};
struct load_gguf_lora_options {
  std::string name = "default";  // for the adapter to get
  bool trainable = true;         // false freezes it
};

namespace detail {

struct gguf_layer_name {
  std::string_view ours, theirs;
};
inline constexpr gguf_layer_name gguf_layers[] = {
    {"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"},
    {"mlp.gate_proj", "ffn_gate"},  {"mlp.up_proj", "ffn_up"},      {"mlp.down_proj", "ffn_down"}};

/// "model.layers.3.self_attn.q_proj" as "blk.3.attn_q.weight", "lm_head" as "output.weight".
inline std::string gguf_name(std::string_view path) {
  constexpr std::string_view prefix = "model.layers.";
  if (path == "lm_head") return "output.weight";
  const auto dot = path.find('.', prefix.size());
  for (const auto& [ours, theirs] : gguf_layers)
    if (path.starts_with(prefix) && dot != path.npos && path.substr(dot + 1) == ours)
      return concat("blk.", path.substr(prefix.size(), dot - prefix.size()), ".", theirs, ".weight");
  throw_error<state_error>("gguf: ", path, " has no name in GGUF");
}

/// "qwen2" where biases are on q, k and v alone, else "llama".
inline std::string_view gguf_architecture(const llama_config& c) { return c.qkv_bias && !c.output_bias ? "qwen2" : "llama"; }

/// The rows of q and k stand in another order there, for the architecture llama only: halves of a head, which rotate together,
/// are interleaved. The head size to do that by; 0 where rows stay.
inline index_t interleaved_head(const llama_config& c, std::string_view path) {
  return gguf_architecture(c) == "llama" && (path.ends_with(".q_proj") || path.ends_with(".k_proj")) ? c.head_dim : 0;
}
/// Which row of ours is row r of theirs.
inline index_t row_before_interleaving(index_t r, index_t head) {
  if (head == 0) return r;
  const index_t within = r % head;
  return r - within + within % 2 * (head / 2) + within / 2;
}

}  // namespace detail

/// Writes the LoRA adapters of one name. The format has one alpha, divided by each tensor's own rank, and no other scaling: where
/// that cannot say what the adapters' options do (alphas that differ, rank-stabilised ones of several ranks), the difference goes
/// into B. The file appears whole or not at all. Throws state_error when there is no such adapter, it is not LoRA, or a value is
/// not finite in the type to write, option_error for other types, io_error when the file cannot be written.
template <class T>
void save_gguf_lora(llama<T>& model, const std::filesystem::path& path, const save_gguf_lora_options& o = {}) {
  if (o.type != dtype::f32 && o.type != dtype::f16 && o.type != dtype::bf16)
    throw_error<option_error>("save_gguf_lora: ", name_of(o.type), " is not one of f32, f16, bf16");
  detail::require_plain_embeddings(model, "save_gguf_lora", o.name);
  std::vector<std::pair<std::string, const lora<T>*>> loras;
  visit_layers(model, [&](std::string_view layer, adapted_linear<T>& l) {
    const auto a = std::ranges::find(l.adapters, o.name, &named_adapter<T>::name);
    if (a == l.adapters.end()) return;
    const auto* as_lora = a->adapter.template get<lora<T>>();
    if (as_lora == nullptr) throw_error<state_error>("save_gguf_lora: the adapter of ", layer, " is ", a->adapter.describe(), ", not a LoRA");
    loras.emplace_back(layer, as_lora);
  });
  if (loras.empty()) throw_error<state_error>("save_gguf_lora: the model has no adapter named \"", o.name, "\"");

  const auto full_alpha = [](const lora<T>& l) { return l.options.scale() * static_cast<double>(l.options.rank); };
  float alpha = static_cast<float>(full_alpha(*loras.front().second));
  if (alpha == 0 || !std::isfinite(alpha)) alpha = 1;  // readers take 0 for "none given"
  records<frozen_array> arrays;
  for (const auto& [layer, l] : loras) {
    const double factor = full_alpha(*l) / static_cast<double>(alpha);
    const bool exact = static_cast<float>(full_alpha(*l)) == alpha;  // nothing but the rounding of alpha itself
    const index_t head = detail::interleaved_head(model.config, layer);
    const auto b = l->b.weight.view();
    tensor<T, 2> rows(b.shape);
    for (index_t r = 0; r < b.shape[0]; ++r)
      for (index_t k = 0; k < b.shape[1]; ++k) {
        const T v = b(detail::row_before_interleaving(r, head), k);
        rows(r, k) = exact ? v : static_cast<T>(factor * static_cast<double>(v));
      }
    const std::string name = detail::gguf_name(layer);
    arrays.emplace_back(name + ".lora_a", convert_array(l->a.weight.share(), o.type));
    arrays.emplace_back(name + ".lora_b", convert_array(frozen_array(std::move(rows)), o.type));
  }
  records<array_ref> items;
  for (const auto& [name, a] : arrays) {
    if (first_not_finite(a.type(), a.bytes()) >= 0) throw_error<state_error>("save_gguf_lora: ", name, " is not finite as ", name_of(o.type));
    items.emplace_back(name, array_ref(a.type(), {a.shape().begin(), a.shape().end()}, a.bytes()));
  }
  const auto text = [](std::string_view s) { return detail::gguf_value{detail::gguf_kind::text, 0, std::string(s)}; };
  write_file_atomically(path, detail::gguf_bytes({{"general.type", text("adapter")},
                                                  {"general.architecture", text(detail::gguf_architecture(model.config))},
                                                  {"adapter.type", text("lora")},
                                                  {"adapter.lora.alpha", {detail::gguf_kind::f32, alpha, {}}}},
                                                 items));
}

/// Attaches the adapter in a file, whose factors may also be q8_0 or q4_0. Throws format_error when the file breaks its format,
/// is no LoRA, is for another architecture or model (it names the tensor and what the model has), lacks a factor, or holds what
/// is not applied here: activated LoRA, adapters of the embedding or of norms; option_error when the name is taken, io_error.
/// Then the model is as it was.
template <class T>
void load_gguf_lora(llama<T>& model, const std::filesystem::path& path, const load_gguf_lora_options& o = {}) {
  const auto file = map_file(path);
  const std::string where = path.string();
  const auto view = detail::gguf_reader(file->bytes(), where).read();
  const auto require = [&](std::string_view key, std::string_view value) {
    const auto* v = find(view.settings, key);
    if (v == nullptr || v->kind != detail::gguf_kind::text || v->text != value)
      throw_error<format_error>(where, ": ", key, " is ", v == nullptr ? "absent" : detail::in_quotes(v->text), ", expected ", detail::in_quotes(value));
  };
  require("general.type", "adapter");
  require("general.architecture", detail::gguf_architecture(model.config));
  require("adapter.type", "lora");
  if (find(view.settings, "adapter.alora.invocation_tokens") != nullptr)
    throw_error<format_error>(where, ": adapter.alora.invocation_tokens: activated LoRA is not supported");
  double alpha = 0;
  if (const auto* v = find(view.settings, "adapter.lora.alpha")) {
    if (v->kind != detail::gguf_kind::f32 || !std::isfinite(v->number)) throw_error<format_error>(where, ": adapter.lora.alpha is not a finite f32");
    alpha = v->number;
  }

  std::size_t used = 0;
  std::map<std::string, any_adapter<T>> made;
  visit_layers(model, [&](std::string_view layer_path, adapted_linear<T>& layer) {
    const std::string name = detail::gguf_name(layer_path);
    const auto *a = find(view.tensors, name + ".lora_a"), *b = find(view.tensors, name + ".lora_b");
    if (a == nullptr && b == nullptr) return;
    for (const auto& present : layer.adapters)
      if (present.name == o.name) throw_error<option_error>("load_gguf_lora: ", layer_path, " already has an adapter named \"", o.name, "\"");
    if (a == nullptr || b == nullptr) throw_error<format_error>(where, ": ", name, " has one LoRA factor, expected lora_a and lora_b");
    const index_t rank = a->shape.size() == 2 ? a->shape[0] : 0;
    if (rank < 1 || rank > (1 << 16) || a->shape != std::vector<index_t>{rank, layer.inputs()} || b->shape != std::vector<index_t>{layer.outputs(), rank})
      throw_error<format_error>(where, ": ", name, " has LoRA factors of shapes ", to_string(a->shape), " and ", to_string(b->shape),
                                ", the model's layer is ", to_string(extents<2>{layer.outputs(), layer.inputs()}));
    detail::check_finite(where, name + ".lora_a", a->type, a->bytes);
    detail::check_finite(where, name + ".lora_b", b->type, b->bytes);
    lora<T> l(layer.inputs(), layer.outputs(), {.rank = rank, .alpha = alpha == 0 ? static_cast<double>(rank) : alpha});
    convert_array(a->type, a->shape, a->bytes.data(), l.a.weight.value().data());
    tensor<T, 2> rows({layer.outputs(), rank});
    convert_array(b->type, b->shape, b->bytes.data(), rows.data());
    const index_t head = detail::interleaved_head(model.config, layer_path);
    for (index_t r = 0; r < layer.outputs(); ++r)
      std::copy_n(&rows(r, 0), rank, l.b.weight.mutable_view().row(detail::row_before_interleaving(r, head)).data);
    made.emplace(layer_path, std::move(l));
    used += 2;
  });
  if (made.empty()) throw_error<format_error>(where, ": holds no LoRA factors for this model");
  if (used != view.tensors.size()) {
    for (const auto& [name, a] : view.tensors)
      if (std::ranges::none_of(made, [&](const auto& m) { return name.starts_with(detail::gguf_name(m.first) + ".lora_"); }))
        throw_error<format_error>(where, ": tensor ", detail::in_quotes(name), " is for no linear layer of this model");
    throw_error<format_error>(where, ": a layer has tensors beside lora_a and lora_b");
  }
  attach(model, target_modules::pattern("", [&](std::string_view p) { return made.contains(std::string(p)); }),
         [&](const adapter_site& s) { return made.at(std::string(s.path)); }, {.name = o.name});
  if (!o.trainable) freeze(model);
}

}  // namespace graft
