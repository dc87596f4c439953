// SPDX-License-Identifier: Apache-2.0
// How the adapter of one layer lies in a PEFT folder, kind by kind: the names and shapes of its arrays. A new kind is a branch of
// store_adapter() and one of make_adapter(). Read next: io/peft_folder.hpp.
#pragma once
#include <array>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/io/checkpoint.hpp"
#include "graft/io/peft_config.hpp"
#include "graft/nn/state.hpp"
#include "graft/peft/compound.hpp"
#include "graft/peft/dora.hpp"

namespace graft::detail {

inline constexpr std::string_view peft_prefix = "base_model.model.", peft_model_prefix = "base_model.";

/// Everything an adapter file holds: the parts of every adapted layer, what layers share, and parameters of the model itself.
struct peft_arrays {
  using parts = std::map<std::string, const array_ref*, std::less<>>;  // "lora_A" ...
  std::map<std::string, parts, std::less<>> layers;                    // by module path
  parts shared;                                                        // "vera_A", "vera_B"
  records<array_ref> whole;                                            // modules_to_save and biases, by parameter path

  template <class = void>
  peft_arrays(const checkpoint_files& file, std::string_view where) {
    for (const auto& [key, array] : file.arrays()) {
      check_finite(where, key, array.type, array.bytes);
      std::string_view name = key;
      if (name.starts_with(peft_prefix)) name.remove_prefix(peft_prefix.size());
      if (name.starts_with(peft_model_prefix)) name.remove_prefix(peft_model_prefix.size());
      if (name == "vera_A" || name == "vera_B") shared[std::string(name)] = &array;
      else if (const auto [module, part] = split(name); !part.empty()) layers[std::string(module)][std::string(part)] = &array;
      else whole.emplace_back(parameter_path(name), array);
    }
  }

