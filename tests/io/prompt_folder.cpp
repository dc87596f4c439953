// SPDX-License-Identifier: Apache-2.0
// Prompts, prefixes and tuned norms as folders: round trips, and folders that are not for the model or not as they should be.
#include "graft/io/prompt_folder.hpp"

#include <limits>
#include <nlohmann/json.hpp>

#include "graft/io/tuned_folder.hpp"
#include "support/catch.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"

using namespace graft;
using nlohmann::json;

namespace {

// A saved folder whose files can be changed.
struct saved_prompt {
  test::temporary_folder folder;
  std::string weights = (folder / "adapter_model.safetensors").string();

  state_dict state() const { return load_safetensors(weights); }
  json config() const { return json::parse(test::read_file(folder / "adapter_config.json")); }
  void write(const state_dict& s) const { save_safetensors(weights, s); }
  void write(std::string_view key, const json& value) const {
    auto c = config();
    c[std::string(key)] = value;
    test::write_file(folder / "adapter_config.json", c.dump());
  }
  std::string settings() const { return (folder / "adapter_config.json").string(); }
};

prompted<llama<float>> with_prompt() { return prompted(test::small_llama<float>(2), {.tokens = 3, .deviation = 0.5}); }
prefixed<llama<float>> with_prefix() { return prefixed(test::small_llama<float>(2), {.tokens = 3, .deviation = 0.5}); }

llama<float> with_norms() {
  auto model = test::small_llama<float>(2);
  tune_norms(model);
  test::disturb_adapters(model);
  return model;
}
template <class F>
std::string refusal_of(F f) {
  try {
    f();
  } catch (const format_error& e) {
    return e.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("a prompt's folder is what peft writes, and gives the prompt back") {
  saved_prompt s;
  auto model = with_prompt();
  save_prompt(model, s.folder.path(), {.base_model_name = "a/b"});
  CHECK(s.config() == json{{"base_model_name_or_path", "a/b"}, {"inference_mode", true}, {"num_attention_heads", 4}, {"num_layers", 2},
                           {"num_transformer_submodules", 1}, {"num_virtual_tokens", 3}, {"peft_type", "PROMPT_TUNING"},
                           {"prompt_tuning_init", "RANDOM"}, {"task_type", "CAUSAL_LM"}, {"token_dim", 32}});
  REQUIRE(s.state().items.size() == 1);
  CHECK(s.state().items[0].first == "prompt_embeddings");
  const auto read = load_prompt<float>(s.folder.path());
  CHECK(test::equal_bits(read.embeddings.view(), model.prompt.embeddings.view()));
  CHECK(read.embeddings.trainable());
  CHECK_THROWS_AS(prompted(llama<float>(llama_config::stories_260k()), load_prompt<float>(s.folder.path())), shape_error);  // of width 64
  freeze(model);
  CHECK_NOTHROW(save_prompt(model, s.folder.path()));
}

TEST_CASE("a prefix' folder is what peft writes, and gives the prefix back") {
  saved_prompt s;
  const auto model = with_prefix();
  save_prefix(model, s.folder.path());
  const auto config = s.config();
  CHECK(config["peft_type"] == "PREFIX_TUNING");
  CHECK(config["token_dim"] == 16);  // of the keys, which two of four heads share
  CHECK(config["num_attention_heads"] == 2);
  CHECK(config["num_layers"] == 2);
  REQUIRE(s.state().items[0].second.shape == std::vector<index_t>{3, 2 * 2 * 16});
  const auto read = load_prefix<float>(s.folder.path());
  REQUIRE(read.rows.size() == 4);
  for (std::size_t i = 0; i < 4; ++i) CHECK(test::equal_bits(read.rows[i].view(), model.prefix.rows[i].view()));
  CHECK_THROWS_AS(prefixed(test::small_llama<float>(3), load_prefix<float>(s.folder.path())), shape_error);
}

TEST_CASE("folders of prompts that are not as they should be are refused") {
  saved_prompt s;
  save_prompt(with_prompt(), s.folder.path());
  const auto prompt = [&] { load_prompt<float>(s.folder.path()); };
  CHECK(refusal_of([&] { load_prefix<float>(s.folder.path()); }) == s.settings() + ": peft_type: expected \"PREFIX_TUNING\", got \"PROMPT_TUNING\"");
  s.write("num_transformer_submodules", 2);
  CHECK(refusal_of(prompt) == s.settings() + ": num_transformer_submodules: expected 1, as of a model of one part, got 2");
  s.write("num_transformer_submodules", nullptr);
  CHECK(refusal_of(prompt) == "nothing");
  s.write("token_dim", 24);
  CHECK(refusal_of(prompt) == s.weights + ": prompt_embeddings is (3, 32), adapter_config.json says (3, 24)");
  s.write("num_virtual_tokens", 0);
  CHECK(refusal_of(prompt) == s.settings() + ": num_virtual_tokens: expected an integer from 1 to 65536, got 0");
  s.write("num_virtual_tokens", 3);
  s.write("token_dim", 32);
  s.write("modules_to_save", {"lm_head"});
  CHECK(refusal_of(prompt).starts_with(s.settings() + ": modules_to_save: expected null, false or nothing: this setting is not supported"));
  s.write("modules_to_save", nullptr);
  auto state = s.state();
  state.items.emplace_back("other", state.items[0].second);
  s.write(state);
  CHECK(refusal_of(prompt) == s.weights + ": has 2 tensors, expected prompt_embeddings alone");
  state.items.erase(state.items.begin());
  s.write(state);
  CHECK(refusal_of(prompt) == s.weights + ": has no tensor \"prompt_embeddings\"");
  state.items[0].first = "prompt_embeddings";
  const float infinite = std::numeric_limits<float>::infinity();
  std::ranges::copy(std::as_bytes(std::span(&infinite, 1)), state.items[0].second.bytes.begin());
  s.write(state);
  CHECK(refusal_of(prompt) != "nothing");
}

TEST_CASE("tuned norms go through a folder") {
  saved_prompt s;
  auto model = with_norms(), other = test::small_llama<float>(2), base = test::small_llama<float>(2);
  save_tuned_norms(model, s.folder.path());
  CHECK(s.config() == json{{"base_model_name_or_path", nullptr}, {"inference_mode", true}, {"peft_type", "LN_TUNING"}, {"task_type", "CAUSAL_LM"},
                           {"target_modules", {"input_layernorm", "norm", "post_attention_layernorm"}}});
  CHECK(s.state().items.size() == 5);
  CHECK(find(s.state().items, "base_model.model.model.norm.ln_tuning_layers.weight") != nullptr);
  CHECK_FALSE(test::same_logits(base, model));
  CHECK(load_tuned_norms(other, s.folder.path()) == 5 * 32);
  CHECK(test::same_logits(other, model));
  CHECK(trainable(other).size() == 5);
  CHECK(load_tuned_norms(base, s.folder.path(), {.trainable = false}) == 5 * 32);
  CHECK(test::same_logits(base, model));
  CHECK(trainable(base).empty());
  auto one = test::small_llama<float>(2);
  unfreeze(one, below("model.layers.1.input_layernorm"));
  save_tuned_norms(one, s.folder.path());
  CHECK(s.config()["target_modules"] == json{"model.layers.1.input_layernorm"});
}

TEST_CASE("biases of norms are in the folder with their weights") {
  saved_prompt s;
  auto model = test::small_bert<float>(1), other = test::small_bert<float>(1);
  tune_norms(model);
  test::disturb_adapters(model);
  save_tuned_norms(model, s.folder.path(), {.task_type = "FEATURE_EXTRACTION"});
  CHECK(s.config()["target_modules"] == json{"LayerNorm"});
  CHECK(load_tuned_norms(other, s.folder.path()) == 3 * 2 * 24);
  CHECK(test::equal_bits(test::pooled_by(model, test::random_batch({4})), test::pooled_by(other, test::random_batch({4}))));
  auto state = s.state();
  std::erase_if(state.items, [](const auto& item) { return item.first == "base_model.model.embeddings.LayerNorm.ln_tuning_layers.bias"; });
  s.write(state);
  CHECK(refusal_of([&] { load_tuned_norms(other, s.folder.path()); }) == s.weights + ": the state does not fit the model:\n1 missing:\n  embeddings.LayerNorm.bias");
}

TEST_CASE("what a folder of tuned norms cannot hold, and folders for another model") {
  saved_prompt s;
  auto model = with_norms(), plain = test::small_llama<float>(2);
  CHECK_THROWS_WITH(save_tuned_norms(plain, s.folder.path()), "save_tuned_norms: no normalisation layer of the model is trainable");
  auto more = with_norms();
  unfreeze(more, below("model.layers.0.mlp.up_proj"));
  CHECK_THROWS_WITH(save_tuned_norms(more, s.folder.path()), "save_tuned_norms: model.layers.0.mlp.up_proj.weight trains too, and is of no normalisation layer");
  save_tuned_norms(model, s.folder.path());
  auto encoder = test::small_bert<float>(1);
  CHECK(refusal_of([&] { load_tuned_norms(encoder, s.folder.path()); }) ==
        s.weights + ": is for another model: this one has no normalisation layer \"model.layers.0.input_layernorm\"");
  s.write("target_modules", {"norm", "ln_f"});
  const auto load = [&] { load_tuned_norms(plain, s.folder.path()); };
  CHECK(refusal_of(load) == s.weights + ": holds no tensor for target module \"ln_f\" of adapter_config.json");
  s.write("peft_type", "LORA");
  CHECK(refusal_of(load) == s.settings() + ": peft_type: expected \"LN_TUNING\", got \"LORA\"");
  s.write("peft_type", "LN_TUNING");
  s.write("target_modules", {"norm"});
  auto state = s.state();
  state.items[0].first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  s.write(state);
  CHECK(refusal_of(load) == s.weights + ": \"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\" is no tensor of a tuned normalisation layer");
  auto untouched = test::small_llama<float>(2);
  CHECK(test::same_logits(plain, untouched));
}
