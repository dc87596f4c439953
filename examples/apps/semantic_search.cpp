// SPDX-License-Identifier: Apache-2.0
// Search in a package catalogue that learns from clicks: a map of the query vectors, and no document embedded twice.
#include <algorithm>
#include <functional>
#include <set>

#include "common/app.hpp"
#include "common/table.hpp"
#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/methods/post_pool_adapter.hpp"
#include "graft/text.hpp"

namespace {

using graft::index_t;
using matrix = graft::tensor<float, 2>;
using matrix_view = graft::tensor_view<const float, 2>;

struct package {
  std::string title, body;
};

/// One package of every source that has a long description, shuffled, the first `limit` of them.
std::vector<package> read_packages(const std::string& path, index_t limit, std::uint64_t seed) {
  std::vector<package> all;
  std::set<std::string> sources;
  for (auto& row : app::read_table(path, 5))
    if (!row[4].empty() && sources.insert(row[2]).second) all.push_back({std::move(row[3]), app::unescape_lines(row[4])});
  graft::random_stream(seed).substream("packages").shuffle(std::span(all));
  all.resize(std::min(all.size(), static_cast<std::size_t>(limit)));
  if (all.size() < 100)
    graft::throw_error<graft::format_error>("\"", path, "\" has ", all.size(), " sources with a long description, expected 100 or more");
  return all;
}

/// A vector of length 1 for every text.
matrix embed(graft::context& ctx, graft::bert<float>& model, const graft::tokenizer& words, const std::vector<std::string_view>& texts,
             index_t max_length, const char* title) {
  matrix all({std::ssize(texts), model.config.hidden_size});
  app::progress progress(title, static_cast<double>(texts.size()), "texts");
  const std::size_t most_tokens = 4096;  // of a pass
  for (std::size_t next = 0; next < texts.size();) {
    const std::size_t first = next;
    graft::token_batch batch;
    for (; next < texts.size() && batch.ids.size() < most_tokens; ++next) {
      const auto e = words.encode(texts[next], {.max_length = max_length});
      batch.add(e.ids, e.type_ids);
    }
    graft::tape<float> t(ctx, graft::recording::off);
    const auto y = graft::l2_normalise(t, model.pooled(t, batch, graft::pooling::mean));
    std::copy_n(y.value.data, y.value.size(), &all(static_cast<index_t>(first), 0));
    progress.at(static_cast<double>(next));
  }
  return all;
}

/// Where the documents that were asked for stand in the results: 1 is first.
struct quality {
  double recall_1 = 0, recall_10 = 0, mrr = 0;
  std::vector<index_t> ranks;

