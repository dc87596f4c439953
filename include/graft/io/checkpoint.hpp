// SPDX-License-Identifier: Apache-2.0
// The weights of a published model, from one file or many, mapped and shared. Read next: the models' loaders.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "graft/core/finite.hpp"
#include "graft/core/frozen_array.hpp"
#include "graft/core/tensor.hpp"
#include "graft/io/json.hpp"
#include "graft/io/mapped_file.hpp"
#include "graft/io/safetensors.hpp"
#include "graft/nn/state_dict.hpp"

namespace graft {

namespace detail {

inline void check_finite(std::string_view where, std::string_view name, dtype type, std::span<const std::byte> bytes) {
  if (const index_t i = first_not_finite(type, bytes); i >= 0)
    throw_error<format_error>(where, ": tensor ", in_quotes(name), " holds NaN or infinity at element ", i);
}

}  // namespace detail

/// All arrays of a checkpoint by name. Files stay mapped for as long as this, or any array that `frozen` gave, lives.
/// Tensors of element types that `dtype` lacks do no harm until they are asked for. Members are templates so that whoever only includes
/// this file does not pay for their bodies.
class checkpoint_files {
 public:
  /// `where` is a safetensors file, or a folder with `model.safetensors`, or else with `model.safetensors.index.json`
  /// and the files it names. Cost: that of the headers. Throws io_error for files that are absent, and format_error for
  /// what breaks its format or names a tensor that is not there.
  template <class = void>
  explicit checkpoint_files(std::filesystem::path where) : where_(std::move(where)) { open(); }

  const std::filesystem::path& where() const noexcept { return where_; }
  /// Sorted by name.
  const records<array_ref>& arrays() const noexcept { return arrays_; }
  /// Of the one file; of many, each key as the first file, in the order of their names, has it.
  const records<std::string>& metadata() const noexcept { return metadata_; }

  /// Null when there is no such tensor. Throws dtype_error when there is one, of an element type that `dtype` lacks.
  template <class = void>
  const array_ref* find(std::string_view name) const {
    const std::size_t i = position(name);
    return i == arrays_.size() ? nullptr : &arrays_[i].second;
  }

  /// A tensor that outlives the checkpoint and shares the file's pages; a copy only where the file keeps it at an
  /// address its type cannot have. Throws format_error when there is no such tensor, shape_error beyond rank 4, and
  /// dtype_error as find does.
  template <class = void>
  frozen_array frozen(std::string_view name) const {
    const std::size_t i = position(name);
    if (i == arrays_.size())
      throw_error<format_error>("checkpoint \"", where_.string(), "\" has no tensor ", detail::in_quotes(name));
    return frozen_at(i);
  }
  /// All of them, as load_frozen() takes them.
  template <class = void>
  records<frozen_array> frozen() const {
    records<frozen_array> all;
    for (std::size_t i = 0; i < arrays_.size(); ++i) all.emplace_back(arrays_[i].first, frozen_at(i));
    return all;
  }

 private:
  struct entry {
    array_ref array;
    std::shared_ptr<const mapped_file> owner;
  };

  template <class = void>
  void open() {
    const auto single = where_ / "model.safetensors", index = where_ / "model.safetensors.index.json";
    std::map<std::string, entry> found;
    if (std::error_code ignored; !std::filesystem::is_directory(where_, ignored)) add_file(where_, found);
    else if (present(single)) add_file(single, found);
    else if (present(index)) add_shards(index, found);
    else
      throw_error<io_error>("cannot read \"", where_.string(), "\": the folder has neither model.safetensors nor ",
                            "model.safetensors.index.json (pickled .bin files are not read)");
    for (auto& [name, e] : found) {
      arrays_.emplace_back(name, std::move(e.array));
      owners_.push_back(std::move(e.owner));
    }
  }

  // True too for what cannot be looked at: opening it then says why.
  template <class = void>
  static bool present(const std::filesystem::path& path) {
    std::error_code ignored;
    return std::filesystem::status(path, ignored).type() != std::filesystem::file_type::not_found;
  }

