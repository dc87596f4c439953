// SPDX-License-Identifier: Apache-2.0
// Text from a checkpoint folder, token by token.
#include "common/adapters.hpp"
#include "common/app.hpp"
#include "common/storage.hpp"
#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/text.hpp"

int main(int argc, char** argv) {
  CLI::App cli("Continues a prompt with a causal language model. Prints the text, and nothing else, on standard output.", "generate");
  std::string model_path, prompt, dtype = "stored";
  std::vector<std::string> adapters;
  graft::generate_options options;
  options.sampling.temperature = 1;
  bool greedy = false, int16_products = false;
  app::common_options common;
  cli.add_option("MODEL", model_path, "Checkpoint folder, or random:<shape>")->required();
  cli.add_option("--prompt", prompt, "Text to continue")->required();
  cli.add_option("--tokens", options.max_tokens, "Most new tokens")->check(CLI::Range(1, 1 << 20));
  cli.add_flag("--greedy", greedy, "Always the likeliest token");
  cli.add_option("--temperature", options.sampling.temperature, "Divides the scores before sampling");
  cli.add_option("--top-k", options.sampling.top_k, "Sample from the k likeliest tokens; 0: all");
  cli.add_option("--top-p", options.sampling.top_p, "Sample from the likeliest tokens that reach this probability together");
  cli.add_option("--seed", options.sampling.seed, "Of the sampling");
  app::add_adapter_option(cli, adapters);
  app::add_dtype_option(cli, dtype);
  cli.add_flag("--int16-products", int16_products, "With weights in q8 or q4, round each token's activations to 16 bits: faster where decoding weights takes longer than reading them");
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    if (greedy) options.sampling.temperature = 0;
    options.sampling.validate();
    graft::thread_pool pool(common.threads);
    graft::context ctx(pool);
    if (int16_products) ctx.products = graft::product_precision::int16;
    auto model = graft::load_or_make_llama<float>(model_path);
    const auto words = graft::load_tokenizer(model_path);
    app::store_weights(model, dtype);
    app::load_adapters(model, adapters);
    options.stop = model.config.eos_token_ids;

    auto ids = words.encode(prompt).ids;
    if (ids.empty()) graft::throw_error<graft::option_error>("--prompt \"", prompt, "\" gives no tokens");
    const auto prompt_tokens = ids.size();
    graft::stream_decoder text(words);
    for (const auto id : ids) std::fputs(std::string(text.push(id)).c_str(), stdout);
    const app::stopwatch clock;
    const auto fresh = graft::generate(ctx, model, ids, options, [&](std::int32_t id) {
      std::fputs(std::string(text.push(id)).c_str(), stdout);
      return true;
    });
    const double seconds = clock.seconds();
    std::fputs(std::string(text.finish()).c_str(), stdout);
    std::fputc('\n', stdout);
    ids.insert(ids.end(), fresh.begin(), fresh.end());
    const double rate = static_cast<double>(fresh.size()) / seconds;
    std::fprintf(stderr, "%zu tokens, %.0f tokens/s\n", fresh.size(), rate);
    common.write({{"text", words.decode(ids)}, {"ids", ids}, {"prompt_tokens", prompt_tokens}, {"tokens_per_second", rate}});
  });
}
