// SPDX-License-Identifier: Apache-2.0
// NumPy's .npy files: one array each, checked byte for byte before anything is allocated. Read next: tensor/print.hpp.
//
// Format 1.0 is written, 1.0 and 2.0 are read. Little-endian f64, f32, f16, i64, i32, i16, i8 and u8; NumPy's bool is read
// as u8. bf16, which NumPy lacks, and big-endian files are refused. Arrays in column-major (Fortran) order are read too.
// Source: the format's description in NumPy's documentation (numpy.lib.format).
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graft/io/atomic_file.hpp"
#include "graft/io/mapped_file.hpp"
#include "graft/tensor/operand.hpp"

namespace graft {

static_assert(std::endian::native == std::endian::little, "graft: .npy data is read in place as little-endian");

/// What a file says of its array.
struct npy_header {
  dtype type = dtype::f32;
  std::vector<index_t> shape;
  bool column_major = false;     ///< the first index runs fastest
  std::size_t data_offset = 0;   ///< of the first element, in bytes
  std::size_t data_bytes = 0;    ///< what the shape takes, and the file has
};

/// Reads the header of a whole file's bytes; `name` stands for the file in errors. Throws format_error for whatever breaks
/// the format, data cut short or too long included, and dtype_error for an element type that graft lacks.
npy_header read_npy_header(std::span<const std::byte> file, std::string_view name);

/// The same of a file: tells the element type and shape before load_npy() wants to know them. Throws io_error too.
npy_header read_npy_header(const std::filesystem::path& path);

/// The array of a file. T and Rank must be those of the file: dtype_error and shape_error say what it has.
template <class T, std::size_t Rank>
tensor<T, Rank> load_npy(const std::filesystem::path& path);

/// The same from bytes.
template <class T, std::size_t Rank>
tensor<T, Rank> from_npy(std::span<const std::byte> file, std::string_view name);

/// Writes a tensor or view, row-major; the file appears whole or not at all. Throws io_error.
template <tensor_like X>
void save_npy(const std::filesystem::path& path, const X& x);

namespace detail {

struct npy_type {
  std::string_view name;
  dtype type;
};
inline constexpr std::array<npy_type, 9> npy_types{{{"<f8", dtype::f64},
                                                    {"<f4", dtype::f32},
                                                    {"<f2", dtype::f16},
                                                    {"<i8", dtype::i64},
                                                    {"<i4", dtype::i32},
                                                    {"<i2", dtype::i16},
                                                    {"|i1", dtype::i8},
                                                    {"|u1", dtype::u8},
                                                    {"|b1", dtype::u8}}};
inline constexpr std::string_view npy_magic = "\x93NUMPY";
inline constexpr std::size_t npy_header_limit = 65535;  // ours: a header of a plain array takes 118 bytes
inline constexpr std::size_t npy_rank_limit = 64;       // ours and NumPy's

/// Reads the dictionary that is a file's header: a Python literal with three keys, in any order.
class npy_dictionary {
 public:
  /// `offset` is that of the text in the file.
  npy_dictionary(std::string_view text, std::size_t offset, std::string_view file) : text_(text), offset_(offset), file_(file) {}

  npy_header read() {
    npy_header header;
    want('{');
    while (!take('}')) {
      const std::size_t start = at_;
      const std::string_view key = quoted();
      want(':');
      if (!once(key)) fail(start, concat("key '", printable(key), "' is unknown or appears twice"));
      if (key == "descr") header.type = element_type();
      else if (key == "fortran_order") header.column_major = boolean();
      else header.shape = shape();
      if (!take(',')) {
        want('}');
        break;
      }
    }
    if (seen_ != 7) fail(at_, "a key is missing: expected 'descr', 'fortran_order' and 'shape'");
    skip_space();
    if (at_ != text_.size()) fail(at_, "the header goes on after its dictionary");
    return header;
  }