  app::results json() const { return {{"recall_at_1", recall_1}, {"recall_at_10", recall_10}, {"mrr", mrr}}; }
};

/// Query i asks for document first + i; every document is searched. A tie counts against the right one.
quality search_all(graft::context& ctx, graft::post_pool_adapter<float>* personal, matrix_view queries, matrix_view documents, index_t first) {
  quality q;
  const index_t n = queries.shape[0], block = 128;
  for (index_t from = 0; from < n; from += block) {
    graft::tape<float> t(ctx, graft::recording::off);
    auto some = t.constant(queries.slice(0, from, std::min(n, from + block)));
    if (personal != nullptr) some = (*personal)(t, some);
    auto scores = t.empty<2>({some.shape()[0], documents.shape[0]});
    graft::kernel::matmul_nt<float>(ctx, some.value, documents, scores.value);
    for (index_t i = 0; i < some.shape()[0]; ++i) {
      const auto row = scores.value.row(i).span();
      q.ranks.push_back(std::ranges::count_if(row, [own = row[static_cast<std::size_t>(first + from + i)]](float s) { return s >= own; }));
    }
  }
  const auto within = [&](index_t most) {
    return static_cast<double>(std::ranges::count_if(q.ranks, [most](index_t r) { return r <= most; })) / static_cast<double>(n);
  };
  q.recall_1 = within(1);
  q.recall_10 = within(10);
  for (const index_t r : q.ranks) q.mrr += 1 / static_cast<double>(r);
  q.mrr /= static_cast<double>(n);
  return q;
}

/// The documents that come first for a query of length 1, best first.
std::vector<index_t> best(graft::context& ctx, std::span<const float> query, matrix_view documents, index_t count) {
  std::vector<float> scores(static_cast<std::size_t>(documents.shape[0]));
  const graft::tensor_view<float, 2> row(scores.data(), {1, documents.shape[0]});
  graft::kernel::matmul_nt<float>(ctx, matrix_view(query.data(), {1, documents.shape[1]}), documents, row);
  std::vector<index_t> order(scores.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<index_t>(i);
  const auto middle = order.begin() + std::min<std::ptrdiff_t>(count, std::ssize(order));
  std::ranges::partial_sort(order, middle, std::ranges::greater{}, [&](index_t i) { return scores[static_cast<std::size_t>(i)]; });
  order.erase(middle, order.end());
  return order;
}

struct learning {
  std::vector<double> seconds;  // of every update
  /// The time that this share of the updates takes at most.
  double within(double share) {
    std::ranges::sort(seconds);
    return seconds[static_cast<std::size_t>(share * static_cast<double>(seconds.size() - 1))];
  }
};

/// A user searches for every training query once, sees the best `shown` of the training documents, and clicks the right one.
learning learn(graft::context& ctx, graft::post_pool_adapter<float>& personal, matrix_view queries, matrix_view documents, index_t shown, std::uint64_t seed) {
  std::vector<index_t> order(static_cast<std::size_t>(queries.shape[0]));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<index_t>(i);
  graft::random_stream(seed).substream("clicks").shuffle(std::span(order));
  graft::context one_core;  // what is timed runs on the calling thread
  learning l;
  app::progress progress("learning", static_cast<double>(order.size()), "clicks");
  matrix seen({shown, documents.shape[1]});
  for (const index_t i : order) {
    index_t rows = 0;
    if (shown > 0)
      for (const index_t j : best(ctx, personal(queries.row(i).span()), documents, shown))
        if (j != i) std::ranges::copy(documents.row(j).span(), &seen(rows++, 0));
    const app::stopwatch clock;
    personal.learn(one_core, queries.row(i).span(), documents.row(i).span(), std::as_const(seen).view().slice(0, 0, rows));
    l.seconds.push_back(clock.seconds());
    progress.at(static_cast<double>(l.seconds.size()));
  }
  return l;
}

void print(const char* name, const quality& q) {
  std::printf("%-34s recall@1 %6.2f %%   recall@10 %6.2f %%   MRR %.4f\n", name, 100 * q.recall_1, 100 * q.recall_10, q.mrr);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App cli("Searches the long descriptions of a package catalogue by their short ones, and learns from clicks.", "semantic_search");
  std::string model_path, tsv, out, query;
  index_t limit = 6000, max_length = 64;
  graft::post_pool_options o{.shown = 5};
  app::common_options common;
  cli.add_option("MODEL", model_path, "Checkpoint folder of a BERT-type sentence encoder, all-MiniLM-L6-v2 say")->required();
  cli.add_option("--tsv", tsv, "Catalogue of examples/catalogue.sh: section, client, source, title, body")->required();
  cli.add_option("--limit", limit, "Packages to index, one of every source")->check(CLI::Range(100, 1 << 24));
  cli.add_option("--max-length", max_length, "Longer texts are cut to so many tokens")->check(CLI::Range(3, 1 << 16));
  cli.add_option("--rank", o.rank, "Of the change of a query");
  cli.add_option("--lr", o.lr, "Learning rate");
  cli.add_option("--temperature", o.temperature, "Of the contrast between documents");
  cli.add_option("--proximity", o.proximity, "How strongly queries are held where they were");
  cli.add_option("--max-shift", o.max_shift, "The longest change of a query of length 1");
  cli.add_option("--memory", o.memory, "Documents and clicks that are remembered");
  cli.add_option("--replay", o.replay, "Remembered clicks learned again with every new one");
  cli.add_option("--shown", o.shown, "Results the user sees for a training query")->check(CLI::Range(0, 1000));
  cli.add_option("--query", query, "Also search for this text, and print the first five titles");
  cli.add_option("--out", out, "Write the learned map to this safetensors file");
  cli.add_option("--seed", o.seed, "Of the choice of packages, the order of clicks, and the map's first values");
  common.add_to(cli);
  return app::main(cli, argc, argv, [&] {
    const app::stopwatch clock;
    graft::thread_pool pool(common.threads);
    graft::context ctx(pool);
    auto model = graft::load_bert<float>(model_path);
    const auto words = graft::load_tokenizer(model_path);
    graft::post_pool_adapter<float> personal(model.config.hidden_size, o);
    const auto packages = read_packages(tsv, limit, o.seed);
    const index_t length = std::min(max_length, model.config.max_position_embeddings);
    std::vector<std::string_view> titles, bodies;
    for (const auto& p : packages) {
      titles.push_back(p.title);
      bodies.push_back(p.body);
    }
    const app::stopwatch embedding;
    const matrix all_queries = embed(ctx, model, words, titles, length, "embedding titles");
    const matrix all_documents = embed(ctx, model, words, bodies, length, "embedding descriptions");
    const double embed_seconds = embedding.seconds();

    // Sources, and so packages, are apart: 60 % are learned from, 15 % decide whether the map is kept, 25 % are reported.
    const index_t n = std::ssize(packages), train = n * 60 / 100, test = n * 75 / 100;
    const matrix_view queries = all_queries, documents = all_documents;
    const auto validation_queries = queries.slice(0, train, test), test_queries = queries.slice(0, test, n);
    std::printf("%td packages embedded in %.0f s: %td to learn from, %td for the gate, %td held out\n", n, embed_seconds, train, test - train, n - test);
    const auto gate_before = search_all(ctx, nullptr, validation_queries, documents, train), before = search_all(ctx, nullptr, test_queries, documents, test);
    auto clicks = learn(ctx, personal, queries.slice(0, 0, train), documents.slice(0, 0, train), o.shown, o.seed);
    const auto gate_after = search_all(ctx, &personal, validation_queries, documents, train);
    const bool kept = gate_after.recall_10 >= gate_before.recall_10 && gate_after.recall_1 >= gate_before.recall_1;
    const auto learned = search_all(ctx, &personal, test_queries, documents, test);
    const quality& after = kept ? learned : before;

    print("gate, before learning:", gate_before);
    print("gate, after learning:", gate_after);
    std::printf("the gate %s the map\n", kept ? "keeps" : "refuses");
    print("held out, before learning:", before);
    print("held out, after learning:", after);
    index_t gained = 0, lost = 0;
    for (std::size_t i = 0; i < before.ranks.size(); ++i) {
      gained += before.ranks[i] > 10 && after.ranks[i] <= 10;
      lost += before.ranks[i] <= 10 && after.ranks[i] > 10;
    }
    std::printf("%td of %td held-out queries enter the first ten, %td leave it\n", gained, n - test, lost);
    const std::size_t map_bytes = static_cast<std::size_t>(2 * o.rank * personal.dimension()) * sizeof(float);
    std::printf("an update takes %.2f ms on one core (median; 99 %% take %.2f ms at most); state %zu bytes, of which the map is %zu; %.0f s in all\n",
                1e3 * clicks.within(0.5), 1e3 * clicks.within(0.99), personal.bytes(), map_bytes, clock.seconds());
    if (!query.empty()) {
      const matrix plain = embed(ctx, model, words, {query}, length, "embedding the query");
      const auto list = [&](const char* name, std::span<const float> q) {
        std::printf("\"%s\" %s:\n", query.c_str(), name);
        for (const index_t i : best(ctx, q, documents, 5)) std::printf("  %s\n", packages[static_cast<std::size_t>(i)].title.c_str());
      };
      list("before learning", plain.row(0).span());
      if (kept) list("after learning", personal(plain.row(0).span()));
    }
    if (!out.empty() && kept) graft::save_safetensors(out, graft::save_state(personal));
    if (!out.empty() && !kept) std::printf("the map was refused: \"%s\" is not written\n", out.c_str());
    common.write({{"before", before.json()},
                  {"after", after.json()},
                  {"learned", learned.json()},
                  {"gate", {{"before", gate_before.json()}, {"after", gate_after.json()}, {"kept", kept}}},
                  {"documents", n},
                  {"pairs_learned", train},
                  {"heldout_queries", n - test},
                  {"entered_first_ten", gained},
                  {"left_first_ten", lost},
                  {"update_seconds", clicks.within(0.5)},
                  {"update_seconds_99_percent", clicks.within(0.99)},
                  {"state_bytes", personal.bytes()},
                  {"map_bytes", map_bytes},
                  {"embed_seconds", embed_seconds},
                  {"seconds", clock.seconds()},
                  {"peak_rss_bytes", app::peak_rss_bytes()}});
  });
}