 private:
  /// "a.b.lora_A.weight" is module "a.b" and part "lora_A", also with the adapter's name left in or without ".weight". No part for
  /// other keys.
  template <class = void>
  static std::pair<std::string_view, std::string_view> split(std::string_view key) {
    static constexpr std::array<std::string_view, 9> parts{"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "ia3_l", "vera_lambda_b", "vera_lambda_d", "oft_R"};
    for (const std::string_view part : parts)
      for (std::size_t at = key.find(part); at != key.npos; at = key.find(part, at + 1)) {
        if (at == 0 || key[at - 1] != '.') continue;
        std::string_view rest = key.substr(at + part.size());
        if (rest.ends_with(".weight")) rest.remove_suffix(7);
        if (rest.empty() || (rest[0] == '.' && rest.find('.', 1) == rest.npos)) return {key.substr(0, at - 1), part};
      }
    return {};
  }
  /// PEFT puts the module it wraps below the wrapper: "a.b.base_layer.bias" is "a.b.bias" of the model.
  template <class = void>
  static std::string parameter_path(std::string_view name) {
    constexpr std::string_view wrapped = ".base_layer.";
    const auto at = name.find(wrapped);
    if (at == name.npos) return std::string(name);
    return concat(name.substr(0, at), '.', name.substr(at + wrapped.size()));
  }
};

/// An adapted layer on its way into a folder, and what the folder's configuration needs to know of it.
struct peft_layer {
  peft_type type = peft_type::lora;
  lora_options lora;
  bool dora = false, on_inputs = false;
  vera_options vera;
  oft_blocks oft;  // both numbers
  std::vector<std::pair<std::string, array>> parts;
};

template <class T>
void store_lora(const lora<T>& l, peft_layer& to) {
  to.lora = l.options;
  to.parts.emplace_back("lora_A.weight", to_array<T, 2>(l.a.weight.view()));
  to.parts.emplace_back("lora_B.weight", to_array<T, 2>(l.b.weight.view()));
}

template <class T>
peft_layer store_embedding(const low_rank_rows<T>& rows) {
  peft_layer to;
  to.lora = {.rank = rows.rank(), .alpha = rows.alpha, .rank_stabilised = rows.rank_stabilised};
  to.parts.emplace_back("lora_embedding_A", to_array<T, 2>(rows.a.view().transpose()));
  to.parts.emplace_back("lora_embedding_B", to_array<T, 2>(rows.b.view()));
  return to;
}

/// What of a Hamming-weight adapter an OFT folder cannot hold; nothing when it can.
template <class = void>
std::string_view beyond_oft(const compound_options& o, const compound_layout& layout) {
  if (layout.orders() != std::vector<index_t>{1}) return "orders other than 1";
  if (o.rotate != compound_options::side::input) return "rotations of outputs";
  if (layout.form != rotation_form::cayley) return "pyramids";
  if (o.offset != 0) return "offset";
  if (layout.coordinates() % layout.blocks() != 0) return "blocks that leave inputs over";
  return {};
}

template <class T>
void store_oft(const compound<T>& c, std::string_view path, peft_layer& to) {
  if (const auto what = beyond_oft(c.options, *c.layout); !what.empty())
    throw_error<state_error>("save_peft: the adapter of ", path, " is ", c.describe(), "; an OFT folder holds no ", what, "; merge or convert it");
  to.type = peft_type::oft;
  to.oft = {c.layout->blocks(), c.layout->block_size(), c.options.shared};
  to.parts.emplace_back("oft_R.weight", to_array<T, 2>(c.rotation.view()));
}

/// Nothing for a kind that PEFT has not. Throws state_error, naming the layer, for options of a kind that PEFT has not.
template <class T>
std::optional<peft_layer> store_adapter(const any_adapter<T>& adapter, std::string_view path) {
  peft_layer to;
  if (const auto* l = adapter.template get<lora<T>>()) {
    store_lora(*l, to);
  } else if (const auto* d = adapter.template get<dora<T>>()) {
    to.dora = true;
    store_lora(d->low_rank, to);
    to.parts.emplace_back("lora_magnitude_vector", to_array<T, 1>(d->magnitude.weight.view()));
  } else if (const auto* i = adapter.template get<ia3<T>>()) {
    to.type = peft_type::ia3;
    to.on_inputs = i->on_inputs;
    const auto gain = i->gain.view();
    const index_t n = gain.shape[0];
    to.parts.emplace_back("ia3_l", to_array<T, 2>({gain.data, i->on_inputs ? extents<2>{1, n} : extents<2>{n, 1}}));
  } else if (const auto* v = adapter.template get<vera<T>>()) {
    to.type = peft_type::vera;
    to.vera = v->options;
    to.parts.emplace_back("vera_lambda_b", to_array<T, 1>(v->b.view()));
    to.parts.emplace_back("vera_lambda_d", to_array<T, 1>(v->d.view()));
  } else if (const auto* c = adapter.template get<compound<T>>()) {
    store_oft(*c, path, to);
  } else {
    return {};
  }
  return to;
}

/// Makes adapters of one folder's arrays. Every complaint names the file and the layer.
template <class T>
class peft_reader {
 public:
  peft_reader(const peft_config& config, const peft_arrays& arrays, std::string file) : config_(config), arrays_(arrays), file_(std::move(file)) {}

