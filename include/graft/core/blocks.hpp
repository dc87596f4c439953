// SPDX-License-Identifier: Apache-2.0
// Block formats: a few neighbouring values of a row in small integers, with one scale. How they lie in memory and what they
// mean, value by value. Read next: nn/quantize.hpp for how they are made, simd/blocks.hpp for how kernels read them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "graft/core/dtype.hpp"
#include "graft/core/tensor.hpp"

namespace graft {

/// q8_0 of ggml: value i is q[i] * scale. 8.5 bits a value.
struct q8_0_block {
  static constexpr index_t count = 32;
  f16 scale;
  std::int8_t q[32];
};

/// q4_0 of ggml: value i is (nibble - 8) * scale. The low nibbles are the first 16 values, the high ones the others.
/// 4.5 bits a value.
struct q4_0_block {
  static constexpr index_t count = 32;
  f16 scale;
  std::uint8_t q[16];
};

/// NormalFloat: value i is nf4_levels[nibble] * largest. Blocks of 64 with a float are those of QLoRA and bitsandbytes, so
/// where rows are whole blocks the values are theirs to the bit. Nibbles lie as in q4_0, 32 values in 16 bytes and then the
/// next 32. 4.5 bits a value.
struct nf4_block {
  static constexpr index_t count = 64;
  float largest;  // magnitude of the block
  std::uint8_t q[32];
};

/// The 16 values of NormalFloat: quantiles of the normal distribution, scaled to [-1, 1]. Source: Dettmers et al. 2023.
alignas(64) inline constexpr float nf4_levels[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

template <class B>
concept block_format = std::same_as<B, q8_0_block> || std::same_as<B, q4_0_block> || std::same_as<B, nf4_block>;

namespace detail {
template <> struct dtype_of<q8_0_block> { static constexpr dtype value = dtype::q8_0; };
template <> struct dtype_of<q4_0_block> { static constexpr dtype value = dtype::q4_0; };
template <> struct dtype_of<nf4_block> { static constexpr dtype value = dtype::nf4; };

/// Where the code of value i lies: 32 values in 16 bytes, the first 16 in the low halves.
struct nibble_place {
  index_t byte, shift;
};
constexpr nibble_place place_of_nibble(index_t i) noexcept { return {i / 32 * 16 + i % 16, (i & 16) == 0 ? 0 : 4}; }
constexpr unsigned nibble(const std::uint8_t* q, index_t i) noexcept {
  const nibble_place at = place_of_nibble(i);
  return unsigned{q[at.byte]} >> at.shift & 15u;
}
}  // namespace detail

/// Value i of a block. Exact for q8_0 and q4_0; of nf4 the product rounded once, as float.
constexpr float value_at(const q8_0_block& b, index_t i) noexcept { return static_cast<float>(b.q[i]) * to_float(b.scale); }
constexpr float value_at(const q4_0_block& b, index_t i) noexcept {
  return (static_cast<float>(detail::nibble(b.q, i)) - 8) * to_float(b.scale);
}
constexpr float value_at(const nf4_block& b, index_t i) noexcept { return nf4_levels[detail::nibble(b.q, i)] * b.largest; }

/// Calls f with a null pointer to the block type of `type`. Throws dtype_error for plain types.
template <class F>
decltype(auto) visit_blocks(dtype type, F&& f) {
  switch (type) {
    case dtype::q8_0: return f(static_cast<q8_0_block*>(nullptr));
    case dtype::q4_0: return f(static_cast<q4_0_block*>(nullptr));
    case dtype::nf4: return f(static_cast<nf4_block*>(nullptr));
    default: throw_error<dtype_error>(name_of(type), " is not a block format");
  }
}

/// A place among values stored in blocks: to kernels what a pointer is among plain ones. Whole rows may be added to it, since
/// they are whole blocks.
template <block_format B>
struct block_pointer {
  const B* first = nullptr;
  index_t at = 0;  // in values, from the start of `first`; never negative

  friend constexpr block_pointer operator+(block_pointer p, index_t n) noexcept { return {p.first, p.at + n}; }
  constexpr block_pointer& operator+=(index_t n) noexcept { return at += n, *this; }
  constexpr float operator[](index_t i) const noexcept { return value_at((*this + i).block(), (at + i) % B::count); }
  constexpr const B& block() const noexcept { return first[static_cast<std::size_t>(at) / static_cast<std::size_t>(B::count)]; }
  /// Of this value in its block.
  constexpr index_t offset() const noexcept { return at & (B::count - 1); }
};

/// A matrix of values stored in blocks, as tensor_view is one of plain values. Non-owning. Strides count values.
template <block_format B>
struct block_view {
  using value_type = B;
  block_pointer<B> data;
  extents<2> shape{}, stride{};

  float operator()(index_t i, index_t j) const {
    GRAFT_ASSERT(i >= 0 && i < shape[0] && j >= 0 && j < shape[1]);
    return data[i * stride[0] + j];
  }
};

namespace detail {
template <class E> struct stored { using view = tensor_view<const E, 2>; using pointer = const E*; };
template <block_format B> struct stored<B> { using view = block_view<B>; using pointer = block_pointer<B>; };
}  // namespace detail

/// The view of a matrix stored in elements, or blocks, of type E; and what points to one of its values.
template <class E> using stored_view = typename detail::stored<E>::view;
template <class E> using stored_pointer = typename detail::stored<E>::pointer;

static_assert(sizeof(q8_0_block) == 34 && sizeof(q4_0_block) == 18 && sizeof(nf4_block) == 36);

}  // namespace graft
