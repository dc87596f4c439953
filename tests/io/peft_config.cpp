// SPDX-License-Identifier: Apache-2.0
#include "graft/io/peft_config.hpp"

#include <nlohmann/json.hpp>

#include "support/catch.hpp"

using namespace graft;
using nlohmann::json;

namespace {

// As PEFT 0.17 writes it.
json published() {
  return {{"alora_invocation_tokens", nullptr}, {"alpha_pattern", json::object()}, {"arrow_config", nullptr}, {"auto_mapping", nullptr},
          {"base_model_name_or_path", "some/model"}, {"bias", "none"}, {"corda_config", nullptr}, {"ensure_weight_tying", false},
          {"eva_config", nullptr}, {"exclude_modules", nullptr}, {"fan_in_fan_out", false}, {"inference_mode", true},
          {"init_lora_weights", true}, {"layer_replication", nullptr}, {"layers_pattern", nullptr}, {"layers_to_transform", nullptr},
          {"loftq_config", json::object()}, {"lora_alpha", 32}, {"lora_bias", false}, {"lora_dropout", 0.05}, {"megatron_config", nullptr},
          {"megatron_core", "megatron.core"}, {"modules_to_save", nullptr}, {"peft_type", "LORA"}, {"peft_version", "0.17.0"},
          {"qalora_group_size", 16}, {"r", 16}, {"rank_pattern", json::object()}, {"revision", nullptr}, {"target_modules", {"v_proj", "q_proj"}},
          {"target_parameters", nullptr}, {"task_type", "CAUSAL_LM"}, {"trainable_token_indices", nullptr}, {"use_dora", false},
          {"use_qalora", false}, {"use_rslora", false}};
}
json with(const char* key, json value) {
  auto j = published();
  j[key] = std::move(value);
  return j;
}
peft_config read(const std::string& text) { return read_peft_config(parse_json(std::as_bytes(std::span(text)), "adapter_config.json")); }
std::string complaint(const json& j) {
  try {
    read(j.dump());
  } catch (const format_error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("an adapter config as PEFT writes it is read") {
  const auto c = read(published().dump());
  CHECK(c.lora.rank == 16);
  CHECK(c.lora.alpha == 32);
  CHECK(c.lora.dropout == 0.05);
  CHECK_FALSE(c.lora.rank_stabilised);
  CHECK(c.target_modules == std::vector<std::string>{"v_proj", "q_proj"});
  CHECK(c.modules_to_save.empty());
  CHECK(c.base_model_name == "some/model");
  CHECK(c.task_type == "CAUSAL_LM");
  CHECK(read(with("use_rslora", true).dump()).lora.scale() == Approx(8));
  CHECK(read(with("target_modules", "all-linear").dump()).target_modules.empty());
  CHECK(read(with("a_key_of_tomorrow", nullptr).dump()).lora.rank == 16);
  const auto least = read(R"({"peft_type": "LORA"})");
  CHECK(least.lora.rank == 8);
  CHECK(least.lora.alpha == 8);
}

TEST_CASE("settings that change the numbers and are not supported are refused by name") {
  CHECK(complaint(with("peft_type", "LOHA")) == "adapter_config.json: peft_type: expected \"LORA\", \"IA3\", \"VERA\" or \"OFT\", got \"LOHA\"");
  const std::string unsupported = ": expected null, false or nothing: this setting is not supported, got ";
  CHECK(complaint(with("vera_dropout", 0.5)) == "adapter_config.json: vera_dropout" + unsupported + "0.5");
  CHECK(complaint(with("lora_bias", true)) == "adapter_config.json: lora_bias" + unsupported + "true");
  CHECK(complaint(with("layer_replication", json{{0, 4}, {2, 5}})) == "adapter_config.json: layer_replication" + unsupported + "an array of 2");
  CHECK(complaint(with("trainable_token_indices", {1, 2})) == "adapter_config.json: trainable_token_indices" + unsupported + "an array of 2");
  CHECK(complaint(with("target_parameters", {"experts"})) == "adapter_config.json: target_parameters" + unsupported + "an array of 1");
  CHECK(complaint(with("a_key_of_tomorrow", 0.5)) == "adapter_config.json: a_key_of_tomorrow" + unsupported + "0.5");
  CHECK(complaint(with("bias", "some")) == "adapter_config.json: bias: expected \"none\", \"all\" or that of this type only, got \"some\"");
  CHECK(complaint({{"peft_type", "VERA"}, {"save_projection", false}}) ==
        "adapter_config.json: save_projection: expected true: the projections cannot be drawn again from another program's random numbers, got false");
  CHECK(complaint({{"peft_type", "VERA"}, {"r", 0}}) == "adapter_config.json: vera: rank is 0, expected 1 to 65536");
  CHECK(complaint({{"peft_type", "IA3"}, {"r", 4}}) == "adapter_config.json: r" + unsupported + "4");
  CHECK(complaint(with("init_lora_weights", "pissa_niter_4")) ==
        "adapter_config.json: init_lora_weights: expected an initialisation that leaves the base as it is; convert the adapter first, got \"pissa_niter_4\"");
  CHECK(complaint(with("init_lora_weights", "gaussian")).empty());
  CHECK(complaint(with("alpha_pattern", {{"layers\\.[0-3]\\.q", 4}})) ==
        "adapter_config.json: alpha_pattern: expected names of modules as keys; \"layers\\.[0-3]\\.q\" is a regular expression, got an object");
  CHECK(complaint(with("r", 0)) == "adapter_config.json: lora: rank is 0, expected 1 to 65536");
  CHECK(complaint(with("r", std::int64_t{1} << 40)) == "adapter_config.json: lora: rank is 1099511627776, expected 1 to 65536");
  CHECK(complaint(with("lora_dropout", 1.5)) == "adapter_config.json: lora: dropout is 1.5, expected 0 to below 1");
  CHECK(complaint(with("lora_alpha", "16")) == "adapter_config.json: lora_alpha: expected a number, got \"16\"");
  CHECK(complaint(json::object()) == "adapter_config.json: has no \"peft_type\"");
}

TEST_CASE("what is written is read back, and has what PEFT needs") {
  peft_config c;
  c.lora = {.rank = 4, .alpha = 6.5, .rank_stabilised = true, .dropout = 0.1};
  c.target_modules = {"key", "query"};
  c.modules_to_save = {"classifier"};
  c.alpha_pattern = {{"^encoder.layer.0.key", 3}};
  c.task_type = "SEQ_CLS";
  const std::string text = write_peft_config(c, {{"^encoder.layer.0.key", 2}});
  const auto again = read(text);
  CHECK(again.lora.rank == 4);
  CHECK(again.lora.alpha == 6.5);
  CHECK(again.lora.rank_stabilised);
  CHECK(again.lora.dropout == 0.1);
  CHECK(again.target_modules == c.target_modules);
  CHECK(again.modules_to_save == c.modules_to_save);
  CHECK(again.alpha_pattern == c.alpha_pattern);
  CHECK(again.task_type == "SEQ_CLS");
  CHECK(again.base_model_name.empty());
  const auto j = json::parse(text);
  CHECK(j["rank_pattern"]["^encoder.layer.0.key"] == 2);
  CHECK(j["inference_mode"] == true);
  CHECK(j["base_model_name_or_path"].is_null());
  c.lora.alpha = 16;
  CHECK(json::parse(write_peft_config(c))["lora_alpha"].is_number_integer());  // as Python's int
  c.target_modules = {"a \"b\"\n"};
  CHECK(read(write_peft_config(c)).target_modules == c.target_modules);
  c.task_type = "\xFF";
  CHECK_THROWS_WITH(write_peft_config(c), "adapter_config.json: \"\xFF\" is not UTF-8");
}

TEST_CASE("keys of alpha_pattern name a module whole, or its last segments") {
  const auto names = [](const char* key) {
    const auto values = read(with("alpha_pattern", {{key, 4}}).dump()).alpha_pattern;
    return find_module_value(values, "model.layers.0.self_attn.q_proj") != nullptr;
  };
  CHECK(names("q_proj"));
  CHECK(names("self_attn\\.q_proj"));
  CHECK(names("^model.layers.0.self_attn.q_proj"));
  CHECK_FALSE(names("^self_attn.q_proj"));
  CHECK_FALSE(names("proj"));
}

TEST_CASE("configs of other kinds are read back") {
  peft_config c;
  c.type = peft_type::ia3;
  c.ia3.feedforward = {"down_proj"};
  c.target_modules = {"k_proj", "down_proj"};
  auto again = read(write_peft_config(c));
  CHECK(again.type == peft_type::ia3);
  CHECK(again.ia3.feedforward == c.ia3.feedforward);
  CHECK(again.target_modules == c.target_modules);
  c = {};
  c.type = peft_type::vera;
  c.vera = {.rank = 32, .d_initial = 0.25, .dropout = 0.1};
  c.trains_biases = true;
  again = read(write_peft_config(c));
  CHECK(again.type == peft_type::vera);
  CHECK(again.vera.rank == 32);
  CHECK(again.vera.d_initial == 0.25);
  CHECK(again.vera.dropout == 0.1);
  CHECK(again.trains_biases);
  c = {};
  c.dora = true;
  CHECK(read(write_peft_config(c)).dora);
}
