// SPDX-License-Identifier: Apache-2.0
// LoRA of embeddings in PEFT folders and in whole models.
#include <nlohmann/json.hpp>

#include "graft/io/gguf_lora.hpp"
#include "graft/io/peft_folder.hpp"
#include "graft/io/save_model.hpp"
#include "graft/peft/embedding_lora.hpp"
#include "support/catch.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"

using namespace graft;
using nlohmann::json;

namespace {

const std::string table = "model.embed_tokens", a_key = "base_model.model." + table + ".lora_embedding_A";

llama<float> small(bool tied = true) {
  auto config = test::small_llama_config(2);
  config.tie_word_embeddings = tied;
  return test::small_llama<float>(config);
}
llama<float> adapted(bool tied = true, bool with_layers = true) {
  auto m = small(tied);
  attach_to_embeddings(m, targets({"embed_tokens"}), {.rank = 3, .alpha = 5});
  if (with_layers) attach(m, targets({"q_proj"}), lora_options{.rank = 2, .alpha = 5});
  test::disturb_adapters(m);
  return m;
}
std::string complaint(const std::filesystem::path& folder, std::string_view from) {
  auto m = small();
  try {
    load_peft(m, folder);
  } catch (const error& e) {
    CHECK(trainable(m).empty());
    CHECK(m.model.embed_tokens.adapters.empty());
    const std::string text = e.what();
    return text.substr(text.find(from));
  }
  return "";
}

}  // namespace

TEST_CASE("a LoRA of an embedding comes back from a PEFT folder to the bit, alone and beside those of layers") {
  for (const bool with_layers : {false, true}) {
    INFO(with_layers);
    auto model = adapted(true, with_layers), again = small();
    const test::temporary_folder folder;
    save_peft(model, folder.path());
    load_peft(again, folder.path());
    CHECK(test::equal_bits(test::logits_of(again, test::two_sequences), test::logits_of(model, test::two_sequences)));
    CHECK(trainable(again).size() == (with_layers ? 6u : 2u));
    CHECK_FALSE(again.model.embed_tokens.weight.trainable());
    const auto state = load_safetensors(folder / "adapter_model.safetensors");
    CHECK(find(state.items, a_key)->shape == std::vector<index_t>{3, 50});  // as PEFT has it; lookups want the other order
    const auto c = json::parse(test::read_file(folder / "adapter_config.json"));
    CHECK(c["target_modules"] == (with_layers ? json{"embed_tokens", "q_proj"} : json{"embed_tokens"}));
    if (with_layers) CHECK(c["rank_pattern"] == json{{"^" + table, 3}});

    auto frozen = small();
    load_peft(frozen, folder.path(), {.name = "other", .trainable = false});
    CHECK(trainable(frozen).empty());
    CHECK_THROWS_AS(load_peft(frozen, folder.path(), {.name = "other"}), option_error);
  }
}

TEST_CASE("the table that PEFT stores beside its LoRA is read, and stays frozen") {
  auto model = adapted(), again = small();
  const test::temporary_folder folder;
  save_peft(model, folder.path());
  auto state = load_safetensors(folder / "adapter_model.safetensors");
  auto other = small();
  other.model.embed_tokens.weight.unfreeze();
  for (float& w : other.model.embed_tokens.weight.value()) w += 1;
  state.items.emplace_back("base_model.model." + table + ".base_layer.weight", to_array<float, 2>(std::as_const(other).model.embed_tokens.weight.view()));
  save_safetensors(folder / "adapter_model.safetensors", state);
  load_peft(again, folder.path());
  CHECK(again.model.embed_tokens.weight.view()(4, 5) == other.model.embed_tokens.weight.view()(4, 5));
  CHECK_FALSE(again.model.embed_tokens.weight.trainable());
  CHECK(trainable(again).size() == 6);
}

TEST_CASE("factors of an embedding that do not fit are refused by name") {
  auto model = adapted(true, false);
  const test::temporary_folder folder;
  save_peft(model, folder.path());
  const auto weights = (folder / "adapter_model.safetensors").string();
  const auto whole = load_safetensors(weights);
  for (const std::vector<index_t>& shape : {std::vector<index_t>{50, 3}, {150}, {0, 150}, {1, 150}}) {
    auto state = whole;
    auto& a = test::at(state, a_key);
    if (shape[0] == 0) a.bytes.clear();
    a.shape = shape;
    save_safetensors(weights, state);
    CHECK(complaint(folder.path(), table) == table + " has LoRA factors of shapes " + to_string(shape) + " and (32, 3), the model's embedding is (50, 32)");
  }
  save_safetensors(weights, test::renamed(whole, [](std::string name) { return name == a_key ? "" : name; }));
  CHECK(complaint(folder.path(), table) == table + " has no lora_embedding_A");
  save_safetensors(weights, whole);
  test::write_file(folder / "adapter_config.json", json{{"peft_type", "IA3"}, {"target_modules", {"embed_tokens"}}}.dump());
  CHECK(complaint(folder.path(), table) == table + " is an embedding, whose adapter can be a LoRA alone");
}

TEST_CASE("a whole model is saved with its embedding's LoRA folded in, unless the table is the output layer too") {
  auto model = adapted(false);
  const test::temporary_folder folder;
  save_model(model, folder.path());
  auto loaded = load_llama<float>(folder.path());
  CHECK(test::near(test::logits_of(loaded, test::two_sequences), test::logits_of(model, test::two_sequences), 1e-5));
  auto plain = small(false);
  CHECK_FALSE(test::near(loaded.model.embed_tokens.weight.view(), std::as_const(plain).model.embed_tokens.weight.view(), 1e-2));
  auto tied = adapted(true);
  CHECK_THROWS_WITH(save_model(tied, folder / "tied"),
                    "save_model: the embedding has an adapter, and its table is the output layer too, which the adapter leaves as it is");
  CHECK_FALSE(std::filesystem::exists(folder / "tied"));
}

TEST_CASE("a GGUF file holds no LoRA of an embedding") {
  auto model = adapted();
  const test::temporary_folder folder;
  CHECK_THROWS_WITH(save_gguf_lora(model, folder / "a.gguf"),
                    "save_gguf_lora: the embedding model.embed_tokens has an adapter named \"default\", which is of no linear layer");
}
