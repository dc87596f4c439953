// SPDX-License-Identifier: Apache-2.0
#include "graft/io/npy.hpp"

#include <cstring>
#include <string>
#include <vector>

#include "graft/core/random.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/layouts.hpp"

using namespace graft;
using test::some;

namespace {

std::span<const std::byte> bytes_of_text(const std::string& s) { return std::as_bytes(std::span(s)); }

/// A file of version 1.0 with this dictionary and this data, whether they make sense or not.
std::string npy_file(std::string_view dictionary, std::string_view data = {}) {
  const auto n = static_cast<std::uint16_t>(dictionary.size());
  return concat("\x93NUMPY", '\1', '\0', static_cast<char>(n & 255), static_cast<char>(n >> 8), dictionary, data);
}
std::string floats(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(float)};
}
npy_header header_of(const std::string& file) { return read_npy_header(bytes_of_text(file), "f"); }

template <class T, std::size_t Rank>
void check_round_trip(extents<Rank> shape) {
  const test::temporary_folder folder;
  tensor<T, Rank> t(shape);
  const auto source = some<std::uint8_t>(shape, 3);
  for (index_t i = 0; i < t.size(); ++i) t.data()[i] = convert<T>(static_cast<float>(source.data()[i]));
  save_npy(folder / "a.npy", t);
  REQUIRE(test::equal_bits(load_npy<T, Rank>(folder / "a.npy"), t));
  const npy_header h = read_npy_header(folder / "a.npy");
  REQUIRE((h.type == dtype_of<T> && std::ranges::equal(h.shape, shape) && h.data_offset % 64 == 0 && !h.column_major));
}

}  // namespace

TEMPLATE_TEST_CASE("arrays of every type come back as they were", "", double, float, f16, std::int64_t, std::int32_t, std::int16_t,
                   std::int8_t, std::uint8_t) {
  check_round_trip<TestType, 2>({3, 4});
}

TEST_CASE("arrays of every rank come back as they were, and views of any layout") {
  check_round_trip<float, 0>({});
  check_round_trip<float, 1>({1});
  check_round_trip<float, 1>({17});
  check_round_trip<float, 1>({0});
  check_round_trip<float, 3>({2, 0, 3});
  check_round_trip<float, 4>({2, 3, 4, 5});
  const test::temporary_folder folder;
  const auto t = some<std::int32_t>(extents<3>{3, 4, 5}, 1);
  for (const auto& l : test::layouts(t)) {
    save_npy(folder / "a.npy", l.view);
    CHECK(test::equal_bits(load_npy<std::int32_t, 3>(folder / "a.npy"), t));
  }
}

TEST_CASE("the bytes are those of the format") {
  const test::temporary_folder folder;
  save_npy(folder / "a.npy", tensor<float, 2>::of({{1, 2, 3}, {4, 5, 6}}));
  CHECK(test::read_file(folder / "a.npy") ==
        npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }" + std::string(58, ' ') + "\n", floats({1, 2, 3, 4, 5, 6})));
  save_npy(folder / "a.npy", tensor<std::uint8_t, 1>::of({7}));
  CHECK(test::read_file(folder / "a.npy") == npy_file("{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }" + std::string(60, ' ') + "\n", "\7"));
}

TEST_CASE("what the format allows is read") {
  const auto reads = [](const std::string& file) {
    const auto t = from_npy<float, 2>(bytes_of_text(file), "f");
    CHECK(t.shape() == extents<2>{1, 2});
    CHECK(t(0, 1) == 2);
  };
  const std::string data = floats({1, 2});
  reads(npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }  \n", data));
  reads(npy_file("{'shape':(1,2),'fortran_order':False,'descr':'<f4'}", data));                  // any order, no spaces
  reads(npy_file("{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": (1, 2, )}", data));  // other quotes
  std::string two = npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2)}", data);
  two[6] = 2;
  two.insert(10, 2, '\0');  // a length of four bytes
  reads(two);
  const auto mask = from_npy<std::uint8_t, 1>(bytes_of_text(npy_file("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", std::string("\1\0", 2))), "f");
  CHECK(test::elements(mask) == std::vector<std::uint8_t>{1, 0});
}

