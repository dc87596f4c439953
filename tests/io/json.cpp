// SPDX-License-Identifier: Apache-2.0
#include "graft/io/json.hpp"

#include <cstdint>
#include <limits>

#include "graft/core/extents.hpp"
#include "support/catch.hpp"
#include "support/data.hpp"

using namespace graft;

namespace {

json_node parsed(std::string_view text, json_limits limits = {}) {
  return parse_json(std::as_bytes(std::span(text)), "config.json", limits);
}

}  // namespace

TEST_CASE("a document is read by name and type") {
  const json_node c = parsed(R"({"layers": 4, "theta": 1e4, "name": "tiny", "tied": true, "none": null,
                                 "ids": [1, 2, 3], "rope": {"factor": 8}})");
  CHECK(c.required<index_t>("layers") == 4);
  CHECK(c.required<double>("layers") == 4.0);
  CHECK(c.required<float>("theta") == 1e4f);
  CHECK(c.required<std::string>("name") == "tiny");
  CHECK(c.required<bool>("tied"));
  CHECK(c.required<std::vector<int>>("ids") == std::vector<int>{1, 2, 3});
  CHECK(c.required("rope").required<int>("factor") == 8);
  CHECK(c.optional<int>("absent") == std::nullopt);
  CHECK(c.optional<int>("none") == std::nullopt);
  CHECK(c.optional<int>("layers") == 4);
  CHECK_FALSE(c.optional("none"));
  CHECK(c.required("none").is_null());
  CHECK(c.contains("none"));
  CHECK_FALSE(c.contains("absent"));
  CHECK(c.members().size() == 7);
  CHECK(c.members()[0].name() == "layers");  // as they stand in the file
  CHECK(c.members()[5].name() == "ids");
  CHECK(c.required("ids").elements()[1].as<int>() == 2);
  CHECK(c.required("name").text() == "tiny");
  CHECK(c.required("layers").integer<int>(0, 4) == 4);
  CHECK_FALSE(c.required("ids").name().empty());
}

TEST_CASE("a node keeps its document alive") {
  const json_node factor = parsed(R"({"rope": {"factor": "a text too long for the small string buffer"}})")
                               .required("rope")
                               .required("factor");
  CHECK(factor.as<std::string>() == "a text too long for the small string buffer");
}

TEST_CASE("complaints say where, what was expected and what came") {
  const json_node c =
      parsed(R"({"rope": {"factor": "two"}, "layers": [{"size": 1.5}], "n": -1, "big": 300, "none": null, "o": {}})");
  CHECK_THROWS_WITH(c.required("rope").required<double>("factor"),
                    R"(config.json: rope.factor: expected a number, got "two")");
  CHECK_THROWS_WITH(c.required("rope").optional<bool>("factor"),
                    R"(config.json: rope.factor: expected true or false, got "two")");
  CHECK_THROWS_WITH(c.required("layers").elements()[0].required<int>("size"),
                    "config.json: layers[0].size: expected an integer from -2147483648 to 2147483647, got 1.5");
  CHECK_THROWS_WITH(c.required<std::uint8_t>("n"), "config.json: n: expected an integer from 0 to 255, got -1");
  CHECK_THROWS_WITH(c.required<std::uint8_t>("big"), "config.json: big: expected an integer from 0 to 255, got 300");
  CHECK_THROWS_WITH(c.required<int>("heads"), R"(config.json: has no "heads")");
  CHECK_THROWS_WITH(c.required("o").required<int>("p"), R"(config.json: o: has no "p")");
  CHECK_THROWS_WITH(c.required<std::string>("none"), "config.json: none: expected a string, got null");
  CHECK_THROWS_WITH(c.required<std::vector<int>>("o"), "config.json: o: expected an array, got an object");
  CHECK_THROWS_WITH(c.required("layers").required("x"), "config.json: layers: expected an object, got an array of 1");
  CHECK_THROWS_WITH(c.required("layers").members(), "config.json: layers: expected an object, got an array of 1");
  CHECK_THROWS_WITH(c.required("big").reject("at most 256"), "config.json: big: expected at most 256, got 300");
  CHECK_THROWS_WITH(c.required("big").integer<int>(0, 256), "config.json: big: expected an integer from 0 to 256, got 300");
  CHECK_THROWS_WITH(c.required("n").integer<std::size_t>(0, 256), "config.json: n: expected an integer from 0 to 256, got -1");
  CHECK_THROWS_WITH(c.required("layers").elements()[1], "config.json: layers: has 1 elements, and none at 1");
  CHECK_THROWS_WITH(parsed("[[0, [true]]]").elements()[0].elements()[1].elements()[0].as<int>(),
                    Catch::Matchers::StartsWith("config.json: [0][1][0]: expected an integer"));
}

