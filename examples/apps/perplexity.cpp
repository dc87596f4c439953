// SPDX-License-Identifier: Apache-2.0
// How well a causal language model predicts a text.
#include "common/adapters.hpp"
#include "common/corpus.hpp"
#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/text.hpp"

int main(int argc, char** argv) {
  CLI::App cli("Mean next-token negative log-likelihood of a text, in nats. The text is cut into disjoint windows; every token of a window "
               "but its first is scored.", "perplexity");
  std::string model_path, text;
  std::vector<std::string> adapters;
  bool merge = false;
  graft::index_t sequence = 256, limit = 0;
  app::common_options common;
  cli.add_option("MODEL", model_path, "Checkpoint folder")->required();
  cli.add_option("--text", text, "Text file")->required();
  app::add_adapter_option(cli, adapters);
  cli.add_flag("--merge", merge, "Fold the adapters into the weights first");
  cli.add_option("--seq", sequence, "Tokens in a window")->check(CLI::Range(2, 1 << 20));
  cli.add_option("--limit-tokens", limit, "Score at most so many tokens; 0: all")->check(CLI::NonNegativeNumber);
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    graft::thread_pool pool(common.threads);
    graft::context ctx(pool);
    auto model = graft::load_llama<float>(model_path);
    const auto words = graft::load_tokenizer(model_path);
    app::load_adapters(model, adapters);
    if (merge) graft::merge_adapters(model);
    const auto ids = words.encode(app::read_text(text)).ids;
    if (ids.size() < 2) graft::throw_error<graft::format_error>("\"", text, "\" gives ", ids.size(), " tokens, expected 2 or more");
    const app::stopwatch clock;
    app::progress progress("scoring", static_cast<double>(limit > 0 ? limit : static_cast<graft::index_t>(ids.size())), "tokens");
    const auto s = app::evaluate(ctx, model, ids, sequence, limit, &progress);
    std::printf("nll %.6f nats a token, perplexity %.4f, %td tokens\n", s.nll, std::exp(s.nll), s.tokens);
    common.write({{"nll", s.nll}, {"tokens", s.tokens}, {"seconds", clock.seconds()}});
  });
}