 private:
  [[noreturn]] void fail(std::size_t at, std::string_view what) const {
    throw_error<format_error>(file_, ": at byte ", offset_ + at, ": ", what);
  }
  static std::string printable(std::string_view s) {
    std::string t(s.substr(0, 40));
    std::replace_if(t.begin(), t.end(), [](char c) { return c < 32 || c > 126; }, '?');
    return t;
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void want(char c) {
    if (take(c)) return;
    const std::string got = at_ == text_.size() ? "the end of the header" : concat('\'', printable(text_.substr(at_, 1)), '\'');
    fail(at_, concat("expected '", c, "', got ", got));
  }
  bool once(std::string_view key) {
    const unsigned bit = key == "descr" ? 1 : key == "fortran_order" ? 2 : key == "shape" ? 4 : 0;
    const bool fresh = bit != 0 && (seen_ & bit) == 0;
    seen_ |= bit;
    return fresh;
  }

  std::string_view quoted() {
    const char quote = take('"') ? '"' : '\'';
    if (quote == '\'') want('\'');
    const std::size_t first = at_, end = text_.find(quote, at_);
    if (end == std::string_view::npos) fail(first, "a string does not end");
    at_ = end + 1;
    const auto s = text_.substr(first, end - first);
    if (s.find('\\') != std::string_view::npos) fail(first, "a string has an escape, which no header needs");
    return s;
  }

  dtype element_type() {
    skip_space();
    const std::size_t start = at_;
    if (at_ < text_.size() && (text_[at_] == '[' || text_[at_] == '('))
      throw_error<dtype_error>(file_, ": an array of structures cannot be read, only plain numbers");
    const std::string_view name = quoted();
    for (const auto& t : npy_types)
      if (t.name == name) return t.type;
    if (name.empty()) fail(start, "the element type is empty");
    throw_error<dtype_error>(file_, ": unsupported element type '", printable(name), '\'',
                             name.front() == '>' ? ": big-endian files are not read" : "");
  }

  bool boolean() {
    skip_space();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return value;
      }
    }
    fail(at_, "expected True or False");
  }

  std::vector<index_t> shape() {
    std::vector<index_t> extents;
    want('(');
    while (!take(')')) {
      if (extents.size() == npy_rank_limit) fail(at_, concat("the shape has more than ", npy_rank_limit, " dimensions"));
      extents.push_back(extent());
      const bool comma = take(',');
      if (!comma && extents.size() == 1) fail(at_, "expected ',' after the only extent of a shape");
      if (comma) continue;
      want(')');
      break;
    }
    return extents;
  }
  index_t extent() {
    skip_space();
    const std::size_t start = at_;
    index_t n = 0;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_)
      if (__builtin_mul_overflow(n, index_t{10}, &n) || __builtin_add_overflow(n, index_t{text_[at_] - '0'}, &n))
        fail(start, "an extent is too large");
    if (at_ == start) fail(at_, "expected an extent, a number without sign");
    return n;
  }

  std::string_view text_;
  std::size_t offset_, at_ = 0;
  std::string_view file_;
  unsigned seen_ = 0;
};

/// Bytes that the elements take. Extents of 0 make it 0, but the others must be possible together: strides come from them.
inline std::size_t npy_data_bytes(const npy_header& header, std::string_view file) {
  auto product = static_cast<std::size_t>(bytes_of(header.type));
  bool empty = false;
  for (const index_t e : header.shape) {
    empty = empty || e == 0;
    if (__builtin_mul_overflow(product, static_cast<std::size_t>(std::max<index_t>(1, e)), &product) ||
        product > static_cast<std::size_t>(std::numeric_limits<index_t>::max()))
      throw_error<format_error>(file, ": an array of shape ", to_string(header.shape), " is beyond any memory");
  }
  return empty ? 0 : product;
}

template <tensor_like X>
std::string npy_header_text(const X& x) {
  using T = element_of<X>;
  static_assert(!std::same_as<T, bf16>, "graft: .npy files have no bf16: save cast<float>(x)");
  const auto type = std::find_if(npy_types.begin(), npy_types.end(), [](const npy_type& t) { return t.type == graft::dtype_of<T>; });
  std::string dictionary = concat("{'descr': '", type->name, "', 'fortran_order': False, 'shape': (");
  for (const index_t e : x.shape) dictionary += concat(e, rank_of<X> == 1 ? "," : ", ");
  if (rank_of<X> > 1) dictionary.resize(dictionary.size() - 2);
  dictionary += "), }";
  const std::size_t before = npy_magic.size() + 4;
  dictionary.append(63 - (before + dictionary.size()) % 64, ' ');  // the data starts at a multiple of 64
  dictionary += '\n';
  const auto length = static_cast<std::uint16_t>(dictionary.size());
  return concat(npy_magic, '\1', '\0', static_cast<char>(length & 255), static_cast<char>(length >> 8), dictionary);
}

}  // namespace detail

