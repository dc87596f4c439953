// SPDX-License-Identifier: Apache-2.0
#include "graft/io/update_codec.hpp"

#include <limits>

#include "graft/core/random.hpp"
#include "support/catch.hpp"
#include "support/safetensors.hpp"

using namespace graft;

namespace {

array numbers(std::vector<float> v) { return to_array<float, 1>(tensor_view<const float, 1>(v.data(), {std::ssize(v)})); }

fed::update example_update() {
  return {7, 0xfedcba9876543210u, 123, {{"a.lora_A.weight", numbers({1.5f, -2, 0})}, {"a.lora_B.weight", numbers({})}}, {{"loss", 0.1}, {"a b", -1e-300}}};
}
bool same(const records<array>& a, const records<array>& b) {
  return a.size() == b.size() && std::ranges::all_of(a, [&](const auto& item) {
    const array* other = find(b, item.first);
    return other != nullptr && test::same(item.second, *other);
  });
}
std::vector<std::byte> message(const records<std::string>& metadata) {
  const fed::update u = example_update();
  return to_safetensors({u.delta.begin(), u.delta.end()}, metadata);
}
records<std::string> metadata_of(std::string key, std::string value) {
  records<std::string> m{{"graft", "update"}, {"version", "1"}, {"round", "7"}, {"client", "2"}, {"samples", "3"}, {"metric.loss", "0.5"}};
  for (auto& [k, v] : m)
    if (k == key) v = value;
  return m;
}
std::string complaint(std::span<const std::byte> bytes) {
  try {
    safetensors_codec{}.decode_update(bytes);
  } catch (const format_error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("messages come back exactly") {
  const safetensors_codec codec;
  const fed::update u = example_update(), v = codec.decode_update(codec.encode(u));
  CHECK(v.round == u.round);
  CHECK(v.client == u.client);
  CHECK(v.samples == u.samples);
  CHECK(v.metrics == u.metrics);  // doubles in their shortest form that reads back the same
  CHECK(same(v.delta, u.delta));
  CHECK(codec.encode(u) == codec.encode(v));
  const fed::broadcast b{std::numeric_limits<std::uint64_t>::max(), {u.delta, {{"note", "is not sent"}}}};
  const auto c = codec.decode_broadcast(codec.encode(b));
  CHECK(c.round == b.round);
  CHECK(same(c.state.items, b.state.items));
  CHECK(c.state.metadata.empty());
}

TEST_CASE("a message of another kind, of a later version or without a number is refused") {
  const safetensors_codec codec;
  CHECK_THROWS_WITH(codec.decode_broadcast(codec.encode(example_update())), "message: graft is \"update\", expected \"broadcast\"");
  CHECK_THROWS_WITH(codec.decode_update(codec.encode(fed::broadcast{})), "message: graft is \"broadcast\", expected \"update\"");
  CHECK(complaint(message({})) == "message: has no \"graft\"");
  CHECK(complaint(message({{"graft", "update"}, {"version", "1"}})) == "message: has no \"round\"");
  CHECK(complaint(message(metadata_of("", ""))).empty());
  CHECK(complaint(message(metadata_of("version", "2"))) == "message: version is \"2\", expected \"1\"");
  for (const std::string bad : {"", "-1", "+1", " 1", "1 ", "1e3", "0x1", "18446744073709551616"})
    for (const std::string field : {"round", "client", "samples"})
      CHECK(complaint(message(metadata_of(field, bad))) == "message: " + field + " is \"" + bad + "\", expected a number");
  for (const std::string bad : {"", "nan", "inf", "1e999", "0.5x"})
    CHECK(complaint(message(metadata_of("metric.loss", bad))) == "message: metric.loss is \"" + bad + "\", expected a number");
}

TEST_CASE("bytes that are no message are refused as such, whatever is wrong with them") {
  const safetensors_codec codec;
  CHECK(complaint({}) == "update: 0 bytes are too few for a safetensors file");
  const auto whole = codec.encode(example_update());
  for (std::size_t n = 0; n < whole.size(); ++n) REQUIRE_FALSE(complaint(std::span(whole).first(n)).empty());
  auto longer = whole;
  longer.push_back(std::byte{0});
  CHECK_FALSE(complaint(longer).empty());
  CHECK(complaint(test::safetensors_file(R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", "x")) ==
        "update: tensor \"a\" has unsupported dtype BOOL");
  CHECK_THROWS_AS(codec.decode_broadcast(test::safetensors_file(R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}})", "x")), format_error);
}

TEST_CASE("changed bytes are refused or make a message that reads back the same") {
  const safetensors_codec codec;
  const auto whole = codec.encode(example_update());
  random_stream random(3);
  index_t taken = 0;
  for (int i = 0; i < 20'000; ++i) {
    auto bytes = whole;
    for (std::uint64_t n = 1 + random.below(3); n > 0; --n) bytes[random.below(bytes.size())] = static_cast<std::byte>(random.below(256));
    try {
      const auto u = codec.decode_update(bytes);
      REQUIRE(same(codec.decode_update(codec.encode(u)).delta, u.delta));
      ++taken;
    } catch (const format_error&) {
    }
  }
  CHECK(taken > 100);
}
