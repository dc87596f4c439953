// SPDX-License-Identifier: Apache-2.0
// Named arrays in memory: what is saved, loaded, sent and averaged. Read next: nn/parameter.hpp, io/safetensors.hpp.
#pragma once
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/core/dtype.hpp"
#include "graft/core/tensor.hpp"

namespace graft {

/// An array that owns its bytes; element type and rank known at run time.
struct array {
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  std::vector<std::byte> bytes;
};

/// An array that looks into a file or a state. The bytes may be unaligned.
struct array_ref {
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  std::span<const std::byte> bytes;

  array_ref() = default;
  array_ref(dtype t, std::vector<index_t> s, std::span<const std::byte> b) : type(t), shape(std::move(s)), bytes(b) {}
  array_ref(const array& a) : type(a.type), shape(a.shape), bytes(a.bytes) {}
  index_t size() const noexcept { return volume(shape); }
};

/// Names and values in a fixed order, so that the same state gives the same bytes every time.
template <class V>
using records = std::vector<std::pair<std::string, V>>;

template <class V>
const V* find(const records<V>& items, std::string_view name) {
  for (const auto& [key, value] : items)
    if (key == name) return &value;
  return nullptr;
}

struct state_dict {
  records<array> items;
  records<std::string> metadata;
};

/// A copy of a tensor as an array.
template <class T, std::size_t Rank>
array to_array(tensor_view<const T, Rank> t) {
  array a{dtype_of<T>, {t.shape.begin(), t.shape.end()}, {}};
  a.bytes.resize(checked_bytes(t.shape, sizeof(T)));
  if (!a.bytes.empty())
    detail::zip_elements(tensor_view<T, Rank>(reinterpret_cast<T*>(a.bytes.data()), t.shape), t,
                         [](T& to, const T& from) { to = from; });
  return a;
}

}  // namespace graft
