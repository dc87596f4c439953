// SPDX-License-Identifier: Apache-2.0
// Element types: the run-time tag, the two 16-bit storage types and their exact conversions, and how many bytes arrays of
// each type take. Read next: core/tensor.hpp; core/blocks.hpp for the block formats.
#pragma once
#include <bit>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "graft/core/error.hpp"
#include "graft/core/extents.hpp"

namespace graft {

/// The last three are block formats, for frozen matrices: neighbours along a row share a scale. See core/blocks.hpp.
enum class dtype : std::uint8_t { f64, f32, bf16, f16, i64, i32, i16, i8, u8, q8_0, q4_0, nf4 };

/// The upper half of an IEEE binary32. Storage only: convert, never compute in it.
struct bf16 {
  std::uint16_t bits = 0;
  friend bool operator==(bf16, bf16) = default;
};

/// IEEE binary16. Storage only: convert, never compute in it.
struct f16 {
  std::uint16_t bits = 0;
  friend bool operator==(f16, f16) = default;
};

template <class T>
concept storage_only = std::same_as<T, bf16> || std::same_as<T, f16>;

constexpr float to_float(bf16 v) noexcept { return std::bit_cast<float>(std::uint32_t{v.bits} << 16); }

constexpr float to_float(f16 v) noexcept {
  // Shift exponent and mantissa into binary32 position, then let one exact multiplication by 2^112 rebias the exponent:
  // it is right for subnormals too. Infinities and NaNs need their exponent filled up.
  const std::uint32_t magnitude = std::uint32_t{v.bits & 0x7fffu} << 13;
  const std::uint32_t sign = std::uint32_t{v.bits & 0x8000u} << 16;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
  if (magnitude >= 0x0f800000u) bits = magnitude | 0x7f800000u;
  return std::bit_cast<float>(bits | sign);
}

/// Rounds to nearest, ties to even; NaN stays NaN.
constexpr bf16 to_bf16(float v) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// Rounds to nearest, ties to even; overflows to infinity; NaN stays NaN.
constexpr f16 to_f16(float v) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x1ffu);
  } else if (magnitude >= 0x47800000u) {  // 65536 and above
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {   // below the smallest normal: adding 0.5 aligns and rounds the mantissa
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

/// Converts between any two element types, rounding once.
template <class To, class From>
constexpr To convert(From v) noexcept {
  if constexpr (std::same_as<To, From>) return v;
  else if constexpr (storage_only<From>) return convert<To>(to_float(v));
  else if constexpr (std::same_as<To, bf16>) return to_bf16(static_cast<float>(v));
  else if constexpr (std::same_as<To, f16>) return to_f16(static_cast<float>(v));
  else return static_cast<To>(v);
}

namespace detail {
template <class T> struct dtype_of;
template <> struct dtype_of<double> { static constexpr dtype value = dtype::f64; };
template <> struct dtype_of<float> { static constexpr dtype value = dtype::f32; };
template <> struct dtype_of<bf16> { static constexpr dtype value = dtype::bf16; };
template <> struct dtype_of<f16> { static constexpr dtype value = dtype::f16; };
template <> struct dtype_of<std::int64_t> { static constexpr dtype value = dtype::i64; };
template <> struct dtype_of<std::int32_t> { static constexpr dtype value = dtype::i32; };
template <> struct dtype_of<std::int16_t> { static constexpr dtype value = dtype::i16; };
template <> struct dtype_of<std::int8_t> { static constexpr dtype value = dtype::i8; };
template <> struct dtype_of<std::uint8_t> { static constexpr dtype value = dtype::u8; };
}  // namespace detail

/// The tag of a C++ element type.
template <class T>
inline constexpr dtype dtype_of = detail::dtype_of<std::remove_const_t<T>>::value;

constexpr std::string_view name_of(dtype type) noexcept {
  switch (type) {
    case dtype::f64: return "f64";
    case dtype::f32: return "f32";
    case dtype::bf16: return "bf16";
    case dtype::f16: return "f16";
    case dtype::i64: return "i64";
    case dtype::i32: return "i32";
    case dtype::i16: return "i16";
    case dtype::i8: return "i8";
    case dtype::u8: return "u8";
    case dtype::q8_0: return "q8_0";
    case dtype::q4_0: return "q4_0";
    case dtype::nf4: return "nf4";
  }
  return "?";
}

/// Whether elements of this type share bytes with their neighbours.
constexpr bool is_block_format(dtype type) noexcept { return type == dtype::q8_0 || type == dtype::q4_0 || type == dtype::nf4; }

/// Calls f with a null pointer to the element type of `type`, so that generic code can name it: the only dtype switch.
/// Throws dtype_error for block formats, which have no such type: see visit_blocks().
template <class F>
decltype(auto) visit_dtype(dtype type, F&& f) {
  switch (type) {
    case dtype::f64: return f(static_cast<double*>(nullptr));
    case dtype::f32: return f(static_cast<float*>(nullptr));
    case dtype::bf16: return f(static_cast<bf16*>(nullptr));
    case dtype::f16: return f(static_cast<f16*>(nullptr));
    case dtype::i64: return f(static_cast<std::int64_t*>(nullptr));
    case dtype::i32: return f(static_cast<std::int32_t*>(nullptr));
    case dtype::i16: return f(static_cast<std::int16_t*>(nullptr));
    case dtype::i8: return f(static_cast<std::int8_t*>(nullptr));
    case dtype::u8: return f(static_cast<std::uint8_t*>(nullptr));
    case dtype::q8_0: case dtype::q4_0: case dtype::nf4:
      throw_error<dtype_error>("elements in blocks of ", name_of(type), " cannot be taken one by one: convert them first");
  }
  throw_error<dtype_error>("unknown element type ", static_cast<int>(type));
}

/// How many neighbours along a row are stored together, and in how many bytes: (1, its size) for plain types.
struct block_layout {
  index_t count, bytes;
};
constexpr block_layout layout_of(dtype type) noexcept {
  switch (type) {
    case dtype::f64: case dtype::i64: return {1, 8};
    case dtype::f32: case dtype::i32: return {1, 4};
    case dtype::bf16: case dtype::f16: case dtype::i16: return {1, 2};
    case dtype::i8: case dtype::u8: return {1, 1};
    case dtype::q8_0: return {32, 34};
    case dtype::q4_0: return {32, 18};
    case dtype::nf4: return {64, 36};
  }
  return {1, 0};
}

/// Bytes of one element; 0 for block formats, where only rows have a size.
constexpr index_t bytes_of(dtype type) noexcept { return is_block_format(type) ? 0 : layout_of(type).bytes; }

/// The addresses that data of this type may have are multiples of this.
constexpr index_t alignment_of(dtype type) noexcept {
  return type == dtype::nf4 ? 4 : is_block_format(type) ? 2 : bytes_of(type);
}

/// Bytes of a row: whole blocks, the last one filled up with zeros.
constexpr index_t row_bytes(dtype type, index_t columns) noexcept {
  const block_layout b = layout_of(type);
  return (columns / b.count + (columns % b.count != 0)) * b.bytes;
}

/// Bytes of a contiguous array; rows run along the last axis. Not checked: shapes from files go through checked_bytes().
constexpr index_t array_bytes(dtype type, std::span<const index_t> shape) noexcept {
  return shape.empty() ? row_bytes(type, 1) : volume(shape.first(shape.size() - 1)) * row_bytes(type, shape.back());
}

/// The same. Throws shape_error on a negative extent or an overflow.
inline std::size_t checked_bytes(dtype type, std::span<const index_t> shape) {
  if (!is_block_format(type)) return checked_bytes(shape, static_cast<std::size_t>(bytes_of(type)));
  if (shape.empty()) return static_cast<std::size_t>(row_bytes(type, 1));
  checked_bytes(shape, 2);  // the number of values, and below that of one row, must have room to spare for what follows
  checked_bytes(shape.last(1), 2);
  return checked_bytes(shape.first(shape.size() - 1), static_cast<std::size_t>(row_bytes(type, shape.back())));
}

}  // namespace graft
