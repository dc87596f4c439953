// SPDX-License-Identifier: Apache-2.0
#include "graft/io/save_model.hpp"

#include <limits>
#include <nlohmann/json.hpp>

#include "graft/io/load_model.hpp"
#include "graft/nn/storage.hpp"
#include "graft/peft/attach.hpp"
#include "support/catch.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"
#include "support/small_disk.hpp"

using namespace graft;
using nlohmann::json;
using test::near;

namespace {

llama<float> with_config(const llama_config& c) {
  llama<float> m(c);
  initialize(m, 1, 0.15);
  for (auto& p : parameters(m))  // biases start as zero: make them matter
    if (p.path.ends_with(".bias")) fill_uniform(p.parameter->value(), random_stream(3).substream(p.path), 0.3);
  freeze(m);
  return m;
}
llama<float> with_adapter(llama<float> m = test::small_llama<float>(2)) {
  attach(m, targets({"q_proj", "down_proj"}), lora_options{.rank = 2, .alpha = 6});
  test::disturb_adapters(m);
  return m;
}
json config_in(const test::temporary_folder& f) { return json::parse(test::read_file(f / "config.json")); }
llama_config read_back(const llama_config& c) {
  const std::string text = write_llama_config(c);
  return read_llama_config(parse_json(std::as_bytes(std::span(text)), "config.json"));
}

/// A hidden part of a layer that no dense weight can stand for.
struct unmergeable {
  parameter<float, 1> gain{tensor<float, 1>::full({1}, 1)};
  static void visit(auto& self, auto& v) { v("gain", self.gain); }
  var<float, 2> apply(tape<float>&, const var<float, 2>& x, linear_map<float> f) { return f(x); }
  void merge_into(affine<float>) const { throw_error<state_error>("it depends on the batch"); }
  std::string describe() const { return "unmergeable"; }
};

}  // namespace

TEST_CASE("a saved model does what the adapted one did") {
  auto config = test::small_llama_config(2);
  const auto check = [](llama<float> m) {
    const test::temporary_folder folder;
    const auto before = test::logits_of(m, test::two_sequences);
    save_model(m, folder / "new" / "model");
    CHECK(test::equal_bits(test::logits_of(m, test::two_sequences), before));  // the model itself stays as it was
    auto loaded = load_llama<float>(folder / "new" / "model");
    CHECK(near(test::logits_of(loaded, test::two_sequences), before, 1e-5));
    CHECK(trainable(loaded).empty());
    visit_layers(loaded, [](std::string_view, adapted_linear<float>& l) { CHECK(l.adapters.empty()); });
    CHECK(loaded.lm_head.has_value() == m.lm_head.has_value());
    CHECK(json::parse(test::read_file(folder / "new" / "model" / "config.json"))["tie_word_embeddings"] == !m.lm_head.has_value());
    visit_layers(m, [](std::string_view, adapted_linear<float>& l) { l.adapters.clear(); });
    CHECK_FALSE(near(test::logits_of(loaded, test::two_sequences), test::logits_of(m, test::two_sequences), 1e-2));  // the adapters did something
  };
  check(with_adapter(with_config(config)));
  config.tie_word_embeddings = false;
  auto untied = with_config(config);
  attach(untied, targets({"lm_head"}), lora_options{.rank = 3}, {.name = "head"});
  check(with_adapter(std::move(untied)));
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  check(with_adapter(with_config(config)));
  config.output_bias = config.mlp_bias = false;
  check(with_adapter(with_config(config)));
  config.rotary = {.theta = 500, .scaling = "llama3", .factor = 4, .low_frequency_factor = 1, .high_frequency_factor = 4, .original_max_positions = 16};
  check(with_adapter(with_config(config)));
}

