// SPDX-License-Identifier: Apache-2.0
// Search by meaning inside another program: notes MODEL_FOLDER QUERY NOTE... Without arguments it only shows that it compiles.
// Ends with: usage: notes
#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/text.hpp"

namespace {

// [excerpt index]
/// Notes as vectors of length 1. One object serves one thread at a time; several may share a pool.
class note_index {
 public:
  note_index(graft::thread_pool& pool, const std::string& folder)
      : ctx_(pool), model_(graft::load_bert<float>(folder)), words_(graft::load_tokenizer(folder)) {}

  void add(std::string note) {
    auto row = embed({note});
    vectors_ = notes_.empty() ? std::move(row) : graft::concatenate(0, vectors_, row);
    notes_.push_back(std::move(note));
  }
  /// The k notes nearest to a query, nearest first.
  std::vector<std::string> search(const std::string& query, graft::index_t k) {
    const auto scores = graft::matmul(vectors_, embed({query}).row(0));
    const auto best = graft::top_k(scores, std::min(k, scores.size()));
    std::vector<std::string> found;
    for (const auto i : best.indices.span()) found.push_back(notes_[static_cast<std::size_t>(i)]);
    return found;
  }

 private:
  graft::tensor<float, 2> embed(const std::vector<std::string>& texts) {
    graft::token_batch batch;  // texts of different lengths, no padding
    for (const auto& text : texts) batch.add(words_.encode(text, {.max_length = model_.config.max_position_embeddings}).ids);
    graft::tape<float> t(ctx_, graft::recording::off);
    const auto x = model_.pooled(t, batch, graft::pooling::mean).value;
    return x / graft::insert_axis(graft::sqrt(graft::sum(x * x, 1)), 1);
  }

  graft::context ctx_;
  graft::bert<float> model_;
  graft::tokenizer words_;
  std::vector<std::string> notes_;
  graft::tensor<float, 2> vectors_;
};
// [/excerpt index]

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::printf("usage: notes MODEL_FOLDER QUERY NOTE...\n");
    return 0;
  }
  // [excerpt search]
  graft::thread_pool pool;
  note_index notes(pool, argv[1]);
  for (int i = 3; i < argc; ++i) notes.add(argv[i]);
  for (const auto& note : notes.search(argv[2], 3)) std::printf("%s\n", note.c_str());
  // [/excerpt search]
}
