// SPDX-License-Identifier: Apache-2.0
#include "graft/io/load_model.hpp"

#include <limits>
#include <nlohmann/json.hpp>

#include "graft/nn/storage.hpp"
#include "support/catch.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"

using namespace graft;
using nlohmann::json;
using test::at;

namespace {

struct example {
  llama_config config = test::small_llama_config(2);
  llama<float> model;
  state_dict state;
  token_batch batch = test::random_batch({9, 5});
  test::temporary_folder folder;

  explicit example(bool tied) : config([&] {
    auto c = test::small_llama_config(2);
    c.tie_word_embeddings = tied;
    return c;
  }()), model(config) {
    initialize(model, 3, 0.15);
    freeze(model);
    state = save_state(model);
  }
  void write(const state_dict& s) const { test::write_model_folder(folder.path(), config, s); }
  /// Whether the folder's model computes what the example's does, to the bit.
  bool loads_the_same() {
    auto loaded = load_llama<float>(folder.path());
    return trainable(loaded).empty() && test::equal_bits(test::logits_of(loaded, batch), test::logits_of(model, batch));
  }
  std::string where() const { return folder.path().string(); }
};

}  // namespace

TEST_CASE("a Llama comes back from its folder to the bit, head tied or not") {
  for (const bool tied : {true, false}) {
    example e(tied);
    e.write(e.state);
    CHECK(e.loads_the_same());
    CHECK(load_llama<float>(e.folder.path()).lm_head.has_value() == !tied);
  }
}

