// SPDX-License-Identifier: Apache-2.0
#include "graft/io/gguf_lora.hpp"

#include <limits>

#include "support/catch.hpp"
#include "support/model_folder.hpp"
#include "support/near.hpp"
#include "support/small_disk.hpp"

using namespace graft;
using detail::gguf_kind;
using detail::gguf_value;
using test::near;

namespace {

llama<float> with_biases(bool qkv, bool output) {
  auto c = test::small_llama_config(2);
  c.qkv_bias = qkv, c.output_bias = output;
  llama<float> m(c);
  initialize(m, 1, 0.15);
  freeze(m);
  return m;
}
llama<float> with_lora(const lora_options& o = {.rank = 2, .alpha = 6}, const lora_patterns& patterns = {}, llama<float> m = test::small_llama<float>(2)) {
  attach(m, all_linear(), o, patterns);
  test::disturb_adapters(m, 0.2);
  return m;
}

// A file of an adapter, and what load_gguf_lora says about changed ones.
struct saved_gguf {
  test::temporary_folder folder;
  llama<float> model = with_lora();
  std::filesystem::path path = folder / "adapter.gguf";
  std::string bytes;

  saved_gguf() {
    save_gguf_lora(model, path);
    bytes = test::read_file(path);
  }
  detail::gguf_view view() const { return detail::gguf_reader(std::as_bytes(std::span(bytes)), "it").read(); }
  /// Without the file's path, which begins it. The model must be as it was.
  std::string complaint(const std::string& changed, llama<float> onto = test::small_llama<float>(2)) const {
    test::write_file(path, changed);
    const auto before = test::logits_of(onto, test::two_sequences);
    try {
      load_gguf_lora(onto, path);
    } catch (const format_error& e) {
      CHECK(test::equal_bits(test::logits_of(onto, test::two_sequences), before));
      const std::string text = e.what(), start = path.string() + ": ";
      return text.starts_with(start) ? text.substr(start.size()) : text;
    }
    return "";
  }
};

}  // namespace

TEST_CASE("an adapter comes back from GGUF to the bit") {
  saved_gguf s;
  auto m = test::small_llama<float>(2);
  load_gguf_lora(m, s.path, {.name = "other"});
  const auto a = trainable(s.model), b = trainable(m);
  REQUIRE(a.size() == 28);
  REQUIRE(b.size() == 28);
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::ranges::equal(a[i].parameter->bytes(), b[i].parameter->bytes()));
  CHECK(m.model.layers[0].self_attn.q_proj.adapters[0].adapter.get<lora<float>>()->options.alpha == 6);
}

