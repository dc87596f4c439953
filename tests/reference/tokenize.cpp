// SPDX-License-Identifier: Apache-2.0
// Answers requests about one tokenizer, for tokenizers_check.py: one JSON object a line in, one a line out.
//   {"op": "encode", "text": s, "pair": s or null, "special": b, "max_length": n}  ->  {"ids": [...], "type_ids":
//   [...]}
//   {"op": "decode", "ids": [...], "skip": b}                                      ->  {"text": s, "streamed": s}
//   {"op": "time", "file": s, "repeat": n}                                         ->  {"seconds": best, "tokens": n}
// Links graft::text.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "graft/text.hpp"

using graft::token_id;
using nlohmann::json;

static json encode(const graft::tokenizer& words, const json& request) {
  graft::encode_options o;
  o.special_tokens = request.at("special");
  o.max_length = request.at("max_length");
  const std::string text = request.at("text");
  const json& pair = request.at("pair");
  const graft::encoding e =
      pair.is_null() ? words.encode(text, o) : words.encode_pair(text, pair.get<std::string>(), o);
  return {{"ids", e.ids}, {"type_ids", e.type_ids}};
}

static json decode(const graft::tokenizer& words, const json& request) {
  const graft::decode_options o{.skip_special_tokens = request.at("skip")};
  const auto ids = request.at("ids").get<std::vector<token_id>>();
  graft::stream_decoder stream(words, o);
  std::string streamed;
  for (token_id id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  return {{"text", words.decode(ids, o)}, {"streamed", streamed}};
}

static json time_encoding(const graft::tokenizer& words, const json& request) {
  std::ifstream in(request.at("file").get<std::string>(), std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  double best = 1e30;
  std::size_t tokens = 0;
  for (int i = request.at("repeat"); i > 0; --i) {
    const auto start = std::chrono::steady_clock::now();
    tokens = words.encode(text).ids.size();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return {{"seconds", best}, {"tokens", tokens}};
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: tokenize FOLDER_OR_FILE < requests\n");
    return 2;
  }
  try {
    const graft::tokenizer words = graft::load_tokenizer(argv[1]);
    for (std::string line; std::getline(std::cin, line);) {
      const json request = json::parse(line);
      const std::string op = request.at("op");
      const json answer = op == "encode"   ? encode(words, request)
                          : op == "decode" ? decode(words, request)
                                           : time_encoding(words, request);
      std::cout << answer.dump() << '\n' << std::flush;
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "tokenize: %s\n", e.what());
    return 1;
  }
}
