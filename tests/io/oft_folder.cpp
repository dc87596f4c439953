// SPDX-License-Identifier: Apache-2.0
// Hamming-weight adapters of order 1 in PEFT's OFT folders.
#include <nlohmann/json.hpp>

#include "graft/io/peft_folder.hpp"
#include "support/catch.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"

using namespace graft;
using nlohmann::json;

namespace {

constexpr auto input = compound_options::side::input;
const std::string q = "model.layers.0.self_attn.q_proj", q_key = "base_model.model." + q + ".oft_R.weight";

// A saved adapter whose files can be changed.
struct saved {
  test::temporary_folder folder;
  llama<float> model = test::small_llama<float>(2);
  std::string weights = (folder / "adapter_model.safetensors").string(), settings = (folder / "adapter_config.json").string();

  explicit saved(compound_options o = {.blocks = 4, .orders = {1}, .rotate = input}, const target_modules& where = targets({"q_proj", "down_proj"})) {
    attach(model, where, o);
    test::disturb_adapters(model, 0.5);
    save_peft(model, folder.path());
  }
  json config() const { return json::parse(test::read_file(settings)); }
  state_dict state() const { return load_safetensors(weights); }
  llama<float> loaded() const {
    auto m = test::small_llama<float>(2);
    load_peft(m, folder.path());
    return m;
  }
  /// What load_peft complains of, without the file's path.
  std::string complaint() const {
    auto m = test::small_llama<float>(2);
    try {
      load_peft(m, folder.path());
    } catch (const format_error& e) {
      CHECK(trainable(m).empty());
      const std::string text = e.what();
      return text.substr(text.find("adapter_"));
    }
    return "";
  }
  std::string with(const char* key, const json& value) const {
    auto c = config();
    if (value.is_discarded()) c.erase(key);
    else c[key] = value;
    test::write_file(settings, c.dump());
    const auto text = complaint();
    save_peft(const_cast<llama<float>&>(model), folder.path());
    return text;
  }
};
const json erased(json::value_t::discarded);

std::string refusal(const compound_options& o) {
  auto m = test::small_llama<float>(2);
  attach(m, targets({"q_proj"}), o);
  const test::temporary_folder folder;
  try {
    save_peft(m, folder.path());
  } catch (const state_error& e) {
    CHECK(std::filesystem::is_empty(folder.path()));
    const std::string text = e.what();
    return text.substr(text.find("; "));
  }
  return "";
}

}  // namespace

TEST_CASE("rotations of inputs come back from an OFT folder to the bit") {
  for (const bool shared : {false, true}) {
    INFO(shared);
    const saved s({.blocks = 4, .orders = {1}, .rotate = input, .shared = shared});
    auto model = s.model, again = s.loaded(), base = test::small_llama<float>(2);
    CHECK(test::equal_bits(test::logits_of(model, test::two_sequences), test::logits_of(again, test::two_sequences)));
    CHECK_FALSE(test::near(test::logits_of(model, test::two_sequences), test::logits_of(base, test::two_sequences), 0.01));
    CHECK(trainable(again).size() == 4);
    CHECK(trainable(again)[0].path == q + ".adapters.default.rotation");
    CHECK(find(s.state().items, q_key)->shape == std::vector<index_t>{shared ? 1 : 4, 28});
    const auto c = s.config();
    CHECK(c["peft_type"] == "OFT");
    CHECK(c["r"] == 4);  // 32 and 44 inputs: blocks of 8 and of 11
    CHECK(c["oft_block_size"] == 0);
    CHECK(c["block_share"] == shared);
    CHECK(c["use_cayley_neumann"] == false);
    CHECK(c["coft"] == false);
  }
}

TEST_CASE("blocks of one size are written as a size") {
  const saved s({.blocks = 4, .orders = {1}, .rotate = input}, targets({"q_proj", "up_proj"}));
  CHECK(s.config()["r"] == 0);
  CHECK(s.config()["oft_block_size"] == 8);

  const test::temporary_folder folder;
  auto model = test::small_llama<float>(2);
  attach(model, targets({"q_proj", "down_proj"}), [](const adapter_site& a) {  // 32 and 44 inputs
    return compound<float>(a.in, a.out, {.blocks = a.in / 4, .orders = {1}, .rotate = input}, a.random);
  });
  save_peft(model, folder.path());
  const auto c = json::parse(test::read_file(folder / "adapter_config.json"));
  CHECK(c["r"] == 0);
  CHECK(c["oft_block_size"] == 4);

  auto mixed = test::small_llama<float>(2);
  attach(mixed, targets({"q_proj", "down_proj"}), [](const adapter_site& a) {
    return compound<float>(a.in, a.out, {.blocks = a.in == 32 ? 4 : 11, .orders = {1}, .rotate = input}, a.random);
  });
  CHECK_THROWS_WITH(save_peft(mixed, folder.path()),
                    "save_peft: model.layers.0.mlp.down_proj is divided into blocks by another rule than " + q + "; a folder has one rule");
}

