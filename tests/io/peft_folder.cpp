// SPDX-License-Identifier: Apache-2.0
#include "graft/io/peft_folder.hpp"

#include <limits>
#include <nlohmann/json.hpp>

#include "graft/peft/bottleneck.hpp"
#include "graft/peft/target_pattern.hpp"
#include "support/catch.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"
#include "support/small_disk.hpp"

using namespace graft;
using nlohmann::json;
using test::at;

namespace {

llama<float> adapted(const target_modules& where = targets({"q_proj", "down_proj"}), lora_options o = {.rank = 2, .alpha = 6}) {
  auto model = test::small_llama<float>(2);
  attach(model, where, o);
  test::disturb_adapters(model);
  return model;
}

// A saved adapter whose files can be changed.
struct saved {
  test::temporary_folder folder;
  llama<float> model = adapted(targets({"q_proj"}));
  std::string weights = (folder / "adapter_model.safetensors").string();

  saved() { save_peft(model, folder.path()); }
  state_dict state() const { return load_safetensors(weights); }
  void write(const state_dict& s) const { save_safetensors(weights, s); }
  json config() const { return json::parse(test::read_file(folder / "adapter_config.json")); }
  void write(const json& config) const { test::write_file(folder / "adapter_config.json", config.dump()); }
  /// What load_peft complains of; whatever it is, the model must be as it was.
  std::string complaint(llama<float> onto = test::small_llama<float>(2), const load_peft_options& o = {}) const {
    const auto before = replicate(onto);
    std::string text;
    try {
      load_peft(onto, folder.path(), o);
    } catch (const error& e) {
      text = e.what();
    }
    if (!text.empty()) {
      auto untouched = before;
      CHECK(test::same_logits(onto, untouched));
      CHECK(trainable(onto).size() == trainable(untouched).size());
    }
    return text;
  }
};

const std::string key = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";

}  // namespace

