// SPDX-License-Identifier: Apache-2.0
#include "graft/io/adapter_registry.hpp"

#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "graft/io/peft_folder.hpp"
#include "support/catch.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"

using namespace graft;
using nlohmann::json;
using test::at;

namespace {

/// A model with an adapter whose ranks, alphas and rule of scale are the seed's.
llama<float> adapted(std::uint64_t seed) {
  auto model = test::small_llama<float>(2);
  const index_t r = 2 + static_cast<index_t>(seed % 3);
  attach(model, seed % 2 == 0 ? targets({"q_proj", "down_proj"}) : all_linear(), lora_options{.rank = r, .alpha = 6, .rank_stabilised = seed % 2 == 1},
         lora_patterns{.rank = {{"layers.1.self_attn.q_proj", r + 2}}, .alpha = {{"q_proj", 9.0}}});
  for (auto& p : trainable(model)) fill_uniform(p.parameter->value(), random_stream(seed).substream(p.path), 0.3);
  return model;
}

/// Whether an address lies in a part of memory that is this file.
bool is_in_file(const void* address, const std::filesystem::path& file) {
  std::ifstream maps("/proc/self/maps");
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t first = 0, last = 0;
    char dash = 0;
    std::istringstream(line) >> std::hex >> first >> dash >> last;
    if (wanted >= first && wanted < last) return line.ends_with(std::filesystem::canonical(file).string());
  }
  return false;
}

/// Two saved adapters below a folder, whose files can be changed.
struct saved {
  test::temporary_folder folder;
  llama<float> first = adapted(0), second = adapted(1);

  saved() {
    save_peft(first, folder / "first");
    save_peft(second, folder / "second");
  }
  std::filesystem::path weights() const { return folder / "first" / "adapter_model.safetensors"; }
  std::filesystem::path settings() const { return folder / "first" / "adapter_config.json"; }
  void write(const state_dict& s) const { save_safetensors(weights(), s); }
  state_dict state() const { return load_safetensors(weights()); }
  std::string complaint() const {
    try {
      open_served_adapter<float>(folder / "first");
    } catch (const error& e) {
      std::string text = e.what();
      if (const auto path = text.find(weights().string()); path != text.npos) text.replace(path, weights().string().size(), "FILE");
      return text;
    }
    return "";
  }
};

const std::string key = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";

}  // namespace

TEST_CASE("folders served together give what each gives when it is loaded, from the mapped files themselves") {
  const saved s;
  adapter_registry<float> registry;
  CHECK(registry.add_all(s.folder.path()) == 2);
  CHECK(registry.names() == std::vector<std::string>{"first", "second"});
  auto model = test::small_llama<float>(2);
  auto bank = serve(model, all_linear());
  for (const auto& name : registry.names()) bank = bank->with(name, registry.at(name));
  for (const auto& f : registry.at("first").layers) {
    CHECK(is_in_file(f.a.data, s.weights()));
    CHECK(is_in_file(f.b.data, s.weights()));
  }
  CHECK(registry.remove("first"));
  CHECK_FALSE(registry.remove("first"));
  CHECK_THROWS_WITH(registry.at("first"), "adapter_registry: there is no adapter \"first\" among 1");

  const auto batch = test::random_batch({7, 12});
  for (const char* name : {"first", "second"}) {  // the bank keeps what the registry let go
    auto loaded = test::small_llama<float>(2);
    load_peft(loaded, s.folder / name);
    use(model, bank->with_standard(name));
    CHECK(test::equal_bits(test::logits_of(model, batch), test::logits_of(loaded, batch)));
  }
  auto wide = test::small_llama<double>(2);  // of another type: converted
  const auto converted = serve(wide, all_linear())->with("first", open_served_adapter<double>(s.folder / "first"));
  use(wide, converted->with_standard("first"));
  auto loaded = test::small_llama<double>(2);
  load_peft(loaded, s.folder / "first");
  CHECK(test::equal_bits(test::logits_of(wide, batch), test::logits_of(loaded, batch)));
}

