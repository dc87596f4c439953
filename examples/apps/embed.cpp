// SPDX-License-Identifier: Apache-2.0
// Sentence vectors from a BERT-type encoder.
#include "common/adapters.hpp"
#include "common/app.hpp"
#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/text.hpp"

int main(int argc, char** argv) {
  CLI::App cli("One vector for every line of a text file, on standard output, numbers apart by spaces.", "embed");
  std::string model_path, text, pool_name = "mean";
  std::vector<std::string> adapters;
  bool normalize = false;
  app::common_options common;
  cli.add_option("MODEL", model_path, "Checkpoint folder of a BERT-type encoder")->required();
  cli.add_option("--text", text, "Text file, one sentence a line")->required();
  app::add_adapter_option(cli, adapters);
  cli.add_option("--pool", pool_name, "How token vectors become one: mean or cls")->check(CLI::IsMember({"mean", "cls"}));
  cli.add_flag("--normalize", normalize, "Scale every vector to length 1");
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    graft::thread_pool pool(common.threads);
    graft::context ctx(pool);
    auto model = graft::load_bert<float>(model_path);
    const auto words = graft::load_tokenizer(model_path);
    app::load_adapters(model, adapters);
    std::vector<std::string> lines;
    const std::string all = app::read_text(text);
    for (std::size_t first = 0; first < all.size();) {
      const std::size_t end = std::min(all.find('\n', first), all.size());
      lines.push_back(all.substr(first, end - first));
      first = end + 1;
    }

    app::results vectors = app::results::array();
    app::progress progress("embedding", static_cast<double>(lines.size()), "lines");
    const graft::index_t most_tokens = 4096;  // of a pass
    for (std::size_t line = 0; line < lines.size();) {
      graft::token_batch batch;
      for (; line < lines.size() && batch.tokens() < most_tokens; ++line) {
        const auto e = words.encode(lines[line], {.max_length = model.config.max_position_embeddings});
        batch.add(e.ids, e.type_ids);
      }
      graft::tape<float> t(ctx, graft::recording::off);
      const auto y = model.pooled(t, batch, pool_name == "mean" ? graft::pooling::mean : graft::pooling::cls);
      for (graft::index_t s = 0; s < y.shape()[0]; ++s) {
        auto row = y.value.row(s).span();
        if (normalize) {
          double square = 0;
          for (const float v : row) square += static_cast<double>(v) * static_cast<double>(v);
          for (float& v : row) v = static_cast<float>(v / std::max(std::sqrt(square), 1e-12));
        }
        for (std::size_t i = 0; i < row.size(); ++i) std::printf("%s%.9g", i == 0 ? "" : " ", static_cast<double>(row[i]));
        std::printf("\n");
        if (!common.json.empty()) vectors.push_back(std::vector<float>(row.begin(), row.end()));
      }
      progress.at(static_cast<double>(line));
    }
    common.write({{"vectors", vectors}});
  });
}