TEST_CASE("a saved model has the published names and nothing of its adapters") {
  const test::temporary_folder folder;
  auto m = with_adapter();
  save_model(m, folder.path());
  const auto file = load_safetensors(folder / "model.safetensors");
  std::vector<std::string> expected{"model.embed_tokens.weight", "model.norm.weight"}, names;
  for (const std::string layer : {"model.layers.0.", "model.layers.1."})
    for (const std::string part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
                                   "input_layernorm", "post_attention_layernorm"})
      expected.push_back(layer + part + ".weight");
  for (const auto& [name, a] : file.items) {
    names.push_back(name);
    CHECK(a.type == dtype::f32);
  }
  std::ranges::sort(expected);
  std::ranges::sort(names);
  CHECK(names == expected);
  CHECK(*find(file.metadata, "format") == "pt");
  const auto c = config_in(folder);
  CHECK(c["architectures"] == json{"LlamaForCausalLM"});
  CHECK(c["model_type"] == "llama");
  CHECK(c["tie_word_embeddings"] == true);
  CHECK(c["torch_dtype"] == "float32");
  CHECK(c["rope_scaling"].is_null());
  CHECK(c["eos_token_id"].is_null());
  CHECK(c["rms_norm_eps"] == 1e-5);
}

TEST_CASE("narrow types round once, quantised bases are widened") {
  const test::temporary_folder folder;
  auto m = with_adapter();
  const auto before = test::logits_of(m, test::two_sequences);
  save_model(m, folder.path(), {.type = dtype::bf16});
  CHECK(config_in(folder)["torch_dtype"] == "bfloat16");
  const auto file = load_safetensors(folder / "model.safetensors");
  const auto* saved = find(file.items, "model.layers.1.mlp.down_proj.weight");
  REQUIRE(saved != nullptr);
  REQUIRE(saved->type == dtype::bf16);
  const auto merged = m.model.layers[1].mlp.down_proj.merged().weight;
  bool once = true;
  for (std::size_t i = 0; i < merged.span().size(); ++i) {
    bf16 v;
    std::memcpy(&v, saved->bytes.data() + 2 * i, 2);
    once = once && v.bits == to_bf16(merged.span()[i]).bits;
  }
  CHECK(once);
  auto loaded = load_llama<float>(folder.path());
  CHECK(near(test::logits_of(loaded, test::two_sequences), before, 0.05));

  for (const dtype type : {dtype::q8_0, dtype::bf16}) {
    auto small = test::small_llama<float>(2);
    store_weights_as(small, type);
    small = with_adapter(std::move(small));
    const auto quantised = test::logits_of(small, test::two_sequences);
    save_model(small, folder.path());
    loaded = load_llama<float>(folder.path());
    CHECK(near(test::logits_of(loaded, test::two_sequences), quantised, 1e-5));
  }
}