TEST_CASE("column-major arrays are read as what they mean") {
  const auto file = npy_file("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", floats({1, 4, 2, 5, 3, 6}));
  CHECK(header_of(file).column_major);
  CHECK(test::elements(from_npy<float, 2>(bytes_of_text(file), "f")) == std::vector<float>{1, 2, 3, 4, 5, 6});
  const auto cube = npy_file("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 1, 3)}", "\1\4\2\5\3\6");
  CHECK(test::elements(from_npy<std::uint8_t, 3>(bytes_of_text(cube), "f")) == std::vector<std::uint8_t>{1, 2, 3, 4, 5, 6});
}

TEST_CASE("another type or rank than expected is named") {
  const auto file = npy_file("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2)}", std::string(16, '\0'));
  CHECK_THROWS_WITH((from_npy<float, 2>(bytes_of_text(file), "x.npy")), "x.npy: the elements are f64, expected f32");
  CHECK_THROWS_AS((from_npy<float, 2>(bytes_of_text(file), "x.npy")), dtype_error);
  CHECK_THROWS_WITH((from_npy<double, 1>(bytes_of_text(file), "x.npy")), "x.npy: the array has shape (1, 2), expected rank 1");
  CHECK_THROWS_AS((from_npy<double, 3>(bytes_of_text(file), "x.npy")), shape_error);
}

TEST_CASE("element types that graft lacks are refused by name") {
  const auto refuses = [](std::string_view type, const std::string& message) {
    const auto file = npy_file(concat("{'descr': ", type, ", 'fortran_order': False, 'shape': (1,)}"), std::string(8, 'x'));
    CHECK_THROWS_AS(header_of(file), dtype_error);
    CHECK_THROWS_WITH(header_of(file), message);
  };
  refuses("'>f4'", "f: unsupported element type '>f4': big-endian files are not read");
  refuses("'<u4'", "f: unsupported element type '<u4'");
  refuses("'<c8'", "f: unsupported element type '<c8'");
  refuses("'|O'", "f: unsupported element type '|O'");
  refuses("'<U3'", "f: unsupported element type '<U3'");
  refuses("'\x01\xff'", "f: unsupported element type '\?\?'");
  refuses("[('a', '<f4')]", "f: an array of structures cannot be read, only plain numbers");
}

TEST_CASE("what breaks the format is refused with its place") {
  const auto refuses = [](const std::string& file, const std::string& message) {
    CHECK_THROWS_AS(header_of(file), format_error);
    CHECK_THROWS_WITH(header_of(file), "f: " + message);
  };
  const auto dictionary = [&](std::string_view text, const std::string& message, std::string_view data = {}) { refuses(npy_file(text, data), message); };
  const std::string no_file = "it is no .npy file: it does not begin with \\x93NUMPY and a version";
  refuses("", no_file);
  refuses("\x93NUMP", no_file);
  refuses(std::string("\x93NUMPY\1", 7), no_file);
  refuses("PK\3\4 an archive of arrays", no_file);
  refuses(std::string("\x93NUMPY\1\0", 8), "it ends after 8 bytes, within its header");
  refuses(std::string("\x93NUMPY\2\0\1\0", 10), "it ends after 10 bytes, within its header");
  refuses(std::string("\x93NUMPY\3\0\1\0\0\0", 12), "at byte 6: .npy version 3.0 is not read, expected 1.0 or 2.0");
  refuses(std::string("\x93NUMPY\1\1\1\0", 10), "at byte 6: .npy version 1.1 is not read, expected 1.0 or 2.0");
  refuses(std::string("\x93NUMPY\1\0\5\0{}", 12), "at byte 8: the header should have 5 bytes, but the file ends after 2");
  refuses(std::string("\x93NUMPY\2\0\xff\xff\xff\xff{}", 14), "at byte 8: a header of 4294967295 bytes is beyond the limit of 65535");

  dictionary("", "at byte 10: expected '{', got the end of the header");
  dictionary("[]", "at byte 10: expected '{', got '['");
  dictionary("{}", "at byte 12: a key is missing: expected 'descr', 'fortran_order' and 'shape'");
  dictionary("{'descr': '<f4', 'shape': ()}", "at byte 39: a key is missing: expected 'descr', 'fortran_order' and 'shape'");
  dictionary("{'descr': '<f4', 'descr': '<f4'}", "at byte 27: key 'descr' is unknown or appears twice");
  dictionary("{'x': 1}", "at byte 11: key 'x' is unknown or appears twice");
  dictionary("{'descr '<f4'}", "at byte 19: expected ':', got '<'");
  dictionary("{descr: '<f4'}", "at byte 11: expected ''', got 'd'");
  dictionary("{'descr", "at byte 12: a string does not end");
  dictionary("{'descr': 'a\\'b'", "at byte 21: a string has an escape, which no header needs");
  dictionary("{'descr': ''}", "at byte 20: the element type is empty");
  dictionary("{'fortran_order': 0}", "at byte 28: expected True or False");
  dictionary("{'shape': 3}", "at byte 20: expected '(', got '3'");
  dictionary("{'shape': (3)}", "at byte 22: expected ',' after the only extent of a shape");
  dictionary("{'shape': (-3,)}", "at byte 21: expected an extent, a number without sign");
  dictionary("{'shape': (3,,)}", "at byte 23: expected an extent, a number without sign");
  dictionary("{'shape': (3 4)}", "at byte 23: expected ',' after the only extent of a shape");
  dictionary("{'shape': (3, 4 5)}", "at byte 26: expected ')', got '5'");
  dictionary("{'shape': (3L,)}", "at byte 22: expected ',' after the only extent of a shape");
  dictionary("{'shape': (9223372036854775808,)}", "at byte 21: an extent is too large");
  dictionary("{'descr': '<f4', 'fortran_order': False, 'shape': ()} x", "at byte 64: the header goes on after its dictionary", "1234");
  std::string many = "(";
  for (int i = 0; i < 65; ++i) many += "1,";
  dictionary(concat("{'shape': ", many, ")}"), "at byte 149: the shape has more than 64 dimensions");
}