  any_adapter<T> make_adapter(std::string_view path, const adapted_linear<T>& layer) {
    const auto& parts = arrays_.layers.find(path)->second;
    if (config_.type == peft_type::ia3) return make_ia3(path, layer, parts);
    if (config_.type == peft_type::vera) return make_vera(path, layer, parts);
    if (config_.type == peft_type::oft) return make_oft(path, layer, parts);
    return make_lora(path, layer, parts);
  }
  low_rank_rows<T> make_embedding(std::string_view path, const embedding_module<T>& table, std::string_view name) const {
    const auto& parts = arrays_.layers.find(path)->second;
    if (config_.type != peft_type::lora) throw_error<format_error>(file_, ": ", path, " is an embedding, whose adapter can be a LoRA alone");
    if (parts.contains("lora_magnitude_vector")) throw_error<format_error>(file_, ": ", path, " is an embedding with DoRA, which is not supported");
    const array_ref &a = part(path, parts, "lora_embedding_A"), &b = part(path, parts, "lora_embedding_B");
    const auto [entries, size] = table.weight.extent();
    const index_t rank = a.shape.empty() ? 0 : a.shape[0];
    if (rank < 1 || a.shape != std::vector<index_t>{rank, entries} || b.shape != std::vector<index_t>{size, rank})
      throw_error<format_error>(file_, ": ", path, " has LoRA factors of shapes ", to_string(a.shape), " and ", to_string(b.shape),
                                ", the model's embedding is ", to_string(extents<2>{entries, size}));
    tensor<T, 2> columns({rank, entries}), of_entries({entries, rank}), of_size({size, rank});
    convert_array(a.type, a.shape, a.bytes.data(), columns.data());
    convert_array(b.type, b.shape, b.bytes.data(), of_size.data());
    zip_elements(of_entries.view(), std::as_const(columns).transpose(), [](T& to, const T& from) { to = from; });
    const lora_options options = options_of(path, rank);
    return {std::string(name), std::move(of_entries), std::move(of_size), options.alpha, options.rank_stabilised};
  }

 private:
  using parts_of = peft_arrays::parts;

  const array_ref& part(std::string_view path, const parts_of& parts, std::string_view name) const {
    const auto found = parts.find(name);
    if (found == parts.end()) throw_error<format_error>(file_, ": ", path, " has no ", name);
    return *found->second;
  }
  /// Copies an array of a shape that is known.
  void read(std::string_view path, std::string_view name, const array_ref& from, std::vector<index_t> shape, T* to) const {
    if (from.shape != shape)
      throw_error<format_error>(file_, ": ", path, " has ", name, " of shape ", to_string(from.shape), ", the model's layer wants ", to_string(shape));
    convert_array(from.type, from.shape, from.bytes.data(), to);
  }
  /// Those of the folder with what its patterns say of a layer. Throws format_error for a rank that no adapter has.
  lora_options options_of(std::string_view path, index_t rank) const {
    lora_options options = config_.lora;
    options.rank = rank;
    if (const double* alpha = find_module_value(config_.alpha_pattern, path)) options.alpha = *alpha;
    return options;
  }
  random_stream random(std::string_view path) const { return random_stream(0).substream(path); }

  any_adapter<T> make_lora(std::string_view path, const adapted_linear<T>& layer, const parts_of& parts) const {
    const bool dora = parts.contains("lora_magnitude_vector");
    if (!parts.contains("lora_A") || !parts.contains("lora_B"))
      throw_error<format_error>(file_, ": ", path, " has one LoRA factor, expected lora_A and lora_B");
    if (dora != config_.dora)
      throw_error<format_error>(file_, ": ", path, dora ? " has" : " has no", " lora_magnitude_vector, use_dora of adapter_config.json is ", config_.dora ? "true" : "false");
    const array_ref &a = *parts.find("lora_A")->second, &b = *parts.find("lora_B")->second;
    const index_t rank = a.shape.empty() ? 0 : a.shape[0];
    if (rank < 1 || a.shape != std::vector<index_t>{rank, layer.inputs()} || b.shape != std::vector<index_t>{layer.outputs(), rank})
      throw_error<format_error>(file_, ": ", path, " has LoRA factors of shapes ", to_string(a.shape), " and ", to_string(b.shape),
                                ", the model's layer is ", to_string(extents<2>{layer.outputs(), layer.inputs()}));
    const lora_options options = options_of(path, rank);
    const auto fill = [&](lora<T>& l) {
      convert_array(a.type, a.shape, a.bytes.data(), l.a.weight.value().data());
      convert_array(b.type, b.shape, b.bytes.data(), l.b.weight.value().data());
    };
    if (!dora) {
      lora<T> l(layer.inputs(), layer.outputs(), options, random(path));
      fill(l);
      return l;
    }
    graft::dora<T> d(layer.weight.matrix(), {.lora = options}, random(path));
    fill(d.low_rank);
    read(path, "lora_magnitude_vector", part(path, parts, "lora_magnitude_vector"), {layer.outputs()}, d.magnitude.weight.value().data());
    return d;
  }

