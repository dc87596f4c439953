// SPDX-License-Identifier: Apache-2.0
// Loading a published model and writing with it: load MODEL_FOLDER PROMPT. Without arguments it only shows that it compiles.
// Ends with: usage: load
#include <cstdint>
#include <cstdio>
#include <string>

#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/text.hpp"

namespace {

void write_on(const std::string& folder, const std::string& prompt) {
  // [excerpt load]
  graft::thread_pool pool;
  graft::context ctx(pool);
  auto model = graft::load_llama<float>(folder);
  const auto words = graft::load_tokenizer(folder);
  // [/excerpt load]

  // [excerpt write]
  graft::stream_decoder text(words);  // whole characters only, as soon as they are certain
  const graft::generate_options options{.max_tokens = 64, .sampling = {.temperature = 0.8, .top_p = 0.95}, .stop = model.config.eos_token_ids};
  graft::generate(ctx, model, words.encode(prompt).ids, options, [&](std::int32_t token) {
    std::printf("%s", text.push(token).c_str());
    return true;
  });
  std::printf("%s\n", text.finish().c_str());
  // [/excerpt write]
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3) write_on(argv[1], argv[2]);
  else std::printf("usage: load MODEL_FOLDER PROMPT\n");
}
