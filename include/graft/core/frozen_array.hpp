// SPDX-License-Identifier: Apache-2.0
// Immutable arrays of any element type, shared and possibly mapped from a file: where frozen weights live.
// Read next: nn/parameter.hpp.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "graft/core/blocks.hpp"
#include "graft/core/dtype.hpp"
#include "graft/core/tensor.hpp"

namespace graft {

/// A matrix whose element type is known at run time. Non-owning; rows are `row_bytes` apart and may be unaligned. In a block
/// format `cols` counts values, and rows are whole blocks.
struct matrix_ref {
  dtype type = dtype::f32;
  const std::byte* data = nullptr;
  index_t rows = 0, cols = 0, row_bytes = 0;

  matrix_ref() = default;
  matrix_ref(dtype t, const std::byte* first, index_t r, index_t c)
      : type(t), data(first), rows(r), cols(c), row_bytes(graft::row_bytes(t, c)) {}

  template <class T>
    requires(!std::is_same_v<std::remove_const_t<T>, std::byte>)
  matrix_ref(tensor_view<T, 2> v)
      : type(dtype_of<T>),
        data(reinterpret_cast<const std::byte*>(v.data)),
        rows(v.shape[0]),
        cols(v.shape[1]),
        row_bytes(v.stride[0] * static_cast<index_t>(sizeof(T))) {
    GRAFT_ASSERT(v.shape[1] == 1 || v.stride[1] == 1);
  }
};

/// `count` rows of a matrix from `first` on.
inline matrix_ref rows_of(matrix_ref m, index_t first, index_t count) {
  GRAFT_ASSERT(first >= 0 && count >= 0 && first + count <= m.rows);
  m.data += first * m.row_bytes;
  m.rows = count;
  return m;
}

/// A matrix whose elements are of type E, seen as such.
template <class E>
tensor_view<const E, 2> plain_matrix(const matrix_ref& m) {
  return {reinterpret_cast<const E*>(m.data), {m.rows, m.cols}, {m.row_bytes / static_cast<index_t>(sizeof(E)), 1}};
}

/// A matrix in the block format B, seen as such.
template <block_format B>
block_view<B> block_matrix(const matrix_ref& m) {
  GRAFT_ASSERT(m.type == dtype_of<B> && m.row_bytes % static_cast<index_t>(sizeof(B)) == 0);
  return {{reinterpret_cast<const B*>(m.data)}, {m.rows, m.cols}, {m.row_bytes / static_cast<index_t>(sizeof(B)) * B::count, 1}};
}

/// Calls f with a tensor_view<const E, 2> of the matrix's own element type E, one of the floating-point types, or with a
/// block_view<B> of its block format. Throws dtype_error for integers.
template <class F>
decltype(auto) visit_matrix(const matrix_ref& m, F&& f) {
  switch (m.type) {
    case dtype::f64: return f(plain_matrix<double>(m));
    case dtype::f32: return f(plain_matrix<float>(m));
    case dtype::bf16: return f(plain_matrix<bf16>(m));
    case dtype::f16: return f(plain_matrix<f16>(m));
    case dtype::q8_0: return f(block_matrix<q8_0_block>(m));
    case dtype::q4_0: return f(block_matrix<q4_0_block>(m));
    case dtype::nf4: return f(block_matrix<nf4_block>(m));
    default: throw_error<dtype_error>("a weight matrix cannot hold elements of type ", name_of(m.type));
  }
}

/// Copies `count` elements of type `type` at `from`, which may be unaligned, converting each to T. Throws dtype_error for
/// block formats: see convert_array().
template <class T>
void convert_elements(dtype type, const std::byte* from, index_t count, T* to) {
  visit_dtype(type, [&]<class E>(E*) {
    if constexpr (std::is_same_v<E, T>) {
      if (count != 0) __builtin_memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
    } else {
      for (index_t i = 0; i < count; ++i) {
        E e;
        __builtin_memcpy(&e, from + static_cast<std::size_t>(i) * sizeof(E), sizeof(E));
        to[i] = convert<T>(e);
      }
    }
  });
}

/// The values of a contiguous array in any format, as T, one after another. The bytes may be unaligned.
template <class T>
void convert_array(dtype type, std::span<const index_t> shape, const std::byte* from, T* to) {
  if (!is_block_format(type)) return convert_elements(type, from, volume(shape), to);
  const index_t columns = shape.empty() ? 1 : shape.back();
  if (volume(shape) == 0) return;
  visit_blocks(type, [&]<class B>(B*) {
    for (index_t rows = volume(shape) / columns; rows > 0; --rows)
      for (index_t first = 0; first < columns; first += B::count, from += sizeof(B)) {
        B b;
        __builtin_memcpy(&b, from, sizeof b);
        for (index_t i = 0; i < B::count && first + i < columns; ++i) *to++ = convert<T>(value_at(b, i));
      }
  });
}

/// An immutable array of rank 0 to 4, shared by counted reference. Copying shares; nothing can change the elements, so
/// any number of models and threads may hold it. The owner may be a heap block or a mapped file.
class frozen_array {
 public:
  frozen_array() = default;

