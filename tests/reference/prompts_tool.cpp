// SPDX-License-Identifier: Apache-2.0
// What prompts_check.py asks of our models: logits and loss with a folder of peft's, and the folder saved again.
// Usage: prompts_tool llama|gpt2 prompt|prefix|norms MODEL FOLDER SAVED OUT.safetensors ID... [/ ID...]...: sequences of one batch.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/io/prompt_folder.hpp"
#include "graft/io/tuned_folder.hpp"

namespace {

using namespace graft;

/// Logits, loss, the gradient of everything trainable, and what greedy decoding continues the first sequence with.
template <class M>
state_dict results(M& model, const token_batch& batch) {
  context ctx;
  state_dict out;
  {
    tape<float> t(ctx, recording::off);
    out.items.emplace_back("logits", to_array<float, 2>(model.logits(t, batch).value));
  }
  tape<float> t(ctx);
  const auto loss = model.loss(t, batch);
  t.backward(loss);
  out.items.emplace_back("loss", to_array<float, 0>(loss.value));
  for (auto& p : trainable(model)) {
    const auto g = p.parameter->gradient_values();
    out.items.emplace_back("grad." + p.path, to_array<float, 1>(tensor_view<const float, 1>(g.data(), {std::ssize(g)})));
  }
  const auto text = generate(ctx, model, std::span(batch.ids).first(static_cast<std::size_t>(batch.offsets[1])), {.max_tokens = 12});
  out.items.emplace_back("generated", to_array<std::int32_t, 1>({text.data(), {std::ssize(text)}}));
  return out;
}

template <class M>
state_dict run(M model, const std::string& kind, const char* folder, const char* saved, const token_batch& batch) {
  if (kind == "prompt") {
    prompted with(std::move(model), load_prompt<float>(folder));
    save_prompt(with, saved);
    return results(with, batch);
  }
  if (kind == "prefix") {
    prefixed with(std::move(model), load_prefix<float>(folder));
    save_prefix(with, saved);
    return results(with, batch);
  }
  load_tuned_norms(model, folder);
  save_tuned_norms(model, saved);
  return results(model, batch);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 8) {
    std::fprintf(stderr, "usage: prompts_tool llama|gpt2 prompt|prefix|norms MODEL FOLDER SAVED OUT.safetensors ID... [/ ID...]...\n");
    return 2;
  }
  try {
    token_batch batch;
    std::vector<std::int32_t> ids;
    for (int i = 7; i <= argc; ++i)
      if (i == argc || std::string(argv[i]) == "/") batch.add_with_next_labels(std::exchange(ids, {}));
      else ids.push_back(std::atoi(argv[i]));
    const std::string model = argv[1], kind = argv[2];
    save_safetensors(argv[6], model == "gpt2" ? run(load_gpt2<float>(argv[3]), kind, argv[4], argv[5], batch)
                                              : run(load_llama<float>(argv[3]), kind, argv[4], argv[5], batch));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "prompts_tool: %s\n", e.what());
    return 1;
  }
}