  any_adapter<T> make_ia3(std::string_view path, const adapted_linear<T>& layer, const parts_of& parts) const {
    const array_ref& gain = part(path, parts, "ia3_l");
    const bool on_inputs = gain.shape == std::vector<index_t>{1, layer.inputs()};
    ia3<T> a(layer.inputs(), layer.outputs(), on_inputs);
    read(path, "ia3_l", gain, on_inputs ? std::vector<index_t>{1, layer.inputs()} : std::vector<index_t>{layer.outputs(), 1}, a.gain.value().data());
    return a;
  }

  /// Blocks of b inputs with b (b - 1) / 2 numbers each: Python's peft turns rows by (I - S) (I + S)^-1, which is our (I + S) (I - S)^-1
  /// for columns.
  any_adapter<T> make_oft(std::string_view path, const adapted_linear<T>& layer, const parts_of& parts) const {
    const array_ref& free = part(path, parts, "oft_R");
    const index_t in = layer.inputs(), numbers = free.shape.size() == 2 ? free.shape[1] : 0;
    const auto b = std::min(in, static_cast<index_t>(std::lround(0.5 + std::sqrt(0.25 + 2.0 * static_cast<double>(numbers)))));
    if (b < 2 || b * (b - 1) / 2 != numbers || in % b != 0 || free.shape[0] != (config_.oft.shared ? 1 : in / b))
      throw_error<format_error>(file_, ": ", path, " has oft_R of shape ", to_string(free.shape), ", the model's layer has ", in, " inputs, expected (",
                                config_.oft.shared ? "1" : "inputs / b", ", b (b - 1) / 2)");
    compound<T> c(in, layer.outputs(), {.blocks = in / b, .orders = {1}, .rotate = compound_options::side::input, .shared = config_.oft.shared}, random(path));
    read(path, "oft_R", free, {free.shape[0], numbers}, c.rotation.value().data());
    return c;
  }

  any_adapter<T> make_vera(std::string_view path, const adapted_linear<T>& layer, const parts_of& parts) {
    if (projections_ == nullptr) projections_ = read_projections();
    if (projections_->a.shape()[1] < layer.inputs() || projections_->b.shape()[0] < layer.outputs())
      throw_error<format_error>(file_, ": vera_A and vera_B of shapes ", to_string(projections_->a.shape()), " and ", to_string(projections_->b.shape()),
                                " do not serve ", path, " of shape ", to_string(extents<2>{layer.outputs(), layer.inputs()}));
    vera<T> v(projections_, layer.inputs(), layer.outputs(), config_.vera, random(path));
    read(path, "vera_lambda_b", part(path, parts, "vera_lambda_b"), {layer.outputs()}, v.b.value().data());
    read(path, "vera_lambda_d", part(path, parts, "vera_lambda_d"), {config_.vera.rank}, v.d.value().data());
    return v;
  }
  std::shared_ptr<const vera_projections<T>> read_projections() const {
    const auto matrix = [&](std::string_view name, std::size_t rank_axis) {
      const auto found = arrays_.shared.find(name);
      if (found == arrays_.shared.end()) throw_error<format_error>(file_, ": has no ", name);
      const array_ref& from = *found->second;
      if (from.shape.size() != 2 || from.shape[rank_axis] != config_.vera.rank)
        throw_error<format_error>(file_, ": ", name, " is of shape ", to_string(from.shape), ", r of adapter_config.json is ", config_.vera.rank);
      tensor<T, 2> to({from.shape[0], from.shape[1]});
      convert_array(from.type, from.shape, from.bytes.data(), to.data());
      return to;
    };
    return std::make_shared<const vera_projections<T>>(matrix("vera_A", 0), matrix("vera_B", 1));
  }

  const peft_config& config_;
  const peft_arrays& arrays_;
  std::string file_;
  std::shared_ptr<const vera_projections<T>> projections_;
};

}  // namespace graft::detail