TEST_CASE("an adapter comes back from its folder to the bit, under PEFT's names") {
  const test::temporary_folder folder;
  auto model = adapted();
  save_peft(model, folder / "new" / "adapter", {.base_model_name = "some/model", .task_type = "CAUSAL_LM"});
  auto other = test::small_llama<float>(2);
  load_peft(other, folder / "new" / "adapter");
  const auto a = trainable(model), b = trainable(other);
  REQUIRE(a.size() == 8);
  REQUIRE(b.size() == 8);
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].path == b[i].path);
    CHECK(std::ranges::equal(a[i].parameter->bytes(), b[i].parameter->bytes()));
  }
  CHECK(test::same_logits(model, other));

  const auto file = load_safetensors(folder / "new" / "adapter" / "adapter_model.safetensors");
  CHECK(file.items.size() == 8);
  CHECK(find(file.items, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")->shape == std::vector<index_t>{2, 32});
  CHECK(find(file.items, "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight")->shape == std::vector<index_t>{32, 2});
  CHECK(*find(file.metadata, "format") == "pt");
  const auto config = json::parse(test::read_file(folder / "new" / "adapter" / "adapter_config.json"));
  CHECK(config["peft_type"] == "LORA");
  CHECK(config["r"] == 2);
  CHECK(config["lora_alpha"] == 6);
  CHECK(config["target_modules"] == json{"down_proj", "q_proj"});
  CHECK(config["task_type"] == "CAUSAL_LM");
  CHECK(config["base_model_name_or_path"] == "some/model");
  CHECK(config["modules_to_save"].is_null());
}

TEST_CASE("targets are saved as whole paths where last names would mean more layers") {
  const test::temporary_folder folder;
  auto model = adapted(targets({"layers.1.self_attn.q_proj"}));
  save_peft(model, folder.path());
  CHECK(json::parse(test::read_file(folder / "adapter_config.json"))["target_modules"] == json::array({"model.layers.1.self_attn.q_proj"}));
  auto other = test::small_llama<float>(2);
  load_peft(other, folder.path());
  CHECK(test::same_logits(model, other));
}

TEST_CASE("two adapters on one model are saved and loaded each by its name") {
  const test::temporary_folder folder;
  auto model = adapted(targets({"q_proj"}));
  attach(model, targets({"q_proj", "up_proj"}), lora_options{.rank = 3}, {.name = "second"});
  test::disturb_adapters(model);
  save_peft(model, folder / "first");
  save_peft(model, folder / "second", {.name = "second"});
  auto other = test::small_llama<float>(2);
  load_peft(other, folder / "first");
  load_peft(other, folder / "second", {.name = "second"});
  CHECK(test::same_logits(model, other));
  CHECK(trainable(other).size() == trainable(model).size());
  CHECK_THROWS_WITH(save_peft(model, folder / "third", {.name = "third"}), "save_peft: the model has no adapter named \"third\"");
  CHECK_FALSE(std::filesystem::exists(folder / "third"));
}

TEST_CASE("ranks and alphas that differ by layer survive") {
  const test::temporary_folder folder;
  auto model = test::small_llama<float>(2);
  attach(model, all_linear(), [](const adapter_site& s) {
    const bool wide = s.path.find("layers.1.mlp") != s.path.npos;
    return lora<float>(s.in, s.out, {.rank = wide ? 5 : 2, .alpha = wide ? 3.5 : 16.0}, s.random);
  });
  test::disturb_adapters(model);
  save_peft(model, folder.path());
  const auto config = json::parse(test::read_file(folder / "adapter_config.json"));
  CHECK(config["rank_pattern"].size() == 3);
  CHECK(config["alpha_pattern"]["^model.layers.1.mlp.up_proj"] == 3.5);
  auto other = test::small_llama<float>(2);
  load_peft(other, folder.path());
  CHECK(test::same_logits(model, other));
}

TEST_CASE("an adapter can be loaded frozen, and onto half-precision weights") {
  const saved s;
  auto model = test::small_llama<float>(2);
  load_peft(model, s.folder.path(), {.trainable = false});
  CHECK(trainable(model).empty());
  auto original = s.model;
  CHECK(test::same_logits(model, original));
}

TEST_CASE("names with the adapter's name left in, or without the prefix, are understood") {
  const saved s;
  auto original = s.model;
  const auto state = s.state();
  for (const bool prefixed : {true, false}) {
    s.write(test::renamed(state, [&](std::string name) {
      name.insert(name.rfind(".weight"), ".default");
      return prefixed ? name : name.substr(detail::peft_prefix.size());
    }));
    auto model = test::small_llama<float>(2);
    load_peft(model, s.folder.path());
    CHECK(test::same_logits(model, original));
  }
}

TEST_CASE("modules that were trained whole are saved and loaded whole") {
  const test::temporary_folder folder;
  const auto fresh = [](std::uint64_t seed) {
    bert_classifier<float> m(test::small_bert<float>(), 3, pooling::mean);
    initialize(m.classifier, seed, 0.2);
    freeze(m);
    return m;
  };
  auto model = fresh(1), other = fresh(2);
  attach(model, targets({"query", "value"}), lora_options{.rank = 2});
  test::disturb_adapters(model);
  unfreeze(model, below("classifier"));
  save_peft(model, folder.path(), {.task_type = "SEQ_CLS"});
  CHECK(json::parse(test::read_file(folder / "adapter_config.json"))["modules_to_save"] == json::array({"classifier"}));
  CHECK(find(load_safetensors(folder / "adapter_model.safetensors").items, "base_model.model.classifier.weight") != nullptr);
  load_peft(other, folder.path());
  CHECK(test::equal_bits(other.classifier.weight.view(), model.classifier.weight.view()));
  CHECK(test::equal_bits(test::pooled_by(other.bert, test::random_batch({6})), test::pooled_by(model.bert, test::random_batch({6}))));
  CHECK(trainable(other).size() == trainable(model).size());

  attach(model, targets({"key"}), lora_options{}, {.name = "default 2"});
  auto taken = fresh(3);
  attach(taken, targets({"query"}), lora_options{});
  const auto head = taken.classifier.weight.view();
  CHECK_THROWS_WITH(load_peft(taken, folder.path()),
                    "load_peft: bert.encoder.layer.0.attention.self.query already has an adapter named \"default\"");
  CHECK_FALSE(test::equal_bits(taken.classifier.weight.view(), model.classifier.weight.view()));
  CHECK(taken.classifier.weight.view().data == head.data);
}

TEST_CASE("an adapter with a pattern for target modules attaches by its tensors") {
  const test::temporary_folder folder;
  auto model = adapted(target_pattern(R"(model\.layers\.[1-9]\.self_attn\.(q|v)_proj)"));
  CHECK(trainable(model).size() == 4);
  save_peft(model, folder.path());
  auto config = json::parse(test::read_file(folder / "adapter_config.json"));
  config["target_modules"] = R"(model\.layers\.[1-9]\.self_attn\.(q|v)_proj)";
  test::write_file(folder / "adapter_config.json", config.dump());
  auto other = test::small_llama<float>(2);
  load_peft(other, folder.path());
  CHECK(test::same_logits(model, other));
  CHECK(other.model.layers[0].self_attn.q_proj.adapters.empty());
}

TEST_CASE("an adapter for another model is refused, and says what differs") {
  const saved s;
  CHECK(s.complaint(test::small_llama<float>(1)) ==
        s.weights + ": is for another model: this one has no linear layer \"model.layers.1.self_attn.q_proj\"");
  auto config = test::small_llama_config(2);
  config.hidden_size = 40, config.head_dim = 10;
  llama<float> wider(config);
  initialize(wider, 1);
  freeze(wider);
  CHECK(s.complaint(wider) ==
        s.weights + ": model.layers.0.self_attn.q_proj has LoRA factors of shapes (2, 32) and (32, 2), the model's layer is (40, 40)");
  auto state = s.state();
  at(state, key).shape = {32, 2};
  s.write(state);
  CHECK(s.complaint() ==
        s.weights + ": model.layers.1.self_attn.q_proj has LoRA factors of shapes (32, 2) and (32, 2), the model's layer is (32, 32)");
}

TEST_CASE("an adapter file that lacks something or has more is refused") {
  const saved s;
  const auto whole = s.state();
  s.write(test::renamed(whole, [](const std::string& name) { return name == key ? "" : name; }));
  CHECK(s.complaint() == s.weights + ": model.layers.1.self_attn.q_proj has one LoRA factor, expected lora_A and lora_B");
  s.write(test::renamed(whole, [](const std::string&) { return ""; }));
  CHECK(s.complaint() == s.weights + ": holds no LORA adapter");
  auto more = whole;
  more.items.emplace_back("base_model.model.score.weight", at(more, key));
  s.write(more);
  CHECK(s.complaint() == s.weights + ": the state does not fit the model:\n1 unexpected:\n  score.weight");
  s.write(whole);
  auto config = s.config();
  config["target_modules"] = {"q_proj", "v_proj"};
  s.write(config);
  CHECK(s.complaint() == s.weights + ": holds no tensor for target module \"v_proj\" of adapter_config.json");
  std::filesystem::remove(s.folder / "adapter_config.json");
  CHECK(s.complaint() == "cannot read \"" + (s.folder / "adapter_config.json").string() + "\": No such file or directory");
}

TEST_CASE("an adapter that is not finite is refused by the name of its tensor") {
  const saved s;
  auto state = s.state();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(at(state, key).bytes.data() + 4 * 5, &nan, sizeof nan);
  s.write(state);
  CHECK(s.complaint() == s.weights + ": tensor \"" + key + "\" holds NaN or infinity at element 5");
}

TEST_CASE("a full disk leaves the old adapter, both files of it") {
  const saved s;
  const auto weights = test::read_file(s.weights), config = test::read_file(s.folder / "adapter_config.json");
  auto larger = adapted(all_linear(), {.rank = 16, .alpha = 3});
  for (const rlim_t room : {100, 4000, 20'000}) {  // for neither file, for the configuration alone, for most of the factors
    std::string message;
    {
      const test::small_disk limit(room);
      try {
        save_peft(larger, s.folder.path());
      } catch (const io_error& e) {
        message = e.what();
      }
    }
    CHECK(message == "cannot write \"" + s.weights + "\": File too large");
    CHECK(test::read_file(s.weights) == weights);
    CHECK(test::read_file(s.folder / "adapter_config.json") == config);
    CHECK(std::distance(std::filesystem::directory_iterator(s.folder.path()), {}) == 2);
  }
  // Room for the factors and none for the configuration, which is seen only when its buffer is emptied: neither must change.
  auto small = adapted(targets({"layers.0.self_attn.q_proj"}), {.rank = 1});
  {
    std::string message;
    {
      const test::small_disk limit(3000);
      try {
        save_peft(small, s.folder.path(), {.base_model_name = std::string(3000, 'm')});
      } catch (const io_error& e) {
        message = e.what();
      }
    }
    CHECK(message == "cannot write \"" + (s.folder / "adapter_config.json").string() + "\": File too large");
    CHECK(test::read_file(s.weights) == weights);
    CHECK(test::read_file(s.folder / "adapter_config.json") == config);
  }
  std::filesystem::remove(s.folder / "adapter_config.json");
  std::filesystem::create_directory(s.folder / "adapter_config.json");
  CHECK_THROWS_AS(save_peft(larger, s.folder.path()), io_error);
  CHECK(test::read_file(s.weights) == weights);
  test::write_file(s.folder / "file", "");
  CHECK_THROWS_WITH(save_peft(larger, s.folder / "file"), Catch::Matchers::StartsWith("cannot make the folder \"" + (s.folder / "file").string() + "\": "));
}

TEST_CASE("dora, ia3 and vera come back from their folders to the bit") {
  const std::pair<const char*, std::function<void(llama<float>&)>> kinds[] = {
      {"dora", [](auto& m) { attach(m, targets({"q_proj", "down_proj"}), dora_options{.lora = {.rank = 2, .alpha = 6}}); }},
      {"ia3", [](auto& m) { attach(m, targets({"k_proj", "down_proj"}), ia3_options{.feedforward = {"down_proj"}}); }},
      {"ia3 of one layer", [](auto& m) { attach(m, targets({"layers.0.mlp.down_proj", "k_proj"}), ia3_options{.feedforward = {"down_proj"}}); }},
      {"ia3 beside layers of the same name", [](auto& m) { attach(m, targets({"layers.0.mlp.down_proj"}), ia3_options{.feedforward = {"down_proj"}}); }},
      {"vera", [](auto& m) { attach(m, targets({"q_proj", "up_proj", "down_proj"}), vera_options{.rank = 5}); }}};
  for (const auto& [name, put] : kinds) {
    INFO(name);
    test::temporary_folder folder;
    auto model = test::small_llama<float>(2), again = model;
    put(model);
    test::disturb_adapters(model);
    save_peft(model, folder.path());
    load_peft(again, folder.path());
    CHECK(test::same_logits(model, again));
    CHECK(trainable(again).size() == trainable(model).size());
    auto untouched = test::small_llama<float>(2);
    CHECK_FALSE(test::same_logits(model, untouched));
    const auto config = json::parse(test::read_file(folder / "adapter_config.json"));
    for (const auto& layer : config.value("feedforward_modules", json::array())) {  // PEFT asks for it, as text
      const auto& all = config["target_modules"];
      CHECK(std::ranges::find(all, layer) != all.end());
    }
  }
}

TEST_CASE("biases that were trained are saved as PEFT's bias option") {
  test::temporary_folder folder;
  auto model = test::small_bert<float>(2), again = model;
  attach(model, targets({"query"}), lora_options{.rank = 2}, {.bias = bias_training::all});
  test::disturb_adapters(model);
  save_peft(model, folder.path());
  const auto keys = load_safetensors(folder / "adapter_model.safetensors");
  CHECK(find(keys.items, "base_model.model.encoder.layer.0.attention.self.query.base_layer.bias") != nullptr);
  CHECK(find(keys.items, "base_model.model.encoder.layer.0.attention.self.key.bias") != nullptr);
  CHECK(json::parse(test::read_file(folder / "adapter_config.json"))["bias"] == "all");
  load_peft(again, folder.path());
  const auto a = save_state(model, is_trainable), b = save_state(again, is_trainable);
  REQUIRE(a.items.size() == b.items.size());
  for (const auto& [name, values] : a.items) CHECK(find(b.items, name)->bytes == values.bytes);
}

TEST_CASE("a folder of another kind that lacks something is refused by name") {
  test::temporary_folder folder;
  auto model = test::small_llama<float>(2);
  attach(model, targets({"q_proj"}), vera_options{.rank = 5});
  save_peft(model, folder.path());
  const auto whole = load_safetensors(folder / "adapter_model.safetensors");
  const auto complaint = [&](const std::string& missing) {
    save_safetensors(folder / "adapter_model.safetensors", test::renamed(whole, [&](const std::string& n) { return n == missing ? "" : n; }));
    auto onto = test::small_llama<float>(2);
    try {
      load_peft(onto, folder.path());
    } catch (const format_error& e) {
      CHECK(trainable(onto).empty());
      return std::string(e.what()).substr((folder / "adapter_model.safetensors").string().size());
    }
    return std::string();
  };
  CHECK(complaint("base_model.vera_A") == ": has no vera_A");
  CHECK(complaint("base_model.model.model.layers.0.self_attn.q_proj.vera_lambda_d") == ": model.layers.0.self_attn.q_proj has no vera_lambda_d");
  auto other = test::small_llama<float>(2);
  attach(other, targets({"q_proj"}), bottleneck_options{.size = 2});
  CHECK_THROWS_WITH(save_peft(other, folder.path()), "save_peft: the adapter of model.layers.0.self_attn.q_proj is serial bottleneck(size 2), "
                                                     "which PEFT folders cannot hold; merge or convert it");
}