TEST_CASE("a shape that the data does not fit is refused before anything is allocated") {
  const auto refuses = [](std::string_view shape, std::string_view data, const std::string& message) {
    const auto file = npy_file(concat("{'descr': '<f4', 'fortran_order': False, 'shape': ", shape, "}"), data);
    CHECK_THROWS_AS(header_of(file), format_error);
    CHECK_THROWS_WITH(header_of(file), "f: " + message);
  };
  refuses("(2,)", "1234567", "at byte 65: f32 (2) takes 8 bytes, the file has 7");
  refuses("(2,)", "123456789", "at byte 65: f32 (2) takes 8 bytes, the file has 9");
  refuses("()", "", "at byte 63: f32 () takes 4 bytes, the file has 0");
  refuses("(1000000000000,)", "1234", "at byte 77: f32 (1000000000000) takes 4000000000000 bytes, the file has 4");
  refuses("(4611686018427387904,)", "", "an array of shape (4611686018427387904) is beyond any memory");
  refuses("(4294967296, 4294967296)", "", "an array of shape (4294967296, 4294967296) is beyond any memory");
  // nothing at all, but its strides would overflow
  refuses("(0, 4611686018427387904, 16)", "", "an array of shape (0, 4611686018427387904, 16) is beyond any memory");
  CHECK(header_of(npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 7)}")).data_bytes == 0);
}

TEST_CASE("no damaged file does harm") {
  const std::string whole = npy_file("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }" + std::string(6, ' ') + "\n", floats({1, 2, 3, 4, 5, 6}));
  const auto refused_or_read = [](const std::string& file) {
    try {
      return from_npy<float, 2>(bytes_of_text(file), "f").size() <= 6;
    } catch (const error&) {
      return true;
    }
  };
  for (std::size_t n = 0; n < whole.size(); ++n) CHECK_THROWS_AS(header_of(whole.substr(0, n)), format_error);
  random_stream random(1);
  for (int round = 0; round < 20000; ++round) {
    std::string file = whole;
    for (std::uint64_t i = random.below(3); i <= 2; ++i) file[random.below(80)] = static_cast<char>(random.below(256));
    if (random.below(4) == 0) file.resize(random.below(file.size() + 1));
    REQUIRE(refused_or_read(file));
  }
}

TEST_CASE("a file that is not there, or no place to write, is an io_error that names it") {
  const test::temporary_folder folder;
  CHECK_THROWS_AS((load_npy<float, 1>(folder / "none.npy")), io_error);
  CHECK_THROWS_AS(read_npy_header(folder.path()), io_error);
  CHECK_THROWS_AS(save_npy(folder / "none" / "a.npy", some<float>(extents<1>{3}, 1)), io_error);
}
