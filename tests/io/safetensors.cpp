// SPDX-License-Identifier: Apache-2.0
#include "graft/io/safetensors.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "graft/core/frozen_array.hpp"
#include "graft/core/random.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"
#include "support/safetensors.hpp"

using namespace graft;
using namespace std::string_view_literals;
using test::safetensors_file;

namespace {

safetensors_view seen(const std::vector<std::byte>& file) { return view_safetensors(file, "file"); }
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A file of four bytes and one tensor "a", whose entry begins with this value of "dtype".
std::vector<std::byte> entry(std::string_view fields) {
  return safetensors_file(concat(R"({"a":{"dtype":)", fields, "}}"), "xxxx");
}

void refuses(const std::vector<std::byte>& file, const std::string& message) {
  CHECK_THROWS_AS(seen(file), format_error);
  CHECK_THROWS_WITH(seen(file), "file: " + message);
}

// The text after one to three small changes.
std::string changed(std::string text, random_stream& random) {
  constexpr auto telling = "{}[]\":,0123456789-eE.\\ \0\x80\xFF"sv;
  for (auto changes = random.below(3) + 1; changes > 0 && !text.empty(); --changes) {
    const std::size_t at = random.below(text.size()), from = random.below(text.size());
    switch (random.below(5)) {
      case 0: text[at] = static_cast<char>(random.below(256)); break;
      case 1: text[at] = static_cast<char>(text[at] ^ 1 << random.below(8)); break;
      case 2: text[at] = telling[random.below(telling.size())]; break;
      case 3: text.erase(at, random.below(9)); break;
      default: text.insert(at, text.substr(from, random.below(40))); break;
    }
  }
  return text;
}

template <class T>
array array_of(std::vector<index_t> shape, const std::vector<T>& values) {
  array a{dtype_of<T>, std::move(shape), {}};
  const auto bytes = std::as_bytes(std::span(values));
  a.bytes.assign(bytes.begin(), bytes.end());
  return a;
}

state_dict sample() {
  state_dict s;
  s.items = {{"layers.1.weight", array_of<float>({2, 3}, {1, 2, 3, 4, 5, std::nanf("")})},
             {"layers.0.weight", array_of<bf16>({2, 2}, {{1}, {2}, {3}, {4}})},
             {"scalar", array_of<double>({}, {0.5})},
             {"empty", array_of<float>({0, 7}, {})},
             {"bytes", array_of<std::uint8_t>({3}, {1, 2, 3})},
             {"odd \"name\"\n\xC3\xA9", array_of<std::int64_t>({1, 1}, {-1})}};
  s.metadata = {{"format", "pt"}, {"a \"key\"", "line\nbreak"}};
  return s;
}

}  // namespace

TEST_CASE("a file is viewed in place, in the order of its data") {
  const auto file = safetensors_file(
      R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]},)"
      R"("a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},)"
      R"("__metadata__":{"k":"v"}})",
      "abcdef");
  const safetensors_view v = seen(file);
  REQUIRE(v.items.size() == 2);
  CHECK(v.items[0].first == "a");
  CHECK(v.items[0].second.type == dtype::i8);
  CHECK(v.items[0].second.shape == std::vector<index_t>{2});
  CHECK(text_of(v.items[0].second.bytes) == "ab");
  CHECK(text_of(v.items[1].second.bytes) == "cdef");
  CHECK(v.items[1].second.bytes.data() == file.data() + file.size() - 4);
  CHECK(v.metadata == records<std::string>{{"k", "v"}});
  CHECK(v.foreign.empty());
}

TEST_CASE("unaligned data converts") {
  auto file = safetensors_file(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
      "xxxxx");
  const float value = -2.5f;
  std::memcpy(file.data() + file.size() - 4, &value, 4);
  double read = 0;
  const safetensors_view v = seen(file);
  convert_elements(v.items[1].second.type, v.items[1].second.bytes.data(), 1, &read);
  CHECK(read == -2.5);
}

