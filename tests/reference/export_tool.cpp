// SPDX-License-Identifier: Apache-2.0
// Writes what other programs are to read, for the reference checks: a Llama or GPT-2 with an adapter as a whole model; a Llama's as an
// adapter for llama.cpp, or two adapters merged into one. Usage:
//   export_tool whole MODEL OUT ADAPTER                                  a folder of the merged model
//   export_tool to-gguf MODEL OUT.gguf ADAPTER
//   export_tool from-gguf MODEL OUT ADAPTER.gguf                         a PEFT folder of a GGUF adapter
//   export_tool merge MODEL OUT METHOD RANK DENSITY WEIGHT ADAPTER WEIGHT ADAPTER
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <string>

#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/io/gguf_lora.hpp"
#include "graft/methods/merge.hpp"
#include "support/decompositions.hpp"

namespace {

using namespace graft;

void merge(llama<float>& model, char** arguments) {
  const std::map<std::string, merge_method> methods{{"linear", merge_method::linear}, {"cat", merge_method::cat}, {"svd", merge_method::svd},
                                                    {"ties", merge_method::ties}, {"magnitude_prune", merge_method::magnitude_prune}};
  merge_lora_options o{.method = methods.at(arguments[0]), .rank = std::stol(arguments[1]), .density = std::stod(arguments[2])};
  load_peft(model, arguments[4], {.name = "one"});
  load_peft(model, arguments[6], {.name = "two"});
  merge_adapters_into(model, {"one", "two"}, {std::stod(arguments[3]), std::stod(arguments[5])}, "default", o);
}

template <module M>
void save_whole(M model, const std::string& adapter, const std::string& out) {
  load_peft(model, adapter);
  save_model(model, out);
}

void run(int argc, char** argv) {
  const std::string what = argv[1], out = argv[3];
  const std::filesystem::path folder = argv[2];
  if (what == "whole" && read_json(folder / "config.json").required<std::string>("model_type") == "gpt2")
    return save_whole(load_gpt2<float>(folder), argv[4], out);
  auto model = load_llama<float>(folder);
  if (what == "whole") return save_whole(std::move(model), argv[4], out);
  if (what == "merge" && argc == 11) {
    merge(model, argv + 4);
    save_peft(model, out, {.task_type = "CAUSAL_LM"});
  } else if (what == "from-gguf") {
    load_gguf_lora(model, argv[4]);
    save_peft(model, out, {.task_type = "CAUSAL_LM"});
  } else {
    load_peft(model, argv[4]);
    if (what == "to-gguf") save_gguf_lora(model, out);
    else throw_error<option_error>("unknown request ", what);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: export_tool whole|to-gguf|from-gguf|merge MODEL OUT ADAPTER...\n");
    return 2;
  }
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "export_tool: %s\n", e.what());
    return 1;
  }
}