inline npy_header read_npy_header(std::span<const std::byte> file, std::string_view name) {
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  if (bytes.substr(0, detail::npy_magic.size()) != detail::npy_magic || bytes.size() < detail::npy_magic.size() + 2)
    throw_error<format_error>(name, ": it is no .npy file: it does not begin with \\x93NUMPY and a version");
  const int major = static_cast<int>(file[6]), minor = static_cast<int>(file[7]);
  if ((major != 1 && major != 2) || minor != 0)
    throw_error<format_error>(name, ": at byte 6: .npy version ", major, '.', minor, " is not read, expected 1.0 or 2.0");
  const std::size_t text_at = major == 1 ? 10 : 12;
  if (bytes.size() < text_at) throw_error<format_error>(name, ": it ends after ", bytes.size(), " bytes, within its header");
  std::size_t length = 0;
  std::memcpy(&length, file.data() + 8, text_at - 8);
  if (length > detail::npy_header_limit)
    throw_error<format_error>(name, ": at byte 8: a header of ", length, " bytes is beyond the limit of ", detail::npy_header_limit);
  if (length > bytes.size() - text_at)
    throw_error<format_error>(name, ": at byte 8: the header should have ", length, " bytes, but the file ends after ", bytes.size() - text_at);
  npy_header header = detail::npy_dictionary(bytes.substr(text_at, length), text_at, name).read();
  header.data_offset = text_at + length;
  header.data_bytes = detail::npy_data_bytes(header, name);
  if (const std::size_t rest = bytes.size() - header.data_offset; rest != header.data_bytes)
    throw_error<format_error>(name, ": at byte ", header.data_offset, ": ", name_of(header.type), ' ', to_string(header.shape), " takes ",
                              header.data_bytes, " bytes, the file has ", rest);
  return header;
}

inline npy_header read_npy_header(const std::filesystem::path& path) {
  return read_npy_header(mapped_file(path).bytes(), path.string());
}

template <class T, std::size_t Rank>
tensor<T, Rank> from_npy(std::span<const std::byte> file, std::string_view name) {
  static_assert(!std::same_as<T, bf16>, "graft: .npy files have no bf16");
  const npy_header header = read_npy_header(file, name);
  if (header.type != dtype_of<T>)
    throw_error<dtype_error>(name, ": the elements are ", name_of(header.type), ", expected ", name_of(dtype_of<T>));
  if (header.shape.size() != Rank)
    throw_error<shape_error>(name, ": the array has shape ", to_string(header.shape), ", expected rank ", Rank);
  extents<Rank> shape{};
  std::array<std::size_t, Rank> backwards{};
  for (std::size_t i = 0; i < Rank; ++i) {
    backwards[i] = Rank - 1 - i;
    shape[i] = header.shape[header.column_major ? backwards[i] : i];
  }
  tensor<T, Rank> t(shape);
  if (header.data_bytes != 0) std::memcpy(t.data(), file.data() + header.data_offset, header.data_bytes);
  return header.column_major ? t.view().permute(backwards).clone() : std::move(t);
}

template <class T, std::size_t Rank>
tensor<T, Rank> load_npy(const std::filesystem::path& path) {
  return from_npy<T, Rank>(mapped_file(path).bytes(), path.string());
}

template <tensor_like X>
void save_npy(const std::filesystem::path& path, const X& x) {
  const auto elements = detail::const_view(x);
  const auto head = detail::npy_header_text(elements);
  tensor<element_of<X>, rank_of<X>> copy;
  std::span<const element_of<X>> values(elements.data, static_cast<std::size_t>(elements.size()));
  if (!elements.contiguous()) values = (copy = elements.clone()).span();
  write_file_atomically(path, [&](byte_sink sink) {
    sink(std::as_bytes(std::span(head)));
    sink(std::as_bytes(values));
  });
}

}  // namespace graft