TEST_CASE("what the format allows is taken") {
  const auto takes = [](std::string_view header, std::string_view data = {}) {
    CHECK_NOTHROW(view_safetensors(safetensors_file(header, data), "file", foreign_types::set_aside));
  };
  takes("{}");
  takes(R"({"__metadata__":{}})");
  // Padding on both sides, as far as a page and more.
  takes(" \n\t{}\r\n  ");
  takes(std::string(5000, ' ') + R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x");
  // A scalar, an array of nothing, and arrays of nothing around one of something.
  takes(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", "xxxx");
  takes(R"({"a":{"dtype":"F32","shape":[5,0,9223372036854775807],"data_offsets":[0,0]}})");
  takes(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
        R"("c":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "x");
  // Keys in any order, keys nobody knows, and the empty name.
  takes(R"({"a":{"data_offsets":[0,1],"shape":[1],"dtype":"U8"}})", "x");
  takes(R"({"a":{"dtype":"U8","note":{"shape":["x",-1,[{}]],"dtype":null},"shape":[1],"more":[],"also":1e3,)"
        R"("data_offsets":[0,1]}})", "x");
  takes(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x");
}

TEST_CASE("every element type of the format has its size") {
  const std::vector<std::pair<std::string, int>> types = {
      {"BOOL", 8},        {"U8", 8},          {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
      {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},        {"F32", 32}, {"I64", 64},    {"U64", 64},    {"F64", 64},
      {"C64", 64},        {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  CHECK(types.size() == detail::safetensors_types.size());
  for (const auto& [name, bits] : types) {
    const auto file = [&, type = name](int bytes) {
      return safetensors_file(concat(R"({"a":{"dtype":")", type, R"(","shape":[4],"data_offsets":[0,)", bytes, "]}}"),
                              std::string(static_cast<std::size_t>(bytes), 'x'));
    };
    const int bytes = 4 * bits / 8;
    CHECK_NOTHROW(view_safetensors(file(bytes), name, foreign_types::set_aside));
    CHECK_THROWS_AS(view_safetensors(file(bytes - 1), name, foreign_types::set_aside), format_error);
    CHECK_THROWS_AS(view_safetensors(file(bytes + 1), name, foreign_types::set_aside), format_error);
  }
}

TEST_CASE("a tensor of an element type that graft lacks is refused, or set aside") {
  const auto file = safetensors_file(
      R"({"mask":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]},)"
      R"("x":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
      "abc");
  CHECK_THROWS_WITH(view_safetensors(file, "file"), R"(file: tensor "mask" has unsupported dtype BOOL)");
  CHECK_THROWS_AS(from_safetensors(file, "file"), dtype_error);
  const safetensors_view v = view_safetensors(file, "file", foreign_types::set_aside);
  CHECK(v.items.size() == 1);
  CHECK(v.foreign == records<std::string>{{"mask", "BOOL"}});
}

TEST_CASE("a file without a whole header is refused") {
  refuses({}, "0 bytes are too few for a safetensors file");
  refuses(std::vector<std::byte>(7), "7 bytes are too few for a safetensors file");
  auto file = safetensors_file("{}");
  file[0] = std::byte{3};
  refuses(file, "the header should have 3 bytes, but the file ends after 2");
  for (std::size_t i = 0; i < 8; ++i) file[i] = std::byte{0xFF};  // 8 + N overflows
  refuses(file, "a header of 18446744073709551615 bytes is beyond the limit of 100000000");
}

TEST_CASE("a header that is no JSON object is refused") {
  const auto not_json = [&](std::string_view header) {
    CHECK_THROWS_WITH(seen(safetensors_file(header)),
                      Catch::Matchers::StartsWith("file: not valid JSON at line 1, column "));
  };
  for (const char* header :
       {"", "  ", "{", "{}x", "{} {}", "\xEF\xBB\xBF{}", "{\"\xFF\":1}", "{\"\\ud800\":1}", "{\xA0}"})
    not_json(header);
  not_json(std::string_view("{}\0\0", 4));  // padded with zero bytes
  refuses(safetensors_file("[]"), "the header is no object but an array");
  refuses(safetensors_file("null"), "the header is no object but null");
  refuses(safetensors_file("17"), "the header is no object but 17");
}

TEST_CASE("an entry that lacks something or has it in another form is refused") {
  refuses(safetensors_file(R"({"a":1})"), R"(tensor "a": expected an object, got 1)");
  refuses(safetensors_file(R"({"a":[]})"), R"(tensor "a": expected an object, got an array)");
  refuses(safetensors_file(R"({"a":{}})"), R"(tensor "a": has no dtype)");
  refuses(entry(R"("F33","shape":[1],"data_offsets":[0,4])"), R"(tensor "a": unknown dtype "F33")");
  refuses(entry(R"("f32","shape":[1],"data_offsets":[0,4])"), R"(tensor "a": unknown dtype "f32")");
  refuses(entry(R"(7,"shape":[1],"data_offsets":[0,4])"), R"(tensor "a": dtype: expected a string, got 7)");
  refuses(entry(R"("F32","data_offsets":[0,4])"), R"(tensor "a": has no shape)");
  refuses(entry(R"("F32","shape":[1])"), R"(tensor "a": has no data_offsets of two entries)");
  refuses(entry(R"("F32","shape":[1],"data_offsets":[4])"), R"(tensor "a": has no data_offsets of two entries)");
  refuses(entry(R"("F32","shape":[1],"data_offsets":[0,4,4])"),
          R"(tensor "a": data_offsets has more than two entries)");
  refuses(entry(R"("F32","shape":1,"data_offsets":[0,4])"), R"(tensor "a": shape: expected an array, got 1)");
  refuses(entry(R"("F32","shape":{},"data_offsets":[0,4])"), R"(tensor "a": shape: expected an array, got an object)");
  const std::string integer = R"(: expected an integer, 0 or more, got )";
  refuses(entry(R"("F32","shape":[[1]],"data_offsets":[0,4])"), R"(tensor "a": shape)" + integer + "an array");
  for (const char* extent : {"-1", "-0", "1.0", "1e0", "null", "true", "18446744073709551616", "\"1\""})
    refuses(entry(concat(R"("F32","shape":[)", extent, R"(],"data_offsets":[0,4])")),
            R"(tensor "a": shape)" + integer + extent);
  refuses(entry(R"("F32","shape":[1],"data_offsets":[0,-4])"), R"(tensor "a": data_offsets)" + integer + "-4");
}

TEST_CASE("shapes and sizes that cannot be are refused") {
  refuses(entry(R"("F32","shape":[18446744073709551615],"data_offsets":[0,4])"),
          R"(tensor "a": shape has an extent of 18446744073709551615, which is too large)");
  refuses(entry(R"("F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
          R"(tensor "a": shape (4294967296, 4294967296) of F32 is too large)");
  refuses(entry(R"("F64","shape":[2305843009213693952],"data_offsets":[0,0])"),
          R"(tensor "a": shape (2305843009213693952) of F64 is too large)");
  refuses(entry(R"("F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"),
          R"(tensor "a": shape (4294967296, 4294967296, 0) of F32 is too large)");
  refuses(entry(R"("F4","shape":[3],"data_offsets":[0,1])"),
          R"(tensor "a": shape (3) of F4 takes 12 bits, which are no whole bytes)");
  refuses(entry(R"("F32","shape":[1],"data_offsets":[4,0])"),
          R"(tensor "a": data_offsets [4, 0] end before they begin)");
  refuses(entry(R"("F32","shape":[2],"data_offsets":[0,4])"),
          R"(tensor "a": data_offsets [0, 4] hold 4 bytes, but shape (2) of F32 takes 8)");
  std::string ones = "1";
  for (int i = 0; i < 64; ++i) ones += ",1";
  refuses(entry(concat(R"("U8","shape":[)", ones, R"(],"data_offsets":[0,1])")),
          R"(tensor "a": shape has more than 64 dimensions)");
  refuses(entry(concat(R"("U8","x":)", std::string(63, '['))), "values are nested more than 64 deep");
}

TEST_CASE("tensors that overlap, leave holes or miss the end of the data are refused") {
  const auto two = [](int a_begin, int a_end, int b_begin, int b_end, std::string_view data) {
    const auto u8 = [](int begin, int end) {
      return concat(R"({"dtype":"U8","shape":[)", end - begin, R"(],"data_offsets":[)", begin, ',', end, "]}");
    };
    return safetensors_file(concat(R"({"a":)", u8(a_begin, a_end), R"(,"b":)", u8(b_begin, b_end), '}'), data);
  };
  CHECK_NOTHROW(seen(two(0, 2, 2, 4, "xxxx")));
  refuses(two(0, 2, 3, 4, "xxxx"), R"(tensor "b" begins at byte 3 of the data, but what comes before it ends at 2)");
  refuses(two(0, 3, 2, 4, "xxxx"), R"(tensor "b" begins at byte 2 of the data, but what comes before it ends at 3)");
  refuses(two(0, 4, 0, 4, "xxxx"), R"(tensor "b" begins at byte 0 of the data, but what comes before it ends at 4)");
  refuses(two(1, 2, 2, 4, "xxxx"), R"(tensor "a" begins at byte 1 of the data, but what comes before it ends at 0)");
  refuses(two(0, 2, 2, 4, "xxx"), "the tensors take 4 bytes of data, but the file has 3");
  refuses(two(0, 2, 2, 4, "xxxxx"), "the tensors take 4 bytes of data, but the file has 5");
  refuses(safetensors_file("{}", "x"), "the tensors take 0 bytes of data, but the file has 1");
}

TEST_CASE("metadata that is no text is refused") {
  refuses(safetensors_file(R"({"__metadata__":{"k":1}})"), R"(__metadata__ "k": expected a string, got 1)");
  refuses(safetensors_file(R"({"__metadata__":{"k":{}}})"), R"(__metadata__ "k": expected a string, got an object)");
  refuses(safetensors_file(R"({"__metadata__":"k"})"), R"(__metadata__: expected an object, got "k")");
  std::string many;
  for (int i = 0; i <= 100'000; ++i) many += concat(i == 0 ? "" : ",", '"', i, "\":\"\"");
  refuses(safetensors_file(concat(R"({"__metadata__":{)", many, "}}")), "__metadata__ has more than 100000 entries");
}

TEST_CASE("a name that appears twice is refused") {
  const std::string_view a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[)";
  refuses(safetensors_file(concat('{', a, "0,1]},", a, "1,2]}}"), "xx"), R"(tensor "a" appears twice)");
  refuses(safetensors_file(concat('{', a, "0,1]},", a, "0,1]}}"), "x"), R"(tensor "a" appears twice)");
  refuses(entry(R"("F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), R"(tensor "a": dtype appears twice)");
  refuses(entry(R"("F32","shape":[1],"shape":[1],"data_offsets":[0,4])"), R"(tensor "a": shape appears twice)");
  refuses(safetensors_file(R"({"__metadata__":{"k":"1","k":"2"}})"), R"(__metadata__ "k" appears twice)");
  refuses(safetensors_file(R"({"__metadata__":{},"__metadata__":{}})"), "__metadata__ appears twice");
}

TEST_CASE("every beginning of a valid file is refused") {
  const auto file = to_safetensors(sample());
  for (std::size_t n = 0; n < file.size(); ++n)
    REQUIRE_THROWS_AS(view_safetensors(std::span(file).first(n), "file"), format_error);
}

TEST_CASE("a state survives being written, in memory and in a file") {
  const test::temporary_folder folder;
  const state_dict before = sample();
  save_safetensors(folder / "state.safetensors", before);
  const auto bytes = to_safetensors(before);
  CHECK(std::ranges::equal(map_file(folder / "state.safetensors")->bytes(), bytes));
  for (const state_dict& after : {from_safetensors(bytes, "bytes"), load_safetensors(folder / "state.safetensors")}) {
    CHECK(after.metadata == before.metadata);
    REQUIRE(after.items.size() == before.items.size());
    for (const auto& [name, a] : before.items) {
      const array* b = find(after.items, name);
      REQUIRE(b != nullptr);
      CHECK(test::same(a, *b));
    }
  }
}

TEST_CASE("what is written is laid out by element type, then name, and aligned") {
  state_dict s = sample();
  const auto bytes = to_safetensors(s);
  std::ranges::reverse(s.items);
  CHECK(to_safetensors(s) == bytes);  // whatever the order of the state
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  CHECK(header % 8 == 0);
  const auto view = seen(bytes);
  std::vector<std::string> names;
  for (const auto& [name, a] : view.items) {
    names.push_back(name);
    CHECK((a.bytes.data() - bytes.data()) % bytes_of(a.type) == 0);
  }
  CHECK(names == std::vector<std::string>{"odd \"name\"\n\xC3\xA9", "scalar", "empty", "layers.1.weight",
                                          "layers.0.weight", "bytes"});
}

TEST_CASE("the bytes written are these") {
  state_dict s;
  s.items = {{"b", array_of<std::uint8_t>({2}, {0x61, 0x62})},
             {"a", array_of<std::uint8_t>({1}, {0x63})},
             {"z\t\"", array_of<float>({1, 0}, {})}};
  s.metadata = {{"format", "pt"}};
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"z\t\"":{"dtype":"F32","shape":[1,0],"data_offsets":[0,0]},)"
      R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})";
  CHECK(to_safetensors(s) == safetensors_file(header + std::string((8 - header.size() % 8) % 8, ' '), "cab"));
  CHECK(to_safetensors(state_dict{}) == safetensors_file("{}      "));
}

TEST_CASE("a state that no file can hold is refused, and no file appears") {
  const test::temporary_folder folder;
  const auto refuses = [&](const records<array>& items, const std::string& message,
                           const records<std::string>& metadata = {}) {
    CHECK_THROWS_WITH(save_safetensors(folder / "state", {items, metadata}), "safetensors: " + message);
    CHECK(std::filesystem::is_empty(folder.path()));
  };
  const array one = array_of<float>({1}, {1});
  refuses({{"a", one}, {"b", one}, {"a", one}}, R"(tensor "a" appears twice)");
  refuses({{"__metadata__", one}}, "no tensor may be called __metadata__");
  refuses({{"a", {dtype::f32, {2, 2}, std::vector<std::byte>(12)}}},
          R"(tensor "a" of shape (2, 2) and type f32 takes 16 bytes, but has 12)");
  refuses({{"a\xFF", one}}, "\"a\xFF\" is not UTF-8");
  refuses({}, "\"\xFF\" is not UTF-8", {{"k", "\xFF"}});
  refuses({{"a", {dtype::q8_0, {2, 33}, std::vector<std::byte>(68)}}},
          R"(tensor "a" of shape (2, 33) and type q8_0 takes 136 bytes, but has 68)");
  refuses({{"a", {dtype::q8_0, {}, std::vector<std::byte>(34)}}}, R"(tensor "a" of type q8_0 has no rows)");
  refuses({}, R"(metadata "graft.blocks/a" is reserved)", {{"graft.blocks/a", "q8_0 32"}});
  refuses({}, R"(metadata "k" appears twice)", {{"k", "1"}, {"k", "2"}});
  refuses({{"a", {dtype::f32, std::vector<index_t>(65, 1), std::vector<std::byte>(4)}}},
          R"(tensor "a" has 65 dimensions, more than 64)");
  CHECK_THROWS_AS(to_safetensors({{"a", array_ref(dtype::f32, {-1}, {})}}), shape_error);
}

TEST_CASE("a published model file is read and written") {
  GRAFT_REQUIRE_DATA(path, "stories260K/model.safetensors");
  const auto file = map_file(path);
  const safetensors_view v = view_safetensors(file->bytes(), path.string());
  REQUIRE(find(v.items, "model.norm.weight") != nullptr);
  CHECK(find(v.items, "model.norm.weight")->shape == std::vector<index_t>{64});
  CHECK(std::ranges::equal(to_safetensors(v.items, v.metadata), file->bytes()));
}

TEST_CASE("arrays in blocks are written as bytes that the metadata explains, and come back as they were") {
  state_dict s = sample();
  const auto add = [&]<class B>(std::string name, extents<2> shape, B*) {
    const auto a = test::random_blocks<B>(shape, 1);
    s.items.emplace_back(std::move(name), array{a.type(), {a.shape().begin(), a.shape().end()}, {a.bytes().begin(), a.bytes().end()}});
  };
  add("a.q8", {3, 40}, static_cast<q8_0_block*>(nullptr));
  add("b.q4", {5, 32}, static_cast<q4_0_block*>(nullptr));
  add("c.nf4", {2, 65}, static_cast<nf4_block*>(nullptr));
  add("none", {0, 7}, static_cast<nf4_block*>(nullptr));
  const auto file = to_safetensors(s);
  const auto view = seen(file);
  CHECK(view.metadata == s.metadata);
  REQUIRE(view.items.size() == s.items.size());
  for (const auto& [name, a] : s.items) {
    const array_ref* back = find(view.items, name);
    REQUIRE(back != nullptr);
    CHECK(test::same(*back, a));
    CHECK((back->bytes.data() - file.data()) % alignment_of(a.type) == 0);
  }
  const std::string text = text_of(file);
  CHECK(text.find(R"("graft.blocks/c.nf4":"nf4 65","graft.blocks/none":"nf4 7","graft.blocks/a.q8":"q8_0 40","graft.blocks/b.q4":"q4_0 32"})") != text.npos);
  CHECK(text.find(R"("a.q8":{"dtype":"U8","shape":[3,68],)") != text.npos);
}

TEST_CASE("metadata that explains blocks is checked against the tensor it names") {
  const auto file = [](const std::string& text, const std::string& dtype = "U8", const std::string& shape = "[1,34]", std::string_view key = "a") {
    return safetensors_file(concat(R"({"__metadata__":{"graft.blocks/)", key, R"(":")", text, R"("},"a":{"dtype":")", dtype, R"(","shape":)", shape,
                                   R"(,"data_offsets":[0,34]}})"), std::string(34, '\0'));
  };
  CHECK(seen(file("q8_0 32")).items[0].second.type == dtype::q8_0);
  CHECK(seen(file("q8_0 1")).items[0].second.shape == std::vector<index_t>{1, 1});
  const std::string a = R"(__metadata__ "graft.blocks/a": )";
  refuses(file("q8_0 32", "U8", "[1,34]", "b"), R"(__metadata__ "graft.blocks/b": there is no such tensor)");
  refuses(file("q8_1 32"), a + R"(expected q8_0, q4_0 or nf4, got "q8_1")");
  refuses(file("q8_0 33"), a + "rows of 33 columns take 68 bytes in q8_0, but the tensor's have 34");
  refuses(file("q8_0 0"), a + "rows of 0 columns take 0 bytes in q8_0, but the tensor's have 34");
  refuses(file("q4_0 32"), a + "rows of 32 columns take 18 bytes in q4_0, but the tensor's have 34");
  for (const std::string bad : {"", "q8_0", "q8_0 ", "q8_0 -32", "q8_0 +32", "q8_0 032", "q8_0 32 ", "q8_0  32", "q8_0 3e1", "q8_0 99999999999999999999"})
    refuses(file(bad), a + "expected a format and a number of columns, got \"" + bad + '"');
  refuses(file("q8_0 9223372036854775807"), a + "shape (1, 9223372036854775807) of 2-byte elements is negative or too large");
  refuses(file("q8_0 32", "I8"), a + "expected a tensor of U8 with rows, got i8 of shape (1, 34)");
  refuses(safetensors_file(R"({"__metadata__":{"graft.blocks/a":"q8_0 1"},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", "x"),
          a + "expected a tensor of U8 with rows, got u8 of shape ()");
}

TEST_CASE("bytes changed at random are refused or make sense") {
  const std::string header =
      R"({"a":{"dtype":"BOOL","shape":[2,2],"data_offsets":[0,4]},"__metadata__":{"k":"v"},)"
      R"("b":{"dtype":"F4","shape":[2],"data_offsets":[4,5],"x":[[1],{"y":null}]},)"
      R"("c":{"data_offsets":[5,11],"shape":[1,3],"dtype":"BF16"}})";
  state_dict state = sample();
  state.items.emplace_back("blocks", array{dtype::q4_0, {2, 33}, std::vector<std::byte>(72)});
  const std::string whole = text_of(to_safetensors(state));
  random_stream random(7);
  index_t taken = 0;
  for (int i = 0; i < 30'000; ++i) {
    // Anything anywhere, or a header that is wrong in itself but has the right length.
    const std::string text = i % 2 == 0 ? changed(whole, random) : changed(header, random);
    const auto bytes = std::as_bytes(std::span(text));
    const auto file = i % 2 == 0 ? std::vector(bytes.begin(), bytes.end()) : safetensors_file(text, "0123456789a");
    INFO("change " << i << ": " << text);
    REQUIRE(test::refused_or_consistent(file));
    try {
      view_safetensors(file, "file", foreign_types::set_aside);
      ++taken;
    } catch (const format_error&) {
    }
  }
  CHECK(taken > 1000);  // the changes do reach what lies behind the checks
}
