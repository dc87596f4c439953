// SPDX-License-Identifier: Apache-2.0
// GGUF files: settings and tensors, looked at where they are or written. Everything is checked before it is used.
// Read next: io/gguf_lora.hpp.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/io/atomic_file.hpp"
#include "graft/io/detail/printable.hpp"
#include "graft/nn/state_dict.hpp"

namespace graft::detail {

static_assert(std::endian::native == std::endian::little, "graft: GGUF data is read in place as little-endian");

enum class gguf_kind : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64 };

/// A setting: a number, a text, or an array, which is checked and not kept.
struct gguf_value {
  gguf_kind kind;
  double number = 0;
  std::string text;
};
struct gguf_view {
  records<gguf_value> settings;
  records<array_ref> tensors;  // shapes in our order, rows first: the reverse of the file's
};

struct gguf_type {
  std::uint32_t id;
  dtype type;
};
inline constexpr gguf_type gguf_types[] = {{0, dtype::f32}, {1, dtype::f16}, {30, dtype::bf16}, {2, dtype::q4_0}, {8, dtype::q8_0}};
inline constexpr std::uint32_t gguf_version = 3;
inline constexpr std::size_t gguf_alignment = 32;

inline std::size_t padded(std::size_t bytes, std::size_t alignment) { return (bytes + alignment - 1) / alignment * alignment; }

class gguf_reader {
 public:
  gguf_reader(std::span<const std::byte> file, std::string_view name) : file_(file), name_(name) {}

  template <class = void>
  gguf_view read() {
    if (take(4, "the magic") != "GGUF") refuse("does not begin with GGUF");
    if (const auto version = number<std::uint32_t>("the version"); version != 2 && version != gguf_version)
      refuse("is of version ", version, ", expected 2 or 3");
    const auto tensors = count("tensors", 24), settings = count("settings", 13);  // the fewest bytes one takes
    gguf_view view;
    std::size_t alignment = gguf_alignment;
    std::set<std::string_view> known;
    for (std::size_t i = 0; i < settings; ++i) {
      const auto key = text("a key");
      if (key.empty() || !known.insert(key).second) refuse("setting ", in_quotes(key), key.empty() ? " has no name" : " appears twice");
      view.settings.emplace_back(std::string(key), value(key));
      const auto& v = view.settings.back().second;
      if (key != "general.alignment") continue;
      if (v.kind != gguf_kind::u32 || !(v.number >= 1) || !std::has_single_bit(static_cast<std::uint32_t>(v.number)))
        refuse("general.alignment is not a power of two");
      alignment = static_cast<std::size_t>(v.number);
    }
    known.clear();
    std::vector<std::size_t> offsets;
    for (std::size_t i = 0; i < tensors; ++i) {
      const auto tensor = text("a tensor's name");
      if (!known.insert(tensor).second) refuse("tensor ", in_quotes(tensor), " appears twice");
      view.tensors.emplace_back(std::string(tensor), header(tensor));
      offsets.push_back(number<std::uint64_t>("an offset"));
    }
    if (padded(at_, alignment) > file_.size() && tensors != 0) refuse("ends before its data");
    const auto data = file_.subspan(std::min(padded(at_, alignment), file_.size()));
    std::size_t filled = 0;
    for (std::size_t i = 0; i < tensors; ++i) {
      auto& [tensor, a] = view.tensors[i];
      const std::size_t bytes = checked_bytes(a.type, a.shape);
      if (offsets[i] != filled) refuse("tensor ", in_quotes(tensor), " begins at byte ", offsets[i], " of the data, what comes before it ends at ", filled);
      if (filled > data.size() || bytes > data.size() - filled) refuse("tensor ", in_quotes(tensor), " goes beyond the end of the file");
      a.bytes = data.subspan(filled, bytes);
      filled = padded(filled + bytes, alignment);
    }
    if (data.size() > filled) refuse("has ", data.size() - filled, " bytes after its last tensor");
    return view;
  }

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const { throw_error<format_error>(name_, ": ", parts...); }