TEST_CASE("the file says what llama.cpp reads: names, reversed shapes, one alpha, interleaved rows") {
  const saved_gguf s;
  const auto v = s.view();
  CHECK(find(v.settings, "general.type")->text == "adapter");
  CHECK(find(v.settings, "general.architecture")->text == "llama");
  CHECK(find(v.settings, "adapter.type")->text == "lora");
  CHECK(find(v.settings, "adapter.lora.alpha")->kind == gguf_kind::f32);
  CHECK(find(v.settings, "adapter.lora.alpha")->number == 6);
  REQUIRE(v.tensors.size() == 28);
  for (const std::string name : {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"})
    for (const std::string factor : {"lora_a", "lora_b"}) CHECK(find(v.tensors, "blk.1." + name + ".weight." + factor) != nullptr);
  // The first tensor's entry, byte by byte: after the name two dimensions, the one that is contiguous first.
  const std::string name = "blk.0.attn_k.weight.lora_b";
  const auto at = s.bytes.find(name) + name.size();
  const auto word = [&](std::size_t offset) { return static_cast<unsigned char>(s.bytes[at + offset]); };
  CHECK(word(0) == 2);    // u32 dimensions
  CHECK(word(4) == 2);    // i64 rank
  CHECK(word(12) == 16);  // i64 outputs: two heads of eight
  CHECK(word(20) == 0);   // u32 f32

  // Heads of eight: rows 0..7 of a head become 0 4 1 5 2 6 3 7. Two key-value heads; values stay.
  const auto& layer = s.model.model.layers[0].self_attn;
  const auto check = [&](std::string_view tensor, const adapted_linear<float>& l, bool interleaved) {
    const auto* a = find(v.tensors, tensor);
    REQUIRE(a != nullptr);
    const auto b = l.adapters[0].adapter.get<lora<float>>()->b.weight.view();
    REQUIRE(a->shape == std::vector<index_t>{b.shape[0], b.shape[1]});
    constexpr index_t order[] = {0, 4, 1, 5, 2, 6, 3, 7};
    for (index_t r = 0; r < b.shape[0]; ++r)
      for (index_t k = 0; k < b.shape[1]; ++k) {
        float got;
        std::memcpy(&got, a->bytes.data() + sizeof got * static_cast<std::size_t>(r * b.shape[1] + k), sizeof got);
        REQUIRE(got == b(interleaved ? r / 8 * 8 + order[r % 8] : r, k));
      }
  };
  check("blk.0.attn_q.weight.lora_b", layer.q_proj, true);
  check("blk.0.attn_k.weight.lora_b", layer.k_proj, true);
  check("blk.0.attn_v.weight.lora_b", layer.v_proj, false);
  check("blk.0.attn_output.weight.lora_b", layer.o_proj, false);
}

TEST_CASE("Qwen2 keeps its rows and has its own architecture") {
  const test::temporary_folder folder;
  auto m = with_lora({.rank = 2, .alpha = 6}, {}, with_biases(true, false));
  save_gguf_lora(m, folder / "q.gguf");
  const std::string bytes = test::read_file(folder / "q.gguf");
  const auto v = detail::gguf_reader(std::as_bytes(std::span(bytes)), "it").read();
  CHECK(find(v.settings, "general.architecture")->text == "qwen2");
  const auto saved_b = find(v.tensors, "blk.1.attn_q.weight.lora_b")->bytes;
  CHECK(std::ranges::equal(saved_b, m.model.layers[1].self_attn.q_proj.adapters[0].adapter.get<lora<float>>()->b.weight.bytes()));
  auto other = with_biases(true, false), llama_kind = with_biases(true, true);
  load_gguf_lora(other, folder / "q.gguf");
  CHECK(near(test::logits_of(other, test::two_sequences), test::logits_of(m, test::two_sequences), 1e-6));
  CHECK_THROWS_WITH(load_gguf_lora(llama_kind, folder / "q.gguf"),
                    Catch::Matchers::EndsWith("general.architecture is \"qwen2\", expected \"llama\""));
}

TEST_CASE("scales that one alpha cannot say go into B") {
  const test::temporary_folder folder;
  const auto check = [&](llama<float> m, double alpha) {
    save_gguf_lora(m, folder / "a.gguf");
    auto other = test::small_llama<float>(2);
    load_gguf_lora(other, folder / "a.gguf");
    CHECK(other.model.layers[1].mlp.up_proj.adapters[0].adapter.get<lora<float>>()->options.scale() ==
          Approx(alpha / static_cast<double>(m.model.layers[1].mlp.up_proj.adapters[0].adapter.get<lora<float>>()->options.rank)));
    CHECK(near(test::logits_of(other, test::two_sequences), test::logits_of(m, test::two_sequences), 1e-5));
  };
  check(with_lora({.rank = 4, .alpha = 6, .rank_stabilised = true}), 12);
  check(with_lora({.rank = 2, .alpha = 6}, {.rank = {{"up_proj", 5}, {"q_proj", 3}}, .alpha = {{"up_proj", 1.5}, {"v_proj", -4}}}), 6);
  check(with_lora({.rank = 2, .alpha = 6, .rank_stabilised = true}, {.rank = {{"up_proj", 5}}, .alpha = {}}), 6 * std::sqrt(2.0));
  check(with_lora({.rank = 2, .alpha = 0}), 1);
}

TEST_CASE("factors are written narrow and read in other types") {
  const test::temporary_folder folder;
  auto m = with_lora({.rank = 32});
  for (const dtype type : {dtype::f16, dtype::bf16}) {
    save_gguf_lora(m, folder / "a.gguf", {.type = type});
    auto other = test::small_llama<float>(2);
    load_gguf_lora(other, folder / "a.gguf", {.trainable = false});
    CHECK(trainable(other).empty());
    CHECK(near(test::logits_of(other, test::two_sequences), test::logits_of(m, test::two_sequences), 0.05));
    CHECK_FALSE(near(test::logits_of(other, test::two_sequences), test::logits_of(m, test::two_sequences), 1e-6));
  }
  CHECK_THROWS_WITH(save_gguf_lora(m, folder / "a.gguf", {.type = dtype::q8_0}), "save_gguf_lora: q8_0 is not one of f32, f16, bf16");
}

TEST_CASE("a file that is cut short anywhere is refused, and so is one with more") {
  const saved_gguf s;
  const auto data = detail::gguf_reader(std::as_bytes(std::span(s.bytes)), "it").read().tensors[0].second.bytes.data() - reinterpret_cast<const std::byte*>(s.bytes.data());
  index_t refused = 0;
  for (index_t n = 0; n < data + 40; ++n) {
    try {
      detail::gguf_reader(std::as_bytes(std::span(s.bytes)).first(static_cast<std::size_t>(n)), "it").read();
    } catch (const format_error&) {
      ++refused;
    }
  }
  CHECK(refused == data + 40);
  CHECK(s.complaint(s.bytes + "x") == "has 1 bytes after its last tensor");
  CHECK(s.complaint("GGML" + s.bytes.substr(4)) == "does not begin with GGUF");
  auto changed = s.bytes;
  changed[4] = 1;
  CHECK(s.complaint(changed) == "is of version 1, expected 2 or 3");
  changed = s.bytes;
  changed[15] = 1;
  CHECK(s.complaint(changed) == concat((std::uint64_t{1} << 56) + 28, " tensors cannot be in ", s.bytes.size(), " bytes"));
  for (std::size_t i = 0; i < static_cast<std::size_t>(data); ++i) {  // whatever a byte of the header becomes, nothing worse than a refusal
    changed = s.bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x81);
    try {
      detail::gguf_reader(std::as_bytes(std::span(changed)), "it").read();
    } catch (const format_error&) {
    }
  }
}

TEST_CASE("an adapter of another kind or for another model is refused") {
  const saved_gguf s;
  const auto v = s.view();
  const auto with = [&](auto change) {
    auto changed = v;
    change(changed);
    return s.complaint(detail::gguf_bytes(changed.settings, changed.tensors));
  };
  CHECK(with([](auto&) {}) == "");
  const auto setting = [](auto& view, std::string_view key) -> gguf_value& {
    return std::ranges::find(view.settings, key, &std::pair<std::string, gguf_value>::first)->second;
  };
  CHECK(with([&](auto& w) { setting(w, "general.type").text = "model"; }) == "general.type is \"model\", expected \"adapter\"");
  CHECK(with([&](auto& w) { w.settings.erase(w.settings.begin() + 2); }) == "adapter.type is absent, expected \"lora\"");
  CHECK(with([&](auto& w) { setting(w, "adapter.lora.alpha").number = std::numeric_limits<double>::infinity(); }) == "adapter.lora.alpha is not a finite f32");
  CHECK(with([&](auto& w) { w.settings.push_back({"adapter.alora.invocation_tokens", {gguf_kind::f32, 1, {}}}); }) ==
        "adapter.alora.invocation_tokens: activated LoRA is not supported");
  CHECK(with([&](auto& w) { w.settings.push_back(w.settings.front()); }) == "setting \"general.type\" appears twice");
  CHECK(with([&](auto& w) { w.tensors.push_back(w.tensors.front()); }) == "tensor \"blk.0.attn_q.weight.lora_a\" appears twice");
  CHECK(with([&](auto& w) { w.tensors.erase(w.tensors.begin()); }) == "blk.0.attn_q.weight has one LoRA factor, expected lora_a and lora_b");
  CHECK(with([&](auto& w) { w.tensors[0].first = "token_embd.weight.lora_a"; w.tensors[1].first = "token_embd.weight.lora_b"; }) ==
        "tensor \"token_embd.weight.lora_a\" is for no linear layer of this model");
  CHECK(with([&](auto& w) { w.tensors.clear(); }) == "holds no LoRA factors for this model");
  CHECK(with([&](auto& w) { w.tensors[0].second.shape = {32, 2}; }) ==
        "blk.0.attn_q.weight has LoRA factors of shapes (32, 2) and (32, 2), the model's layer is (32, 32)");
  std::vector<float> nan(64, std::numeric_limits<float>::quiet_NaN());
  CHECK(with([&](auto& w) { w.tensors[0].second.bytes = std::as_bytes(std::span(nan)); }) ==
        "tensor \"blk.0.attn_q.weight.lora_a\" holds NaN or infinity at element 0");
  // The alpha left out means a scale of 1.
  CHECK(with([&](auto& w) { w.settings.pop_back(); }) == "");
  auto m = test::small_llama<float>(2);
  load_gguf_lora(m, s.path);
  CHECK(m.model.layers[0].self_attn.q_proj.adapters[0].adapter.get<lora<float>>()->options.scale() == 1);
  CHECK_THROWS_WITH(load_gguf_lora(m, s.path), "load_gguf_lora: model.layers.0.self_attn.q_proj already has an adapter named \"default\"");
  CHECK(s.complaint(s.bytes, test::small_llama<float>(1)) == "tensor \"blk.1.attn_q.weight.lora_a\" is for no linear layer of this model");
}

TEST_CASE("what cannot be written leaves the old file") {
  saved_gguf s;
  CHECK_THROWS_WITH(save_gguf_lora(s.model, s.path, {.name = "x"}), "save_gguf_lora: the model has no adapter named \"x\"");
  std::string message;
  {
    const test::small_disk limit(1000);
    try {
      save_gguf_lora(s.model, s.path);
    } catch (const io_error& e) {
      message = e.what();
    }
  }
  CHECK(message == "cannot write \"" + s.path.string() + "\": File too large");
  trainable(s.model)[3].parameter->value()[0] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH(save_gguf_lora(s.model, s.path), "save_gguf_lora: blk.0.attn_k.weight.lora_b is not finite as f32");
  CHECK(test::read_file(s.path) == s.bytes);
}