TEST_CASE("a written config is read as it was") {
  auto c = test::small_llama_config(2);
  c.rms_norm_eps = 1.25e-6;
  c.rotary.theta = 1e6;
  c.bos_token_id = 1;
  c.eos_token_ids = {2};
  for (const std::string scaling : {"default", "linear", "llama3"}) {
    c.rotary.scaling = scaling;
    c.rotary.factor = scaling == "default" ? 1 : 8.5;
    if (scaling == "llama3") c.rotary.low_frequency_factor = 1.5, c.rotary.high_frequency_factor = 3, c.rotary.original_max_positions = 4096, c.eos_token_ids = {2, 7};
    const auto r = read_back(c);
    CHECK(r.vocab_size == c.vocab_size);
    CHECK(r.hidden_size == c.hidden_size);
    CHECK(r.intermediate_size == c.intermediate_size);
    CHECK(r.num_hidden_layers == c.num_hidden_layers);
    CHECK(r.num_attention_heads == c.num_attention_heads);
    CHECK(r.num_key_value_heads == c.num_key_value_heads);
    CHECK(r.head_dim == c.head_dim);
    CHECK(r.max_position_embeddings == c.max_position_embeddings);
    CHECK(r.rms_norm_eps == c.rms_norm_eps);
    CHECK(r.tie_word_embeddings);
    CHECK(r.bos_token_id == c.bos_token_id);
    CHECK(r.eos_token_ids == c.eos_token_ids);
    CHECK(r.rotary.theta == c.rotary.theta);
    CHECK(r.rotary.scaling == scaling);
    CHECK(r.rotary.factor == c.rotary.factor);
    CHECK(rotary_frequencies(r.rotary, c.head_dim) == rotary_frequencies(c.rotary, c.head_dim));
  }
  for (const int biases : {0, 1, 3, 4, 7}) {  // of q, k and v; of the output; of the feed-forward part
    c.qkv_bias = biases & 1, c.output_bias = biases & 2, c.mlp_bias = biases & 4;
    const auto r = read_back(c);
    CHECK((r.qkv_bias == c.qkv_bias && r.output_bias == c.output_bias && r.mlp_bias == c.mlp_bias));
  }
  c.qkv_bias = true, c.output_bias = false, c.mlp_bias = true;
  CHECK_THROWS_WITH(write_llama_config(c), "save_model: no published kind of model has biases on q, k and v, no bias on the attention's output and "
                                           "biases in the feed-forward part");
  c.qkv_bias = false, c.output_bias = true;
  CHECK_THROWS_AS(write_llama_config(c), option_error);
  CHECK_THROWS_WITH(write_llama_config(test::small_llama_config(2), dtype::q8_0), "save_model: q8_0 is not one of f64, f32, bf16, f16");
}

TEST_CASE("a GPT-2 is saved as its published kind lies, linear weights (in, out)") {
  gpt2<float> m(gpt2_config{.vocab_size = 50, .hidden_size = 24, .intermediate_size = 40, .num_hidden_layers = 2, .num_attention_heads = 3,
                            .max_position_embeddings = 40, .layer_norm_eps = 1e-6, .hidden_act = "gelu", .bos_token_id = 3, .eos_token_ids = {4}});
  initialize(m, 1, 0.2);
  freeze(m);
  attach(m, targets({"c_attn", "c_fc"}), lora_options{.rank = 2});
  test::disturb_adapters(m);
  const test::temporary_folder folder;
  const auto before = test::logits_of(m, test::two_sequences);
  save_model(m, folder.path());
  CHECK(test::equal_bits(test::logits_of(m, test::two_sequences), before));
  const checkpoint_files file(folder.path());
  CHECK(file.find("transformer.h.0.mlp.c_fc.weight")->shape == std::vector<index_t>{24, 40});
  CHECK(file.find("lm_head.weight") == nullptr);
  CHECK(config_in(folder)["n_inner"] == 40);
  const auto config = read_gpt2_config(folder.path());
  CHECK((config.hidden_act == "gelu" && config.layer_norm_eps == 1e-6 && config.bos_token_id == 3 && config.eos_token_ids == std::vector{4}));
  auto loaded = load_gpt2<float>(folder.path());
  CHECK(near(test::logits_of(loaded, test::two_sequences), before, 1e-5));
}

TEST_CASE("encoders and classifiers are saved under their published names") {
  const test::temporary_folder folder;
  auto encoder = test::small_bert<float>();
  attach(encoder, targets({"query", "output.dense"}), lora_options{.rank = 2});
  test::disturb_adapters(encoder);
  save_model(encoder, folder.path());
  auto loaded = load_bert<float>(folder.path());
  CHECK(near(test::pooled_by(loaded, test::two_sequences, pooling::pooler), test::pooled_by(encoder, test::two_sequences, pooling::pooler), 1e-5));
  CHECK(config_in(folder)["architectures"] == json{"BertModel"});

  bert_classifier<float> classifier(encoder, 3, pooling::pooler);
  initialize(classifier.classifier, 4, 0.2);
  save_model(classifier, folder.path());
  CHECK(read_label_count(folder.path()) == 3);
  CHECK(config_in(folder)["label2id"]["LABEL_2"] == 2);
  auto again = load_bert_classifier<float>(folder.path(), 3);
  context ctx;
  tape<float> t(ctx, recording::off);
  const auto expected = tensor<float, 2>::copy_of(classifier.logits(t, test::two_sequences).value);
  CHECK(near(again.logits(t, test::two_sequences).value, tensor_view<const float, 2>(expected), 1e-5));
  classifier.pool = pooling::mean;
  CHECK_THROWS_WITH(save_model(classifier, folder.path()), "save_model: published classifiers pool by the pooler, this one by the mean; save its encoder, "
                                                           "and its head with save_state()");
}