  /// `owner` keeps the bytes at `data` alive. Throws shape_error beyond rank 4.
  frozen_array(dtype type, std::span<const index_t> shape, const std::byte* data, std::shared_ptr<const void> owner)
      : type_(type), rank_(shape.size()), data_(data), owner_(std::move(owner)) {
    if (rank_ > max_rank) throw_error<shape_error>("an array of shape ", to_string(shape), " has more than four dimensions");
    for (std::size_t i = 0; i < rank_; ++i) shape_[i] = shape[i];
  }

  /// Takes a tensor over.
  template <class T, std::size_t Rank>
  explicit frozen_array(tensor<T, Rank> t) {
    auto owner = std::make_shared<tensor<T, Rank>>(std::move(t));
    *this = frozen_array(dtype_of<T>, owner->shape(), reinterpret_cast<const std::byte*>(owner->data()), owner);
  }

  dtype type() const noexcept { return type_; }
  std::span<const index_t> shape() const noexcept { return {shape_.data(), rank_}; }
  index_t size() const noexcept { return volume(shape()); }
  std::span<const std::byte> bytes() const noexcept {
    return {data_, data_ == nullptr ? 0 : static_cast<std::size_t>(array_bytes(type_, shape()))};
  }

  /// As a matrix. Rank 2 only.
  matrix_ref matrix() const {
    GRAFT_ASSERT(rank_ == 2);
    return {type_, data_, shape_[0], shape_[1]};
  }

  /// Whether the elements are T and aligned for it, so that view() may be used.
  template <class T>
  bool holds() const noexcept {
    return type_ == dtype_of<T> && reinterpret_cast<std::uintptr_t>(data_) % alignof(T) == 0;
  }

  template <class T, std::size_t Rank>
  tensor_view<const T, Rank> view() const {
    GRAFT_ASSERT(holds<T>() && rank_ == Rank);
    extents<Rank> s;
    for (std::size_t i = 0; i < Rank; ++i) s[i] = shape_[i];
    return {reinterpret_cast<const T*>(data_), s};
  }

  /// A new tensor of element type T.
  template <class T, std::size_t Rank>
  tensor<T, Rank> to_tensor() const {
    GRAFT_ASSERT(rank_ == Rank);
    extents<Rank> s;
    for (std::size_t i = 0; i < Rank; ++i) s[i] = shape_[i];
    tensor<T, Rank> t(s);
    convert_array(type_, shape(), data_, t.data());
    return t;
  }

 private:
  dtype type_ = dtype::f32;
  std::array<index_t, max_rank> shape_{};
  std::size_t rank_ = 0;
  const std::byte* data_ = nullptr;
  std::shared_ptr<const void> owner_;
};

}  // namespace graft