  // The arrays of a file; only the `wanted` ones, sorted names, when given, and then all of these.
  template <class = void>
  void add_file(const std::filesystem::path& path, std::map<std::string, entry>& found,
                const std::vector<std::string>* wanted = nullptr) {
    const auto file = map_file(path);
    safetensors_view view = view_safetensors(file->bytes(), path.string(), foreign_types::set_aside);
    if (wanted != nullptr) {
      const auto unwanted = [&](const auto& item) {
        return !std::binary_search(wanted->begin(), wanted->end(), item.first);
      };
      std::erase_if(view.items, unwanted);
      std::erase_if(view.foreign, unwanted);
      check_complete(view, *wanted, path);
    }
    for (auto& [name, a] : view.items) found.emplace(std::move(name), entry{std::move(a), file});
    foreign_.insert(view.foreign.begin(), view.foreign.end());
    for (auto& [key, value] : view.metadata)
      if (graft::find(metadata_, key) == nullptr) metadata_.emplace_back(std::move(key), std::move(value));
  }

  template <class = void>
  void add_shards(const std::filesystem::path& index, std::map<std::string, entry>& found) {
    const json_node root = read_json(index, {.max_bytes = std::size_t{64} << 20});
    std::map<std::string, std::vector<std::string>> names_of;  // by file
    for (const json_node& file : root.required("weight_map").members()) {
      const auto plain = file.as<std::string>();
      if (plain.empty() || plain == "." || plain == ".." ||
          plain.find_first_of(std::string_view("/\\\0", 3)) != plain.npos ||
          std::filesystem::path(plain).has_root_name())
        file.reject("the plain name of a file in the same folder");
      names_of[plain].emplace_back(file.name());
    }
    for (auto& [file, names] : names_of) {
      std::sort(names.begin(), names.end());
      add_file(index.parent_path() / file, found, &names);
    }
  }

  template <class = void>
  static void check_complete(const safetensors_view& view, const std::vector<std::string>& wanted,
                             const std::filesystem::path& path) {
    std::vector<std::string_view> have;
    for (const auto& item : view.items) have.push_back(item.first);
    for (const auto& item : view.foreign) have.push_back(item.first);
    std::sort(have.begin(), have.end());
    for (const std::string& name : wanted)
      if (!std::binary_search(have.begin(), have.end(), std::string_view(name)))
        throw_error<format_error>(path.string(), ": the index names tensor ", detail::in_quotes(name),
                                  ", which is not in it");
  }

  // Where the tensor stands in arrays_; the size of arrays_ when it does not.
  template <class = void>
  std::size_t position(std::string_view name) const {
    if (const auto other = foreign_.find(name); other != foreign_.end())
      throw_error<dtype_error>("checkpoint \"", where_.string(), "\": tensor ", detail::in_quotes(name),
                               " has unsupported dtype ", other->second);
    const auto at = std::lower_bound(arrays_.begin(), arrays_.end(), name,
                                     [](const auto& item, std::string_view n) { return item.first < n; });
    return static_cast<std::size_t>((at != arrays_.end() && at->first == name ? at : arrays_.end()) - arrays_.begin());
  }

  template <class = void>
  frozen_array frozen_at(std::size_t i) const {
    const auto& [name, a] = arrays_[i];
    if (a.shape.size() > max_rank)
      throw_error<shape_error>("checkpoint \"", where_.string(), "\": tensor ", detail::in_quotes(name), " of shape ",
                               to_string(a.shape), " has more than ", max_rank, " dimensions");
    if (reinterpret_cast<std::uintptr_t>(a.bytes.data()) % static_cast<std::size_t>(alignment_of(a.type)) == 0)
      return {a.type, a.shape, a.bytes.data(), owners_[i]};
    auto copy = std::make_shared<tensor<std::byte, 1>>(extents<1>{std::ssize(a.bytes)});
    std::copy(a.bytes.begin(), a.bytes.end(), copy->data());
    return {a.type, a.shape, copy->data(), copy};
  }

  std::filesystem::path where_;
  records<array_ref> arrays_;
  std::vector<std::shared_ptr<const mapped_file>> owners_;  // of each array's bytes
  records<std::string> metadata_;
  std::map<std::string, std::string, std::less<>> foreign_;  // name and element type
};

}  // namespace graft