TEST_CASE("integers keep their value or are refused") {
  const json_node c = parsed(
      R"([18446744073709551615, 18446744073709551616, -9223372036854775808, 9223372036854775808, 8.0, 1e2, 1e300])");
  const auto at = [&](std::size_t i) { return c.elements()[i]; };
  CHECK(at(0).as<std::uint64_t>() == std::numeric_limits<std::uint64_t>::max());
  CHECK_THROWS_AS(at(0).as<std::int64_t>(), format_error);
  CHECK_THROWS_AS(at(1).as<std::uint64_t>(), format_error);
  CHECK(at(2).as<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
  CHECK_THROWS_AS(at(2).as<std::uint64_t>(), format_error);
  CHECK_THROWS_AS(at(3).as<std::int64_t>(), format_error);
  CHECK_THROWS_AS(at(4).as<int>(), format_error);
  CHECK_THROWS_AS(at(5).as<int>(), format_error);
  CHECK(at(6).as<double>() == 1e300);
  CHECK_THROWS_AS(at(6).as<float>(), format_error);
}

TEST_CASE("settings nobody reads are refused unless they say nothing") {
  const json_node c = parsed(R"({"known": 1, "a": null, "b": false, "c": "", "d": [], "e": {}})");
  CHECK_NOTHROW(c.allow_only({"known"}));
  CHECK_THROWS_WITH(c.allow_only({"a"}), "config.json: known: this setting is not known");
  for (const char* something : {R"({"a": 0})", R"({"a": 0.0})", R"({"a": true})", R"({"a": "x"})", R"({"a": [null]})"})
    CHECK_THROWS_AS(parsed(something).allow_only({}), format_error);
}

TEST_CASE("what a reader refuses without knowing where it came from gets its place") {
  const json_node n = parsed(R"({"rope": {"factor": 2}})").required("rope");
  CHECK(n.located([] { return 3; }) == 3);
  CHECK_THROWS_WITH(n.located([] { throw_error<option_error>("too small"); }), "config.json: rope: too small");
  CHECK_THROWS_AS(n.located([] { throw_error<option_error>("too small"); }), format_error);
  CHECK_THROWS_WITH(n.located([] { throw_error<format_error>("too odd"); }), "config.json: rope: too odd");
}

TEST_CASE("what is not strict JSON is refused with its line and column") {
  CHECK_THROWS_WITH(parsed("{\n  \"a\": 1,\n  b: 2}"),
                    Catch::Matchers::StartsWith("config.json: not valid JSON at line 3, column 3: "));
  CHECK_THROWS_WITH(parsed("{\"a\": 1, \"b\": {\"c\": 2, \"c\": 3}}"),
                    "config.json: key \"c\" appears twice in one object");
  CHECK_THROWS_WITH(parsed("\xEF\xBB\xBF{}"), "config.json: not valid JSON at line 1, column 1: a byte order mark");
  CHECK_THROWS_WITH(parsed(std::string_view("{}\0{}", 5)),
                    "config.json: not valid JSON at line 1, column 3: a zero byte");
  CHECK_THROWS_WITH(parsed("[1e999]"),
                    "config.json: not valid JSON at line 1, column 6: number overflow parsing '1e999'");
  CHECK_THROWS_WITH(parsed("\"\xC0\xAF\""), Catch::Matchers::Matches(".*ill-formed UTF-8.*"));
  for (const char* text : {"", " ", "{", "[1,]", "{\"a\":1,}", "{} {}", "NaN", "[Infinity]", "1e999", "// note\n1",
                           "'a'", "01", "\"\\ud800\"", "\"a\nb\""})
    CHECK_THROWS_AS(parsed(text), format_error);
  for (const char* text : {"1", "\"a\"", " {} \n", "[[],{}]", "{\"a\":{\"a\":[{\"a\":1},{\"a\":1}]}}"})
    CHECK_NOTHROW(parsed(text));
}

TEST_CASE("an error shows no control characters and no endless text") {
  CHECK_THROWS_WITH(parsed("{\"a\": \"" + std::string(1000, 'x') + "\"}").required<int>("a"),
                    Catch::Matchers::EndsWith("xxx...\""));
  CHECK_THROWS_WITH(parsed(R"({"a\u001b[2J": 1})").required<bool>("a\x1b[2J"),
                    "config.json: a?[2J: expected true or false, got 1");
  CHECK(detail::printable("\xC3\xA9\xC3\xA9", 3) == "\xC3\xA9...");
  CHECK(detail::printable("\xC3\xA9\xC3\xA9", 2) == "\xC3\xA9...");
  CHECK(detail::printable("\xC3\xA9", 2) == "\xC3\xA9");
}

TEST_CASE("size and depth are capped") {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
  };
  CHECK_NOTHROW(parsed(nested(64)));
  CHECK_THROWS_WITH(parsed(nested(65)), "config.json: values are nested more than 64 deep");
  CHECK_THROWS_AS(parsed(std::string(1'000'000, '[')), format_error);
  CHECK_NOTHROW(parsed("[1, 2]", {.max_bytes = 6}));
  CHECK_NOTHROW(parsed("[1, 2]", {.max_values = 3}));
  CHECK_THROWS_WITH(parsed("[1, 2]", {.max_values = 2}), "config.json: more than 2 values");
  CHECK_THROWS_WITH(parsed("[1, 2]", {.max_bytes = 5}), "config.json: 6 bytes of JSON are more than the 5 allowed");
}

TEST_CASE("a JSON file is read, and named when it is wrong") {
  const test::temporary_folder folder;
  test::write_file(folder / "good.json", R"({"a": [1, 2]})");
  test::write_file(folder / "bad.json", R"({"a": [1, 2})");
  CHECK(read_json(folder / "good.json").required("a").elements().size() == 2);
  CHECK_THROWS_WITH(
      read_json(folder / "bad.json"),
      Catch::Matchers::StartsWith((folder / "bad.json").string() + ": not valid JSON at line 1, column 12: "));
  CHECK_THROWS_AS(read_json(folder / "none.json"), io_error);
}
