// SPDX-License-Identifier: Apache-2.0
// The README's first program: readme MODEL_FOLDER TEXT_FILE OUTPUT_FOLDER. Without arguments it only shows that it compiles.
// Ends with: usage: readme
#include <cstdio>
#include <filesystem>

// [excerpt includes]
#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/text.hpp"
// [/excerpt includes]

namespace {

void finetune(const std::filesystem::path& folder, const std::filesystem::path& text, const std::filesystem::path& out) {
  // [excerpt train]
  graft::thread_pool pool;                               // or wrap an executor of your own in ten lines
  graft::context ctx(pool);
  auto model = graft::load_llama<float>(folder);         // a published folder: frozen and memory-mapped
  const auto words = graft::load_tokenizer(folder);

  graft::attach(model, graft::targets({"q_proj", "v_proj"}), graft::lora_options{.rank = 8, .alpha = 16});
  graft::adamw<float> optimizer(graft::trainable(model), {.lr = 2e-4});
  for (const auto& batch : graft::text_batches(words, text, {.sequence = 256})) {
    graft::tape<float> tape(ctx);
    tape.backward(model.loss(tape, batch));
    optimizer.step(ctx);
  }
  graft::save_peft(model, out);                          // Python's peft loads this folder
  // [/excerpt train]
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 4) finetune(argv[1], argv[2], argv[3]);
  else std::printf("usage: readme MODEL_FOLDER TEXT_FILE OUTPUT_FOLDER\n");
}
