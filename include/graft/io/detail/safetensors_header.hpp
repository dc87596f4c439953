// SPDX-License-Identifier: Apache-2.0
// The header of a safetensors file: its element types, and a reader that checks every entry as it comes.
// Read next: io/safetensors.hpp.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graft/core/dtype.hpp"
#include "graft/io/detail/json_events.hpp"
#include "graft/nn/state_dict.hpp"

namespace graft::detail {

inline constexpr std::size_t safetensors_header_limit = 100'000'000;  // of the format
inline constexpr std::size_t safetensors_rank_limit = 64;             // ours: bounds what a hostile header may allocate
inline constexpr std::size_t safetensors_metadata_limit = 100'000;    // ours: likewise, of entries
inline constexpr int safetensors_depth_limit = 64;                    // ours: of values the format does not know

// An element type of the format. Nothing in `type` where `dtype` lacks it.
struct safetensors_type {
  std::string_view name;
  std::uint64_t bits;
  std::optional<dtype> type = std::nullopt;
};

// In the order in which a writer lays tensors out: each type's data then starts where its alignment wants it.
inline constexpr std::array<safetensors_type, 22> safetensors_types{{
    {"U64", 64},         {"I64", 64, dtype::i64},   {"F64", 64, dtype::f64}, {"C64", 64},
    {"F32", 32, dtype::f32}, {"U32", 32},           {"I32", 32, dtype::i32}, {"BF16", 16, dtype::bf16},
    {"F16", 16, dtype::f16}, {"U16", 16},           {"I16", 16, dtype::i16}, {"F8_E5M2FNUZ", 8},
    {"F8_E4M3FNUZ", 8},  {"F8_E8M0", 8},            {"F8_E4M3", 8},          {"F8_E5M2", 8},
    {"I8", 8, dtype::i8},    {"U8", 8, dtype::u8},  {"F6_E3M2", 6},          {"F6_E2M3", 6},
    {"F4", 4},           {"BOOL", 8},
}};

// What the header says of one tensor. Once the reader hands it out, begin <= end and end - begin is the size in bytes.
struct safetensors_entry {
  std::string name;
  const safetensors_type* type = nullptr;
  std::vector<index_t> shape;
  std::uint64_t begin = 0, end = 0;
};

// Fills `entries` and `metadata` from the header's text, in its order. Whether the tensors fit together and the data is
// left to the caller. Takes no more memory than a small multiple of the text, whatever the text.
class safetensors_header final : public json_events {
 public:
  explicit safetensors_header(std::string_view file) : name_(file) {}
  std::vector<safetensors_entry> entries;
  records<std::string> metadata;

 private:
  enum class place { document, names, metadata, tensor, list };  // list: inside the array of a shape or of offsets
  enum field : unsigned { type = 1, shape = 2, offsets = 4, other = 0 };

  void null() override { unexpected("null"); }
  void boolean(bool v) override { unexpected(v ? "true" : "false"); }
  void negative(std::int64_t v) override { unexpected(v == 0 ? "-0" : concat(v)); }
  void real(double, std::string_view text) override { unexpected(printable(text)); }
  void natural(std::uint64_t v) override {
    if (place_ != place::list) return unexpected(concat(v));
    safetensors_entry& e = entries.back();
    if (field_ == field::offsets) {
      if (++offsets_ > 2) refuse("data_offsets has more than two entries");
      (offsets_ == 1 ? e.begin : e.end) = v;
    } else {
      if (!std::in_range<index_t>(v)) refuse(concat("shape has an extent of ", v, ", which is too large"));
      if (e.shape.size() == safetensors_rank_limit)
        refuse(concat("shape has more than ", safetensors_rank_limit, " dimensions"));
      e.shape.push_back(static_cast<index_t>(v));
    }
  }
  void string(std::string& v) override {
    if (place_ == place::metadata) {
      metadata.back().second = std::move(v);
    } else if (place_ == place::tensor && field_ == field::type) {
      for (const safetensors_type& t : safetensors_types)
        if (t.name == v) entries.back().type = &t;
      if (entries.back().type == nullptr) refuse(concat("unknown dtype ", in_quotes(v)));
    } else {
      return unexpected(in_quotes(v));
    }
  }

