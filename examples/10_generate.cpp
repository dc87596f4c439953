// SPDX-License-Identifier: Apache-2.0
// The tour, 10: generation. Sampling, streaming, and a cache that makes every new token cost one row.
// Read next: 11_cost.cpp.
// Ends with: with and without the cache the model writes the same 24 tokens
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <span>
#include <vector>

#include "graft/graft.hpp"

int main() {
  graft::thread_pool pool;
  graft::context ctx(pool);
  graft::llama<float> model(graft::llama_config::stories_260k());
  graft::initialize(model, 1, 0.08);  // random weights: the tokens mean nothing, the mechanism is the real one
  graft::freeze(model);
  const std::vector<std::int32_t> prompt{1, 17, 200, 33};

  // [excerpt sample]
  const graft::generate_options options{.max_tokens = 24, .sampling = {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .seed = 7}, .stop = {2}};
  std::printf("sampled:");
  graft::generate(ctx, model, prompt, options, [](std::int32_t token) {  // sees every token at once
    std::printf(" %d", token);
    return true;  // false ends the generation
  });
  std::printf("\n");
  // [/excerpt sample]

  // [excerpt greedy]
  const auto written = graft::generate(ctx, model, prompt, {.max_tokens = 24});  // temperature 0: always the likeliest
  // [/excerpt greedy]

  // [excerpt cache]
  auto cache = model.make_cache(64);  // keys and values of up to 64 tokens
  graft::token_batch batch;
  batch.add(prompt);
  {
    graft::tape<float> t(ctx, graft::recording::off);
    model.hidden(t, batch, &cache);  // the prompt, once
  }
  std::printf("the cache holds %td of %td tokens\n", cache.length(), cache.capacity());
  // [/excerpt cache]

  // The same without a cache: the whole text again for every token.
  std::vector<std::int32_t> text = prompt;
  for (int i = 0; i < 24; ++i) {
    batch.clear();
    batch.add(text);
    graft::tape<float> t(ctx, graft::recording::off);
    const auto scores = model.logits(t, batch).value;
    text.push_back(static_cast<std::int32_t>(graft::argmax(scores.row(scores.shape[0] - 1))));
  }
  const bool same = std::ranges::equal(written, std::span(text).subspan(prompt.size()));
  std::printf("with and without the cache the model writes %s %zu tokens\n", same ? "the same" : "DIFFERENT", written.size());
}