TEST_CASE("a folder in half precision is converted, and a replaced one takes its adapter's number") {
  const saved s;
  auto narrow = s.state();
  for (auto& [name, a] : narrow.items) {
    std::vector<float> values(a.bytes.size() / sizeof(float));
    std::memcpy(values.data(), a.bytes.data(), a.bytes.size());
    std::vector<std::byte> bytes(values.size() * sizeof(bf16));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bf16 v = convert<bf16>(values[i]);
      std::memcpy(bytes.data() + i * sizeof v, &v, sizeof v);
    }
    a = array{dtype::bf16, a.shape, bytes};
  }
  adapter_registry<float> registry;
  registry.add("user", s.folder / "first");
  auto model = test::small_llama<float>(2);
  const auto bank = serve(model, targets({"q_proj", "down_proj"}))->with("user", registry.at("user"))->with_standard("user");
  s.write(narrow);
  registry.add("user", s.folder / "first");
  CHECK(registry.size() == 1);
  const auto next = bank->with("user", registry.at("user"));
  CHECK(next->size() == 1);
  CHECK(next->standard() == 0);
  use(model, next);
  auto loaded = test::small_llama<float>(2);
  load_peft(loaded, s.folder / "first");
  const auto batch = test::random_batch({7, 12});
  CHECK(test::equal_bits(test::logits_of(model, batch), test::logits_of(loaded, batch)));
}

TEST_CASE("an adapter for other layers than those served is refused by its bank") {
  const saved s;
  const auto first = open_served_adapter<float>(s.folder / "first");
  auto model = test::small_llama<float>(2);
  const auto bank = serve(model, targets({"q_proj"}));
  CHECK_THROWS_WITH(bank->with("first", first), "adapter_bank: adapter \"first\" has factors for model.layers.0.mlp.down_proj, which is none of the 2 layers the model serves");
}

TEST_CASE("hostile folders are refused, and name the file and the place") {
  const saved s;
  const auto whole = s.state();
  const auto config = json::parse(test::read_file(s.settings()));
  CHECK(s.complaint().empty());

  auto changed = whole;
  float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(at(changed, key).bytes.data() + 8, &nan, sizeof nan);
  s.write(changed);
  CHECK(s.complaint() == "FILE: tensor \"" + key + "\" holds NaN or infinity at element 2");
  s.write(test::renamed(whole, [](const std::string& name) { return name == key ? std::string() : name; }));
  CHECK(s.complaint() == "FILE: \"model.layers.1.self_attn.q_proj\" has \"lora_B\" alone, expected lora_A and lora_B");
  changed = whole;
  std::swap(at(changed, key).shape[0], at(changed, key).shape[1]);
  s.write(changed);
  CHECK(s.complaint() == "FILE: \"model.layers.1.self_attn.q_proj\" has LoRA factors of shapes (32, 4) and (32, 4), expected (R, in) and (out, R)");
  changed = whole;
  changed.items.emplace_back("base_model.model.lm_head.weight", at(changed, key));
  s.write(changed);
  CHECK(s.complaint() == "FILE: holds \"lm_head.weight\", a parameter of the model itself, which serving would share");
  changed = whole;
  changed.items.emplace_back("base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector", at(changed, key));
  s.write(changed);
  CHECK(s.complaint() == "FILE: \"model.layers.1.self_attn.q_proj\" has \"lora_A\" and others, expected lora_A and lora_B");
  s.write(state_dict{});
  CHECK(s.complaint() == "FILE: holds no LORA adapter");
  s.write(whole);

  const auto with = [&](std::string_view name, const json& value) {
    auto c = config;
    c[std::string(name)] = value;
    test::write_file(s.settings(), c.dump());
    return s.complaint();
  };
  CHECK(with("use_dora", true) == "FILE: is a DoRA adapter, only LoRA is served; convert it");
  CHECK(with("peft_type", "IA3").find("null, false or nothing: this setting is not supported") != std::string::npos);
  CHECK(with("target_modules", {"q_proj", "up_proj", "down_proj"}) == "FILE: holds no tensor for target module \"up_proj\" of adapter_config.json");
  CHECK(with("lora_alpha", "much").find("lora_alpha") != std::string::npos);
  CHECK(with("init_lora_weights", "pissa").find("init_lora_weights") != std::string::npos);
  test::write_file(s.settings(), config.dump());

  const auto bytes = test::read_file(s.weights());
  test::write_file(s.weights(), bytes.substr(0, bytes.size() - 5));
  CHECK_FALSE(s.complaint().empty());
  std::filesystem::remove(s.weights());
  CHECK_THROWS_AS(open_served_adapter<float>(s.folder / "first"), io_error);
  adapter_registry<float> registry;
  CHECK_THROWS_AS(registry.add_all(s.folder.path()), io_error);
  CHECK(registry.size() == 0);
  CHECK_THROWS_AS(registry.add_all(s.folder / "nothing"), io_error);
}