  void key(std::string& k) override {
    if (skipped_ > 0) return;
    if (place_ == place::names) {
      in_metadata_ = k == "__metadata__";
      if (in_metadata_ && std::exchange(metadata_seen_, true))
        throw_error<format_error>(name_, ": __metadata__ appears twice");
      if (!in_metadata_) entries.emplace_back().name = std::move(k);
      fields_ = 0;
      offsets_ = 0;
    } else if (place_ == place::metadata) {
      if (metadata.size() == safetensors_metadata_limit)
        throw_error<format_error>(name_, ": __metadata__ has more than ", safetensors_metadata_limit, " entries");
      metadata.emplace_back(std::move(k), "");
    } else {
      field_ = k == "dtype"          ? field::type
               : k == "shape"        ? field::shape
               : k == "data_offsets" ? field::offsets
                                     : field::other;
      if ((fields_ & field_) != 0) refuse(concat(k, " appears twice"));
      fields_ |= field_;
    }
  }

  void begin_object() override {
    if (skipping()) ++skipped_;
    else if (place_ == place::document) place_ = place::names;
    else if (place_ == place::names) place_ = in_metadata_ ? place::metadata : place::tensor;
    else unexpected("an object");
  }
  void end_object() override {
    if (skipped_ > 0) {
      --skipped_;
    } else if (place_ != place::names) {
      if (place_ == place::tensor) check_entry();
      place_ = place::names;
    }
  }
  void begin_array() override {
    if (skipping()) ++skipped_;
    else if (place_ == place::tensor && (field_ == field::shape || field_ == field::offsets)) place_ = place::list;
    else unexpected("an array");
  }
  void end_array() override {
    if (skipped_ > 0) --skipped_;
    else place_ = place::tensor;
  }

  // Whether the value to come belongs to a key of a tensor that the format does not know, which is tolerated.
  bool skipping() const { return skipped_ > 0 || (place_ == place::tensor && field_ == field::other); }

  // Refuses a value that cannot stand here, unless it is skipped.
  void unexpected(std::string_view got) const {
    if (skipping()) return;
    if (place_ == place::document) throw_error<format_error>(name_, ": the header is no object but ", got);
    if (place_ == place::metadata)
      throw_error<format_error>(name_, ": __metadata__ ", in_quotes(metadata.back().first),
                                ": expected a string, got ", got);
    if (place_ == place::names && in_metadata_)
      throw_error<format_error>(name_, ": __metadata__: expected an object, got ", got);
    if (place_ == place::names) refuse(concat("expected an object, got ", got));
    const std::string_view key = field_ == field::type ? "dtype" : field_ == field::shape ? "shape" : "data_offsets";
    const std::string_view wanted = place_ == place::list     ? "an integer, 0 or more"
                                    : field_ == field::type ? "a string"
                                                            : "an array";
    refuse(concat(key, ": expected ", wanted, ", got ", got));
  }

  [[noreturn]] void refuse(std::string_view what) const {
    throw_error<format_error>(name_, ": tensor ", in_quotes(entries.back().name), ": ", what);
  }

  void check_entry() const {
    const safetensors_entry& e = entries.back();
    if ((fields_ & field::type) == 0) refuse("has no dtype");
    if ((fields_ & field::shape) == 0) refuse("has no shape");
    if (offsets_ != 2) refuse("has no data_offsets of two entries");
    std::uint64_t bits = e.type->bits;  // of the extents so far: no product of them overflows, even if a later one is 0
    for (const index_t extent : e.shape)
      if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(extent), &bits))
        refuse(concat("shape ", to_string(e.shape), " of ", e.type->name, " is too large"));
    const auto range = concat("data_offsets [", e.begin, ", ", e.end, "]");
    if (bits % 8 != 0)
      refuse(concat("shape ", to_string(e.shape), " of ", e.type->name, " takes ", bits,
                    " bits, which are no whole bytes"));
    if (e.end < e.begin) refuse(concat(range, " end before they begin"));
    if (e.end - e.begin != bits / 8)
      refuse(concat(range, " hold ", e.end - e.begin, " bytes, but shape ", to_string(e.shape), " of ", e.type->name,
                    " takes ", bits / 8));
  }

  std::string_view name_;  // of the file, for messages
  place place_ = place::document;
  field field_ = field::other;  // of the last key in a tensor
  unsigned fields_ = 0;         // all those the tensor has had so far
  int offsets_ = 0, skipped_ = 0;
  bool in_metadata_ = false, metadata_seen_ = false;
};

}  // namespace graft::detail