  std::string_view take(std::size_t bytes, std::string_view what) {
    if (bytes > file_.size() - at_) refuse("ends within ", printable(what));
    const std::string_view taken(reinterpret_cast<const char*>(file_.data()) + at_, bytes);
    at_ += bytes;
    return taken;
  }
  template <class V>
  V number(std::string_view what) {
    V v;
    std::memcpy(&v, take(sizeof v, what).data(), sizeof v);
    return v;
  }
  std::string_view text(std::string_view what) {
    const auto length = number<std::uint64_t>(what);
    return take(length, what);
  }
  std::size_t count(std::string_view what, std::size_t least_bytes) {
    const auto n = number<std::uint64_t>(what);
    if (n > file_.size() / least_bytes) refuse(n, " ", what, " cannot be in ", file_.size(), " bytes");
    return n;
  }
  gguf_value value(std::string_view key) {
    gguf_value v{static_cast<gguf_kind>(number<std::uint32_t>(key)), 0, {}};
    if (v.kind != gguf_kind::array) return element(v.kind, key);
    const auto kind = static_cast<gguf_kind>(number<std::uint32_t>(key));
    if (kind == gguf_kind::array) refuse("setting ", in_quotes(key), " is an array of arrays");
    for (auto n = number<std::uint64_t>(key); n > 0; --n) element(kind, key);  // every element takes bytes: the file's end ends this
    return v;
  }
  gguf_value element(gguf_kind kind, std::string_view key) {
    switch (kind) {
      case gguf_kind::u8: case gguf_kind::boolean: return {kind, static_cast<double>(number<std::uint8_t>(key)), {}};
      case gguf_kind::i8: return {kind, static_cast<double>(number<std::int8_t>(key)), {}};
      case gguf_kind::u16: return {kind, static_cast<double>(number<std::uint16_t>(key)), {}};
      case gguf_kind::i16: return {kind, static_cast<double>(number<std::int16_t>(key)), {}};
      case gguf_kind::u32: return {kind, static_cast<double>(number<std::uint32_t>(key)), {}};
      case gguf_kind::i32: return {kind, static_cast<double>(number<std::int32_t>(key)), {}};
      case gguf_kind::f32: return {kind, static_cast<double>(number<float>(key)), {}};
      case gguf_kind::u64: return {kind, static_cast<double>(number<std::uint64_t>(key)), {}};
      case gguf_kind::i64: return {kind, static_cast<double>(number<std::int64_t>(key)), {}};
      case gguf_kind::f64: return {kind, number<double>(key), {}};
      case gguf_kind::text: return {kind, 0, std::string(text(key))};
      default: refuse("setting ", in_quotes(key), " is of the unknown kind ", static_cast<std::uint32_t>(kind));
    }
  }
  array_ref header(std::string_view tensor) {
    const auto rank = number<std::uint32_t>(tensor);
    if (rank < 1 || rank > max_rank) refuse("tensor ", in_quotes(tensor), " has ", rank, " dimensions, expected 1 to 4");
    std::vector<index_t> shape(rank);
    for (std::uint32_t i = 0; i < rank; ++i) shape[rank - 1 - i] = number<std::int64_t>(tensor);
    const auto id = number<std::uint32_t>(tensor);
    for (const gguf_type& t : gguf_types) {
      if (t.id != id) continue;
      try {
        checked_bytes(t.type, shape);
      } catch (const shape_error& e) {
        refuse("tensor ", in_quotes(tensor), ": ", e.what());
      }
      if (shape.back() % layout_of(t.type).count != 0)
        refuse("tensor ", in_quotes(tensor), " has rows of ", shape.back(), ", not whole blocks of ", name_of(t.type));
      return {t.type, std::move(shape), {}};
    }
    refuse("tensor ", in_quotes(tensor), " is of the unsupported type ", id, ", expected f32, f16, bf16, q8_0 or q4_0");
  }

  std::span<const std::byte> file_;
  std::string_view name_;
  std::size_t at_ = 0;
};

/// The bytes of a GGUF file with these settings (numbers as f32) and tensors of f32, f16 or bf16.
template <class = void>
std::string gguf_bytes(const records<gguf_value>& settings, const records<array_ref>& tensors) {
  std::string out = "GGUF";
  const auto put = [&]<class V>(V v) { out.append(reinterpret_cast<const char*>(&v), sizeof v); };
  const auto put_text = [&](std::string_view s) { put(std::uint64_t{s.size()}), out += s; };
  put(gguf_version);
  put(std::uint64_t{tensors.size()});
  put(std::uint64_t{settings.size()});
  for (const auto& [key, v] : settings) {
    put_text(key);
    put(v.kind);
    if (v.kind == gguf_kind::text) put_text(v.text);
    else put(static_cast<float>(v.number));
  }
  std::uint64_t offset = 0;
  for (const auto& [name, a] : tensors) {
    put_text(name);
    put(static_cast<std::uint32_t>(a.shape.size()));
    for (std::size_t i = a.shape.size(); i-- > 0;) put(std::int64_t{a.shape[i]});
    for (const gguf_type& t : gguf_types)
      if (t.type == a.type) put(t.id);
    put(offset);
    offset += padded(a.bytes.size(), gguf_alignment);
  }
  out.resize(padded(out.size(), gguf_alignment));
  for (const auto& [name, a] : tensors) {
    out.append(reinterpret_cast<const char*>(a.bytes.data()), a.bytes.size());
    out.resize(padded(out.size(), gguf_alignment));
  }
  return out;
}

}  // namespace graft::detail
