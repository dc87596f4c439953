// SPDX-License-Identifier: Apache-2.0
// What the reference checks ask of our models: outputs, losses and gradients, as a safetensors file.
// Usage: model_tool llama|gpt2|bert|classifier MODEL REQUEST.json OUT.safetensors [ADAPTER [SAVED]]: the adapter is saved again there. The request: {"ids": [[...], ...]} and,
// for a classifier, "labels", for a padded batch "mask".
#include <cstdio>
#include <exception>
#include <string>

#include "graft/graft.hpp"
#include "graft/io.hpp"

namespace {

using namespace graft;

template <std::size_t R>
void put(state_dict& out, const std::string& name, tensor_view<const float, R> v) { out.items.emplace_back(name, to_array<float, R>(v)); }

tensor<std::int32_t, 2> matrix(const json_node& rows) {
  const auto lines = rows.as<std::vector<std::vector<std::int32_t>>>();
  tensor<std::int32_t, 2> m({std::ssize(lines), std::ssize(lines.at(0))});
  for (std::size_t i = 0; i < lines.size(); ++i) std::ranges::copy(lines[i], m.row(static_cast<index_t>(i)).data);
  return m;
}

token_batch read_batch(const json_node& request) {
  if (const auto mask = request.optional("mask")) return drop_padding(matrix(request.required("ids")), matrix(*mask));
  token_batch b;
  for (const auto& row : request.required("ids").as<std::vector<std::vector<std::int32_t>>>()) b.add_with_next_labels(row);
  return b;
}

/// Logits, loss, and the gradients of everything trainable under their paths.
template <class M>
void put_results(state_dict& out, M& model, const token_batch& batch) {
  context ctx;
  {
    tape<float> t(ctx, recording::off);
    put<2>(out, "logits", model.logits(t, batch).value);
  }
  tape<float> t(ctx);
  const auto loss = model.loss(t, batch);
  put<0>(out, "loss", loss.value);
  if (!loss.needs_grad()) return;
  t.backward(loss);
  for (auto& p : trainable(model)) {
    const auto g = p.parameter->gradient_values();
    put<1>(out, "grad." + p.path, tensor_view<const float, 1>(g.data(), {std::ssize(g)}));
  }
}

void run_decoder(state_dict& out, auto model, const json_node& request, const char* adapter, const char* saved) {
  if (adapter != nullptr) load_peft(model, adapter);
  if (saved != nullptr) save_peft(model, saved, {.task_type = "CAUSAL_LM"});
  const auto batch = read_batch(request);
  put_results(out, model, batch);
  context ctx;
  const auto first = std::span(batch.ids).first(static_cast<std::size_t>(batch.offsets[1]));
  const auto generated = generate(ctx, model, first, {.max_tokens = 20});
  out.items.emplace_back("generated", to_array<std::int32_t, 1>({generated.data(), {std::ssize(generated)}}));
}

void run_bert(state_dict& out, const std::string& folder, const json_node& request, const char* adapter) {
  context ctx;
  auto model = load_bert<float>(folder);
  if (adapter != nullptr) load_peft(model, adapter);
  const auto batch = read_batch(request);
  tape<float> t(ctx, recording::off);
  put<2>(out, "hidden", model.hidden(t, batch).value);
  put<2>(out, "mean", model.pooled(t, batch, pooling::mean).value);
  if (model.pooler) put<2>(out, "pooler", model.pooled(t, batch, pooling::pooler).value);
}

void run_classifier(state_dict& out, const std::string& folder, const json_node& request, const char* adapter) {
  auto model = load_bert_classifier<float>(folder, read_label_count(folder));
  if (adapter != nullptr) load_peft(model, adapter);
  auto batch = read_batch(request);
  batch.labels = request.required<std::vector<std::int32_t>>("labels");
  put_results(out, model, batch);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: model_tool llama|gpt2|bert|classifier MODEL REQUEST.json OUT.safetensors [ADAPTER [SAVED]]\n");
    return 2;
  }
  try {
    const std::string kind = argv[1];
    const char *adapter = argc > 5 ? argv[5] : nullptr, *saved = argc > 6 ? argv[6] : nullptr;
    const auto request = read_json(argv[3]);
    state_dict out;
    if (kind == "llama") run_decoder(out, load_llama<float>(argv[2]), request, adapter, saved);
    else if (kind == "gpt2") run_decoder(out, load_gpt2<float>(argv[2]), request, adapter, saved);
    else if (kind == "bert") run_bert(out, argv[2], request, adapter);
    else run_classifier(out, argv[2], request, adapter);
    save_safetensors(argv[4], out);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "model_tool: %s\n", e.what());
    return 1;
  }
}