TEST_CASE("what cannot be saved is refused by name, and the old folder stays") {
  const test::temporary_folder folder;
  auto m = with_adapter();
  save_model(m, folder.path());
  const auto weights = test::read_file(folder / "model.safetensors"), config = test::read_file(folder / "config.json");
  const auto unchanged = [&] {
    return test::read_file(folder / "model.safetensors") == weights && test::read_file(folder / "config.json") == config &&
           std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 2;
  };
  auto broken = with_adapter();
  const lora<float>* l = broken.model.layers[1].mlp.down_proj.adapters[0].adapter.get<lora<float>>();
  const_cast<lora<float>*>(l)->b.weight.value()[5] = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_WITH(save_model(broken, folder.path()), "save_model: model.layers.1.mlp.down_proj.weight holds NaN or infinity");
  const_cast<lora<float>*>(l)->b.weight.value()[5] = 1e7f;
  CHECK_THROWS_WITH(save_model(broken, folder.path(), {.type = dtype::f16}), "save_model: model.layers.1.mlp.down_proj.weight goes beyond the range of f16");
  CHECK_THROWS_WITH(save_model(m, folder.path(), {.type = dtype::i8}), "save_model: i8 is not one of f64, f32, bf16, f16");
  auto cannot = test::small_llama<float>(1);
  attach(cannot, targets({"o_proj"}), [](const adapter_site&) { return unmergeable(); });
  CHECK_THROWS_WITH(save_model(cannot, folder.path()), "save_model: model.layers.0.self_attn.o_proj: it depends on the batch");
  auto pruned = test::small_llama<float>(1);
  pruned.model.layers[0].mlp.up_proj.weight = parameter<float, 2>({30, 32});
  CHECK_THROWS_WITH(save_model(pruned, folder.path()), "save_model: model.layers.0.mlp.up_proj.weight has shape (30, 32), not (44, 32) as its config says: "
                                                       "a pruned model has no published form");
  llama<float> empty(test::small_llama_config(1));
  CHECK_THROWS_AS(save_model(empty, folder.path()), state_error);
  CHECK(unchanged());

  test::write_file(folder / "file", "");
  CHECK_THROWS_WITH(save_model(m, folder / "file"), Catch::Matchers::StartsWith("cannot make the folder \"" + (folder / "file").string() + "\": "));
  std::filesystem::remove(folder / "file");
  auto larger = with_adapter(test::small_llama<float>(3));
  for (const rlim_t room : {100, 5000, 60'000}) {
    std::string message;
    {
      const test::small_disk limit(room);
      try {
        save_model(larger, folder.path());
      } catch (const io_error& e) {
        message = e.what();
      }
    }
    CHECK(message == "cannot write \"" + (folder / "model.safetensors").string() + "\": File too large");
    CHECK(unchanged());
  }
}

TEST_CASE("a model is saved over the folder it is mapped from") {
  const test::temporary_folder folder;
  auto m = test::small_llama<float>(2);
  save_model(m, folder.path());
  auto mapped = with_adapter(load_llama<float>(folder.path()));
  const auto before = test::logits_of(mapped, test::two_sequences);
  save_model(mapped, folder.path());
  CHECK(test::equal_bits(test::logits_of(mapped, test::two_sequences), before));
  auto loaded = load_llama<float>(folder.path());
  CHECK(near(test::logits_of(loaded, test::two_sequences), before, 1e-5));
}