TEST_CASE("an OFT folder holds Cayley's rotation of what the file says, by columns") {
  // Two inputs with the number p: S = [0 p; -p 0], and (I + S) (I - S)^-1 turns by 2 atan(p).
  const saved s({.blocks = 16, .orders = {1}, .rotate = input}, targets({"layers.0.self_attn.q_proj"}));
  auto state = s.state();
  const float p = 0.5f;
  auto& values = test::at(state, q_key);
  REQUIRE(values.shape == std::vector<index_t>{16, 1});
  std::ranges::fill(values.bytes, std::byte{0});
  std::memcpy(values.bytes.data(), &p, sizeof p);
  save_safetensors(s.weights, state);
  auto model = s.loaded();
  const auto base = model.model.layers[0].self_attn.q_proj.weight.view();
  const auto w = model.model.layers[0].self_attn.q_proj.merged().weight;
  const double cosine = 0.6, sine = 0.8;  // (1 - p^2) / (1 + p^2), 2 p / (1 + p^2)
  for (index_t i = 0; i < 32; ++i) {      // W R with R = [c s; -s c]
    CHECK(std::abs(w.view()(i, 0) - (cosine * base(i, 0) - sine * base(i, 1))) < 1e-6);
    CHECK(std::abs(w.view()(i, 1) - (sine * base(i, 0) + cosine * base(i, 1))) < 1e-6);
    CHECK(w.view()(i, 2) == base(i, 2));
  }
}

TEST_CASE("settings of OFT that change the rotation are refused by name, others are read over") {
  const saved s;
  CHECK(s.with("use_cayley_neumann", true) ==
        "adapter_config.json: use_cayley_neumann: expected false: the series is not the rotation that Cayley's transform makes of the same numbers, got true");
  CHECK(s.with("use_cayley_neumann", erased) == "adapter_config.json: has no \"use_cayley_neumann\"");  // PEFT takes true then
  CHECK(s.with("oft_block_size", erased) == "adapter_config.json: has no \"oft_block_size\"");
  CHECK(s.with("oft_block_size", 8) == "adapter_config.json: oft_block_size: expected 0 where r is 4, got 8");
  CHECK(s.with("r", 0) == "adapter_config.json: oft_block_size: expected 1 or more where r is 0, got 0");
  CHECK(s.with("coft", true) == "adapter_config.json: coft: expected null, false or nothing: this setting is not supported, got true");
  CHECK(s.with("lora_alpha", 4) == "adapter_config.json: lora_alpha: expected null, false or nothing: this setting is not supported, got 4");
  for (const auto& [key, value] : {std::pair("module_dropout", json(0.3)), {"eps", 1e-4}, {"num_cayley_neumann_terms", 7}, {"bias", "oft_only"}})
    CHECK(s.with(key, value) == "");
  CHECK(s.with("block_share", true) ==
        "adapter_model.safetensors: " + q + " has oft_R of shape (4, 28), the model's layer has 32 inputs, expected (1, b (b - 1) / 2)");
}

TEST_CASE("arrays that do not fit a layer's inputs are refused") {
  const saved s({.blocks = 4, .orders = {1}, .rotate = input}, targets({"q_proj"}));
  const auto whole = s.state();
  const auto start = "adapter_model.safetensors: " + q + " has oft_R of shape ";
  const auto end = ", the model's layer has 32 inputs, expected (inputs / b, b (b - 1) / 2)";
  for (const std::vector<index_t>& shape : {std::vector<index_t>{28, 4}, {2, 56}, {112}, {8, 14}, {112, 1}, {1, 112}}) {
    auto state = whole;
    test::at(state, q_key).shape = shape;
    save_safetensors(s.weights, state);
    CHECK(s.complaint() == start + to_string(shape) + end);
  }
  save_safetensors(s.weights, test::renamed(whole, [](std::string name) { return name.replace(name.find("oft_R.weight"), 12, "oft_r"); }));
  CHECK(s.complaint() == "adapter_model.safetensors: holds no OFT adapter");
}

TEST_CASE("what an OFT folder cannot hold is not saved, and is named") {
  const std::string end = "; merge or convert it";
  CHECK(refusal({.blocks = 2, .orders = {1, 2}, .rotate = input}) == "; an OFT folder holds no orders other than 1" + end);
  CHECK(refusal({.blocks = 2, .orders = {1}}) == "; an OFT folder holds no rotations of outputs" + end);
  CHECK(refusal({.blocks = 2, .orders = {1}, .rotate = input, .form = rotation_form::pyramid}) == "; an OFT folder holds no pyramids" + end);
  CHECK(refusal({.blocks = 2, .orders = {1}, .rotate = input, .offset = 3}) == "; an OFT folder holds no offset" + end);
  CHECK(refusal({.blocks = 3, .orders = {1}, .rotate = input}) == "; an OFT folder holds no blocks that leave inputs over" + end);
}
