// SPDX-License-Identifier: Apache-2.0
#include "graft/io/model_config.hpp"

#include <nlohmann/json.hpp>

#include "support/catch.hpp"
#include "support/data.hpp"

using namespace graft;
using nlohmann::json;

namespace {

json_node parsed(const json& j) {
  const std::string text = j.dump();
  return parse_json(std::as_bytes(std::span(text)), "config.json");
}

// As published with Llama 3.2, 1 B.
json llama3() {
  return {{"architectures", {"LlamaForCausalLM"}}, {"attention_bias", false}, {"attention_dropout", 0.0}, {"bos_token_id", 128000},
          {"eos_token_id", {128001, 128008, 128009}}, {"head_dim", 64}, {"hidden_act", "silu"}, {"hidden_size", 2048},
          {"initializer_range", 0.02}, {"intermediate_size", 8192}, {"max_position_embeddings", 131072}, {"mlp_bias", false},
          {"model_type", "llama"}, {"num_attention_heads", 32}, {"num_hidden_layers", 16}, {"num_key_value_heads", 8},
          {"pretraining_tp", 1}, {"rms_norm_eps", 1e-05},
          {"rope_scaling", {{"factor", 32.0}, {"high_freq_factor", 4.0}, {"low_freq_factor", 1.0},
                            {"original_max_position_embeddings", 8192}, {"rope_type", "llama3"}}},
          {"rope_theta", 500000.0}, {"tie_word_embeddings", true}, {"torch_dtype", "bfloat16"}, {"use_cache", true}, {"vocab_size", 128256}};
}
// As published with Qwen2 0.5 B.
json qwen2() {
  return {{"architectures", {"Qwen2ForCausalLM"}}, {"attention_dropout", 0.0}, {"bos_token_id", 151643}, {"eos_token_id", 151643},
          {"hidden_act", "silu"}, {"hidden_size", 896}, {"intermediate_size", 4864}, {"max_position_embeddings", 131072},
          {"max_window_layers", 24}, {"model_type", "qwen2"}, {"num_attention_heads", 14}, {"num_hidden_layers", 24},
          {"num_key_value_heads", 2}, {"rms_norm_eps", 1e-06}, {"rope_theta", 1000000.0}, {"sliding_window", 131072},
          {"tie_word_embeddings", true}, {"use_sliding_window", false}, {"vocab_size", 151936}};
}
// As published with MiniLM L6.
json minilm() {
  return {{"_name_or_path", "nreimers/MiniLM-L6-H384-uncased"}, {"architectures", {"BertModel"}}, {"attention_probs_dropout_prob", 0.1},
          {"gradient_checkpointing", false}, {"hidden_act", "gelu"}, {"hidden_dropout_prob", 0.1}, {"hidden_size", 384},
          {"intermediate_size", 1536}, {"layer_norm_eps", 1e-12}, {"max_position_embeddings", 512}, {"model_type", "bert"},
          {"num_attention_heads", 12}, {"num_hidden_layers", 6}, {"pad_token_id", 0}, {"position_embedding_type", "absolute"},
          {"type_vocab_size", 2}, {"use_cache", true}, {"vocab_size", 30522}};
}
json with(json j, const char* key, json value) {
  j[key] = std::move(value);
  return j;
}
json without(json j, const char* key) {
  j.erase(key);
  return j;
}
std::string complaint_about_llama(const json& j) {
  try {
    read_llama_config(parsed(j));
  } catch (const format_error& e) {
    return e.what();
  }
  return "";
}
std::string complaint_about_bert(const json& j) {
  try {
    read_bert_config(parsed(j));
  } catch (const format_error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a published Llama 3 config is read in every part") {
  const llama_config c = read_llama_config(parsed(llama3()));
  CHECK(c.vocab_size == 128256);
  CHECK(c.hidden_size == 2048);
  CHECK(c.intermediate_size == 8192);
  CHECK(c.num_hidden_layers == 16);
  CHECK(c.num_attention_heads == 32);
  CHECK(c.num_key_value_heads == 8);
  CHECK(c.head_dim == 64);
  CHECK(c.max_position_embeddings == 131072);
  CHECK(c.rms_norm_eps == 1e-5);
  CHECK(c.tie_word_embeddings);
  CHECK_FALSE((c.qkv_bias || c.output_bias || c.mlp_bias));
  CHECK(c.bos_token_id == 128000);
  CHECK(c.eos_token_ids == std::vector<std::int32_t>{128001, 128008, 128009});
  CHECK(c.rotary.scaling == "llama3");
  CHECK(c.rotary.theta == 500000);
  CHECK(c.rotary.factor == 32);
  CHECK(c.rotary.low_frequency_factor == 1);
  CHECK(c.rotary.high_frequency_factor == 4);
  CHECK(c.rotary.original_max_positions == 8192);
}

TEST_CASE("rotary settings are read as transformers 5 writes them too") {
  auto j = without(without(llama3(), "rope_theta"), "rope_scaling");
  CHECK(read_llama_config(parsed(j)).rotary.theta == 10000);
  j["rope_parameters"] = {{"rope_type", "linear"}, {"rope_theta", 20000.0}, {"factor", 2.0}};
  const auto c = read_llama_config(parsed(j));
  CHECK(c.rotary.theta == 20000);
  CHECK(c.rotary.scaling == "linear");
  CHECK(c.rotary.factor == 2);
  j["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}}};
  CHECK(complaint_about_llama(j) ==
        "config.json: rope_parameters.full_attention: expected a number or a text: rotary settings by kind of layer are not supported, got an object");
}

TEST_CASE("what a family does without saying so is known") {
  const auto q = read_llama_config(parsed(qwen2()));
  CHECK(q.head_dim == 64);
  CHECK(q.qkv_bias);
  CHECK_FALSE(q.output_bias);
  CHECK(q.eos_token_ids == std::vector<std::int32_t>{151643});
  CHECK(q.max_position_embeddings == 131072);
  CHECK(read_llama_config(parsed(with(with(qwen2(), "use_sliding_window", true), "sliding_window", 4096))).max_position_embeddings == 4096);
  const auto mistral = with(with(llama3(), "model_type", "mistral"), "sliding_window", 4096);
  CHECK(read_llama_config(parsed(mistral)).max_position_embeddings == 4096);
  CHECK(read_llama_config(parsed(with(mistral, "sliding_window", nullptr))).max_position_embeddings == 131072);
  const auto biased = read_llama_config(parsed(with(llama3(), "attention_bias", true)));
  CHECK((biased.qkv_bias && biased.output_bias));
  CHECK(read_llama_config(parsed(without(llama3(), "num_key_value_heads"))).num_key_value_heads == 32);
}

TEST_CASE("a published BERT config is read in every part") {
  const bert_config c = read_bert_config(parsed(minilm()));
  CHECK(c.vocab_size == 30522);
  CHECK(c.hidden_size == 384);
  CHECK(c.intermediate_size == 1536);
  CHECK(c.num_hidden_layers == 6);
  CHECK(c.num_attention_heads == 12);
  CHECK(c.max_position_embeddings == 512);
  CHECK(c.type_vocab_size == 2);
  CHECK(c.layer_norm_eps == 1e-12);
  CHECK(c.hidden_act == "gelu");
  CHECK(read_bert_config(parsed(with(minilm(), "hidden_act", "gelu_pytorch_tanh"))).hidden_act == "gelu_new");
}

TEST_CASE("a GPT-2 config is read in every part, and what it cannot be is refused") {
  const json published{{"model_type", "gpt2"}, {"vocab_size", 50257}, {"n_embd", 768}, {"n_inner", nullptr}, {"n_layer", 12}, {"n_head", 12}, {"n_positions", 1024},
                       {"layer_norm_epsilon", 1e-5}, {"activation_function", "gelu_new"}, {"bos_token_id", 50256}, {"eos_token_id", 50256}};
  const gpt2_config c = read_gpt2_config(parsed(published));
  CHECK(c.hidden_size == 768);
  CHECK(c.intermediate_size == 3072);
  CHECK(c.num_hidden_layers == 12);
  CHECK(c.num_attention_heads == 12);
  CHECK(c.eos_token_ids == std::vector<std::int32_t>{50256});
  const auto complaint = [&](const char* key, json value) {
    try {
      read_gpt2_config(parsed(with(published, key, std::move(value))));
    } catch (const format_error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  CHECK(complaint("n_head", 7) == "config.json: gpt2 config: n_embd 768 is not a multiple of 7 heads");
  CHECK(complaint("n_embd", std::int64_t{1} << 62) == "config.json: gpt2 config: n_embd is 4611686018427387904, expected 1 to 1048576");
  CHECK(complaint("scale_attn_weights", false) == "config.json: scale_attn_weights: expected true: this setting is not supported, got false");
  CHECK(complaint("add_cross_attention", true) == "config.json: add_cross_attention: expected false: this setting is not supported, got true");
  CHECK(complaint("tie_word_embeddings", false) == "config.json: tie_word_embeddings: expected true: an output layer of its own is not supported, got false");
  CHECK(complaint("activation_function", "swish") == "config.json: gpt2 config: activation_function is \"swish\", expected gelu_new, gelu or relu");
}

TEST_CASE("a folder's end tokens are those of its generation config") {
  const test::temporary_folder folder;
  test::write_file(folder / "config.json", qwen2().dump());
  CHECK(model_type(folder.path()) == "qwen2");
  CHECK(read_llama_config(folder.path()).eos_token_ids == std::vector<std::int32_t>{151643});
  test::write_file(folder / "generation_config.json", R"({"eos_token_id": [5, 6], "bos_token_id": 7})");
  CHECK(read_llama_config(folder.path()).eos_token_ids == std::vector<std::int32_t>{5, 6});
  CHECK(read_llama_config(folder.path()).bos_token_id == 7);
  CHECK(read_label_count(folder.path()) == 2);
  test::write_file(folder / "config.json", with(minilm(), "id2label", {{"0", "a"}, {"1", "b"}, {"2", "c"}}).dump());
  CHECK(read_label_count(folder.path()) == 3);
}

TEST_CASE("a model of another kind is refused by name") {
  CHECK(complaint_about_llama(with(llama3(), "model_type", "mamba")) == "config.json: model_type: expected one of llama, mistral, qwen2, got \"mamba\"");
  CHECK(complaint_about_bert(with(minilm(), "model_type", "roberta")) == "config.json: model_type: expected \"bert\", got \"roberta\"");
  CHECK(complaint_about_llama(without(llama3(), "model_type")) == "config.json: has no \"model_type\"");
  CHECK(complaint_about_llama(with(llama3(), "hidden_act", "gelu")) == "config.json: hidden_act: expected \"silu\", got \"gelu\"");
  CHECK(complaint_about_bert(with(minilm(), "position_embedding_type", "relative_key")) ==
        "config.json: position_embedding_type: expected \"absolute\", got \"relative_key\"");
  CHECK(complaint_about_llama(with(llama3(), "rope_scaling", {{"type", "yarn"}, {"factor", 2.0}})) ==
        "config.json: rope_scaling.type: expected one of default, linear, llama3, got \"yarn\"");
  CHECK(complaint_about_llama(with(llama3(), "partial_rotary_factor", 0.5)) ==
        "config.json: partial_rotary_factor: expected 1: partly rotated heads are not supported, got 0.5");
  const test::temporary_folder folder;
  CHECK_THROWS_WITH(model_type(folder.path()), "cannot read \"" + (folder / "config.json").string() + "\": No such file or directory");
}

TEST_CASE("sizes that cannot be are refused before anything is made of them") {
  const auto huge = std::int64_t{1} << 40;
  CHECK(complaint_about_llama(with(llama3(), "vocab_size", huge)) == "config.json: llama config: vocab_size is 1099511627776, expected 1 to 16777216");
  CHECK(complaint_about_llama(with(llama3(), "vocab_size", 0)) == "config.json: llama config: vocab_size is 0, expected 1 to 16777216");
  CHECK(complaint_about_llama(with(llama3(), "num_hidden_layers", 0)) == "config.json: llama config: num_hidden_layers is 0, expected 1 to 4096");
  CHECK(complaint_about_llama(with(llama3(), "num_hidden_layers", huge)) ==
        "config.json: llama config: num_hidden_layers is 1099511627776, expected 1 to 4096");
  CHECK(complaint_about_llama(with(llama3(), "hidden_size", -2048)) == "config.json: llama config: hidden_size is -2048, expected 1 to 1048576");
  CHECK(complaint_about_llama(with(llama3(), "num_key_value_heads", 5)) ==
        "config.json: llama config: 32 attention heads cannot share 5 key-value heads");
  CHECK(complaint_about_llama(with(llama3(), "num_key_value_heads", 64)) ==
        "config.json: llama config: num_key_value_heads is 64, expected 1 to 32");
  CHECK(complaint_about_llama(with(llama3(), "head_dim", 63)) == "config.json: llama config: head_dim is 63, expected an even number");
  CHECK(complaint_about_llama(with(without(llama3(), "head_dim"), "hidden_size", 2056)) ==
        "config.json: hidden_size 2056 is not a multiple of 32 attention heads, and there is no head_dim");
  CHECK(complaint_about_llama(with(without(llama3(), "head_dim"), "num_attention_heads", 0)) ==
        "config.json: llama config: num_attention_heads is 0, expected 1 to 16384");
  // The product of these two is 2^66 elements.
  CHECK(complaint_about_llama(with(with(llama3(), "num_attention_heads", std::int64_t{1} << 33), "head_dim", std::int64_t{1} << 33)) ==
        "config.json: llama config: num_attention_heads is 8589934592, expected 1 to 16384");
  CHECK(complaint_about_llama(with(llama3(), "vocab_size", 9223372036854775808u)) ==
        "config.json: vocab_size: expected an integer from -9223372036854775808 to 9223372036854775807, got 9223372036854775808");
  CHECK(complaint_about_llama(with(llama3(), "hidden_size", 2048.5)) ==
        "config.json: hidden_size: expected an integer from -9223372036854775808 to 9223372036854775807, got 2048.5");
  CHECK(complaint_about_llama(with(llama3(), "rms_norm_eps", 0)) == "config.json: llama config: rms_norm_eps is 0, expected more than 0");
  CHECK(complaint_about_llama(with(llama3(), "rope_theta", -1)) == "config.json: rope_theta is -1, expected more than 0");
  CHECK(complaint_about_bert(with(minilm(), "hidden_size", 385)) ==
        "config.json: bert config: hidden_size 385 is not a multiple of 12 attention heads");
  CHECK(complaint_about_bert(with(minilm(), "vocab_size", huge)) == "config.json: bert config: vocab_size is 1099511627776, expected 1 to 16777216");
  CHECK(complaint_about_bert(with(minilm(), "num_hidden_layers", 0)) == "config.json: bert config: num_hidden_layers is 0, expected 1 to 4096");
}