TEST_CASE("a bare decoder, one with buffers and one in parts load alike") {
  example e(true);
  e.write(test::renamed(e.state, [](const std::string& name) { return name.substr(6); }));  // without "model."
  CHECK(e.loads_the_same());

  auto with_buffer = e.state;
  with_buffer.items.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", at(e.state, "model.norm.weight"));
  e.write(with_buffer);
  CHECK(e.loads_the_same());

  std::filesystem::remove(e.folder / "model.safetensors");
  state_dict parts[2];
  json map;
  for (std::size_t i = 0; i < e.state.items.size(); ++i) {
    parts[i % 2].items.push_back(e.state.items[i]);
    map[e.state.items[i].first] = concat("part-", i % 2, ".safetensors");
  }
  for (int i : {0, 1}) save_safetensors(e.folder / concat("part-", i, ".safetensors"), parts[i]);
  test::write_file(e.folder / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  CHECK(e.loads_the_same());
}

TEST_CASE("a head that was saved although tied is tied only if it equals the embedding") {
  example e(true);
  auto saved = e.state;
  saved.items.emplace_back("lm_head.weight", at(e.state, "model.embed_tokens.weight"));
  e.write(saved);
  CHECK_FALSE(load_llama<float>(e.folder.path()).lm_head.has_value());
  CHECK(e.loads_the_same());
  at(saved, "lm_head.weight").bytes[2] ^= std::byte{1};
  e.write(saved);
  CHECK(load_llama<float>(e.folder.path()).lm_head.has_value());
  CHECK_FALSE(e.loads_the_same());
  e.config.tie_word_embeddings = false;  // said to be untied, but no head was saved
  e.write(e.state);
  CHECK_FALSE(load_llama<float>(e.folder.path()).lm_head.has_value());
}

TEST_CASE("half-precision weights stay as they are stored") {
  for (const dtype type : {dtype::bf16, dtype::f16}) {
    example e(true);
    store_weights_as(e.model, type);
    e.write(save_state(e.model));
    auto loaded = load_llama<float>(e.folder.path());
    CHECK(loaded.model.layers[0].mlp.up_proj.weight.type() == type);
    CHECK(e.loads_the_same());
  }
}

TEST_CASE("weights in blocks stay as they are stored, mapped") {
  for (const dtype type : {dtype::q8_0, dtype::q4_0, dtype::nf4}) {
    example e(true);
    store_weights_as(e.model, type);
    const auto state = save_state(e.model);
    e.write(state);
    auto loaded = load_llama<float>(e.folder.path());
    CHECK(loaded.model.layers[0].mlp.up_proj.weight.type() == type);
    CHECK(loaded.model.embed_tokens.weight.type() == type);
    CHECK(loaded.model.norm.weight.type() == dtype::f32);
    CHECK(e.loads_the_same());
    const checkpoint_files files(e.folder.path());
    for (const auto& [name, a] : files.arrays()) CHECK(files.frozen(name).bytes().data() == a.bytes.data());  // no copy: aligned

    auto broken = state;
    auto& bytes = at(broken, "model.layers.1.mlp.up_proj.weight").bytes;
    const std::size_t block = static_cast<std::size_t>(layout_of(type).bytes);
    std::memset(bytes.data() + 3 * block, 0xff, 4);
    e.write(broken);
    CHECK_THROWS_WITH(load_llama<float>(e.folder.path()), e.where() + ": tensor \"model.layers.1.mlp.up_proj.weight\" holds NaN or infinity at element " +
                                                              std::to_string(3 * layout_of(type).count));
    at(broken, "model.layers.1.mlp.up_proj.weight").shape = {44, 31};  // as many bytes
    e.write(broken);
    CHECK_THROWS_WITH(load_llama<float>(e.folder.path(), {.check_finite = false}), Catch::Matchers::Contains("the model has (44, 32), the state has (44, 31)"));
  }
}

TEST_CASE("what does not fit the config is listed in full") {
  example e(true);
  auto s = e.state;
  at(s, "model.norm.weight").shape = {4, 8};
  s = test::renamed(s, [](const std::string& n) { return n == "model.layers.1.mlp.up_proj.weight" ? "model.layers.1.mlp.gate_up_proj.weight" : n; });
  e.write(s);
  CHECK_THROWS_WITH(load_llama<float>(e.folder.path()),
                    "the checkpoint does not fit the model:\n1 missing:\n  model.layers.1.mlp.up_proj.weight\n1 unexpected:\n"
                    "  model.layers.1.mlp.gate_up_proj.weight\n1 mismatched:\n  model.norm.weight: the model has (32), the state has (4, 8)");
}

TEST_CASE("weights that are not finite are refused by name, unless that is asked for") {
  example e(true);
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = -std::numeric_limits<float>::infinity();
  for (const auto& [name, value] : std::vector<std::pair<std::string, float>>{{"model.layers.1.self_attn.q_proj.weight", nan},
                                                                              {"model.norm.weight", infinity}}) {
    auto s = e.state;
    std::memcpy(at(s, name).bytes.data() + 4 * 17, &value, sizeof value);
    e.write(s);
    CHECK_THROWS_WITH(load_llama<float>(e.folder.path()), e.where() + ": tensor \"" + name + "\" holds NaN or infinity at element 17");
    CHECK_NOTHROW(load_llama<float>(e.folder.path(), {.check_finite = false}));
  }
  for (const auto& [type, bits] : std::vector<std::pair<dtype, std::uint16_t>>{{dtype::bf16, 0x7f80}, {dtype::f16, 0xfc01}}) {
    auto copy = replicate(e.model);
    store_weights_as(copy, type);
    auto s = save_state(copy);
    e.write(s);
    CHECK_NOTHROW(load_llama<float>(e.folder.path()));
    std::memcpy(at(s, "model.embed_tokens.weight").bytes.data() + 2 * 1599, &bits, sizeof bits);  // the very last
    e.write(s);
    CHECK_THROWS_WITH(load_llama<float>(e.folder.path()), e.where() + ": tensor \"model.embed_tokens.weight\" holds NaN or infinity at element 1599");
  }
}

TEST_CASE("a BERT encoder loads from bare and from task checkpoints, under old names and new") {
  auto model = test::small_bert<float>();
  const auto state = save_state(model);
  const auto batch = test::random_batch({7, 4});
  const test::temporary_folder folder;
  const auto loads_the_same = [&](const state_dict& s) {
    test::write_model_folder(folder.path(), model.config, s);
    auto loaded = load_bert<float>(folder.path());
    return test::equal_bits(test::pooled_by(loaded, batch), test::pooled_by(model, batch));
  };
  CHECK(loads_the_same(state));
  auto task = test::renamed(state, [](std::string name) {
    for (const auto& [now, once] : {std::pair("LayerNorm.weight", "LayerNorm.gamma"), std::pair("LayerNorm.bias", "LayerNorm.beta")})
      if (name.ends_with(now)) name.replace(name.size() - std::string_view(now).size(), std::string::npos, once);
    return "bert." + name;
  });
  task.items.emplace_back("bert.embeddings.position_ids", array{dtype::i64, {1, 64}, std::vector<std::byte>(512)});
  task.items.emplace_back("cls.predictions.bias", at(task, "bert.pooler.dense.bias"));
  task.items.emplace_back("classifier.weight", array{dtype::f32, {2, 24}, std::vector<std::byte>(192)});
  CHECK(loads_the_same(task));
  CHECK(loads_the_same(test::renamed(state, [](const std::string& n) { return n.starts_with("pooler") ? "" : n; })));
  auto bare = load_bert<float>(folder.path());
  CHECK_FALSE(bare.pooler.has_value());
  CHECK_THROWS_WITH(test::pooled_by(bare, batch, pooling::pooler), "bert: this checkpoint has no pooler; use mean or cls pooling");
}

TEST_CASE("a classifier takes the stored head of its size, else a fresh one from the seed") {
  bert_classifier<float> model(test::small_bert<float>(), 3, pooling::pooler);
  initialize(model.classifier, 9, 0.2);
  freeze(model);
  const test::temporary_folder folder;
  test::write_model_folder(folder.path(), model.bert.config, save_state(model));
  const auto loaded = load_bert_classifier<float>(folder.path(), 3);
  CHECK(test::equal_bits(loaded.classifier.weight.view(), model.classifier.weight.view()));
  const auto four = load_bert_classifier<float>(folder.path(), 4, pooling::mean, 5), again = load_bert_classifier<float>(folder.path(), 4, pooling::mean, 5);
  CHECK(four.classifier.outputs() == 4);
  CHECK(test::equal_bits(four.classifier.weight.view(), again.classifier.weight.view()));
  const auto other = load_bert_classifier<float>(folder.path(), 4, pooling::mean, 6);
  CHECK_FALSE(test::equal_bits(four.classifier.weight.view(), other.classifier.weight.view()));
}

TEST_CASE("shapes by name have random weights that follow from the seed") {
  const auto a = load_or_make_llama<float>("random:stories-260k", 1), b = load_or_make_llama<float>("random:stories-260k", 1);
  CHECK(test::equal_bits(a.model.embed_tokens.weight.view(), b.model.embed_tokens.weight.view()));
  CHECK_FALSE(a.model.embed_tokens.weight.trainable());
  CHECK_THROWS_WITH(load_or_make_llama<float>("random:large"), "no shape is named \"large\"; there are tiny, stories-260k, smollm-135m");
}
