// SPDX-License-Identifier: Apache-2.0
// Tokens one after another with a key-value cache: float, random weights, the likeliest token each time. compare.sh runs it next
// to llama.cpp and to PyTorch; steps.hpp has the options: --tokens are generated after a prompt, --adapter attaches LoRA of rank 8 to all
// linear layers. With --verify it prints the tokens that a saved model generates.
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "graft/core/thread_pool.hpp"
#include "graft/graft.hpp"
#include "graft/io/load_model.hpp"
#include "graft/io/peft_folder.hpp"
#include "support/dtypes.hpp"
#include "support/machine.hpp"
#include "support/steps.hpp"

namespace {

using graft::index_t;

graft::llama<float> make_model(const bench::step_options& o) {
  auto model = graft::load_or_make_llama<float>(o.verify.empty() ? "random:" + o.model : o.verify);
  if (!o.dtype.empty()) graft::store_weights_as(model, bench::parse_dtype(o.dtype));
  if (!o.adapter) return model;
  if (!o.verify.empty()) graft::load_peft(model, std::filesystem::path(o.verify) / "adapter");
  else graft::attach(model, graft::all_linear(), graft::lora_options{.rank = 8, .alpha = 16});
  return model;
}

void decode(const bench::step_options& o) {
  auto model = make_model(o);
  graft::thread_pool pool(o.threads);
  graft::context ctx(pool);
  if (o.int16) ctx.products = graft::product_precision::int16;
  std::vector<std::int32_t> prompt;
  for (long n = 0; n < bench::decode_prompt; ++n) prompt.push_back(static_cast<std::int32_t>(bench::example_token(n, model.config.vocab_size)));
  const double read = static_cast<double>(graft::memory_in_use(ctx, model).weights);

  bench::step_times times;
  double wall = 0, computed = 0;
  const auto lap = [&](std::int32_t) {
    const double now = bench::wall_seconds(), cpu = bench::processor_seconds();
    times.wall.push_back(now - std::exchange(wall, now));
    times.computed.push_back(cpu - std::exchange(computed, cpu));
    return true;
  };
  const auto tokens = graft::generate(ctx, model, prompt, {.max_tokens = o.verify.empty() ? o.tokens + 1 : bench::verified_tokens}, lap);
  if (!o.verify.empty()) {
    for (std::size_t n = 0; n < tokens.size(); ++n) bench::print_value(("token_" + std::to_string(n)).c_str(), tokens[n]);
    return;
  }
  times.wall.erase(times.wall.begin());  // of the prompt
  times.computed.erase(times.computed.begin());
  bench::print_value("peak_rss_mib", bench::peak_rss_bytes() / 1048576);
  bench::print_value("tokens_per_second", 1 / bench::median(times.wall));
  bench::print_value("tokens_per_cpu_second", 1 / bench::median(times.computed));
  bench::print_value("weights_mib", read / 1048576);
  bench::print_value("of_read_bandwidth", read / bench::median(times.wall) / bench::read_bandwidth(static_cast<std::size_t>(read)));
}

}  // namespace

int main(int argc, char** argv) try {
  decode(bench::parse_step_options(argc, argv));
} catch (const std::exception& e) {
  std::fprintf(stderr, "bench_decode: %s\n", e.what());
  return 1;
}
