// SPDX-License-Identifier: Apache-2.0
// The tour, 9: files. Arrays and whole states as safetensors, adapters as the folders Python's peft reads and writes.
// Read next: 10_generate.cpp.
// Ends with: the adapter from the folder gives the same logits, bit for bit
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "graft/graft.hpp"
#include "graft/io.hpp"

int main() {
  const auto folder = std::filesystem::temp_directory_path() / "graft_tour_09";
  std::filesystem::create_directories(folder);

  // [excerpt safetensors]
  const auto x = graft::tensor<float, 2>::of({{1, 2, 3}, {4, 5, 6}});
  const graft::state_dict state{{{"x", graft::to_array<float, 2>(x)}}, {{"note", "six numbers"}}};
  graft::save_safetensors(folder / "state.safetensors", state);  // appears whole or not at all
  const auto loaded = graft::load_safetensors(folder / "state.safetensors");
  const graft::array& back = *graft::find(loaded.items, "x");
  std::printf("x: %s %s, %zu bytes\n", graft::name_of(back.type).data(), graft::to_string(back.shape).c_str(), back.bytes.size());
  // [/excerpt safetensors]

  // [excerpt npy]
  graft::save_npy(folder / "x.npy", x);  // numpy.load() reads it
  const auto again = graft::load_npy<float, 2>(folder / "x.npy");
  // [/excerpt npy]
  std::printf("x.npy: %s\n", graft::max_abs_difference(x, again) == 0 ? "equal" : "DIFFERENT");

  graft::context ctx;
  graft::llama<float> model(graft::llama_config::stories_260k());
  graft::initialize(model, 1, 0.08);
  auto fresh = graft::replicate(model);
  graft::freeze(fresh);

  // [excerpt save]
  graft::attach(model, graft::targets({"q_proj", "v_proj"}), graft::lora_options{.rank = 4, .alpha = 8});
  for (auto& p : graft::trainable(model)) graft::fill_uniform(p.parameter->value(), graft::random_stream(2).substream(p.path), 0.3);
  graft::save_peft(model, folder / "adapter", {.task_type = "CAUSAL_LM"});
  // [/excerpt save]
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"})
    std::printf("adapter/%s: %ju bytes\n", name, std::filesystem::file_size(folder / "adapter" / name));

  // [excerpt load]
  graft::load_peft(fresh, folder / "adapter", {.trainable = false});  // throws format_error when it is for another model
  // [/excerpt load]

  // [excerpt refused]
  try {
    graft::llama<float> other(graft::llama_config::tiny());
    graft::load_peft(other, folder / "adapter");
  } catch (const graft::format_error& e) {
    std::printf("refused: %s\n", std::string(e.what()).substr(folder.string().size() + 1).c_str());
  }
  // [/excerpt refused]

  const auto logits = [&](graft::llama<float>& m) {
    graft::token_batch batch;
    batch.add(std::vector<std::int32_t>{1, 17, 200, 33, 8});
    graft::tape<float> t(ctx, graft::recording::off);
    return m.logits(t, batch).value.clone();
  };
  const bool same = graft::max_abs_difference(logits(model), logits(fresh)) == 0;
  std::filesystem::remove_all(folder);
  std::printf("the adapter from the folder %s\n", same ? "gives the same logits, bit for bit" : "DIFFERS");
}
