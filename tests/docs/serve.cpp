// SPDX-License-Identifier: Apache-2.0
// Many adapters over one model: opened from folders, chosen by sequence, exchanged while a thread computes.
// Ends with: alice's adapter was exchanged for bob's while a thread served
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>

#include "graft/graft.hpp"
#include "graft/io.hpp"
#include "graft/io/adapter_registry.hpp"

namespace {

namespace fs = std::filesystem;

graft::token_batch questions(int count) {
  graft::token_batch batch;
  for (int s = 0; s < count; ++s) batch.add(std::vector<std::int32_t>{1, 2, 3 + s});
  return batch;
}

/// Two adapters as somebody trained and saved them.
void write_adapters(const fs::path& folder, const graft::llama<float>& model) {
  for (const char* user : {"alice", "bob"}) {
    auto own = graft::replicate(model);
    graft::attach(own, graft::targets({"q_proj", "v_proj"}), graft::lora_options{.rank = 4});
    for (auto& p : graft::trainable(own)) graft::fill_uniform(p.parameter->value(), graft::random_stream(1).substream(user).substream(p.path), 0.3);
    graft::save_peft(own, folder / user);
  }
}

/// Answers alice until told to stop; `answers` counts, `last` is a number of the last answer.
void answer_alice(const graft::adapter_switch<float>& newest, graft::llama<float> model, const std::atomic<bool>& stop, std::atomic<long>& answers,
                  std::atomic<float>& last) {
  // [excerpt worker]
  graft::context ctx;
  auto version = newest.version();
  auto bank = newest.current();
  graft::use(model, bank);
  while (!stop) {
    if (newest.version() != version) {  // between passes, so that all layers of a pass see one bank
      version = newest.version();
      bank = newest.current();
      graft::use(model, bank);
    }
    const graft::index_t route = bank->find("alice");  // numbers are those of the bank in use
    graft::tape<float> tape(ctx, graft::recording::off, {.routes = {&route, 1}});
    last = model.logits(tape, questions(1)).value(2, 0);
    ++answers;
  }
  // [/excerpt worker]
}

void serve_from(const fs::path& folder, graft::llama<float> model) {
  graft::context ctx;
  // [excerpt open]
  graft::adapter_registry<float> registry;
  registry.add_all(folder);                              // every PEFT folder in it, mapped, by the folders' names
  auto bank = graft::serve(model, graft::all_linear());  // a slot in every layer that an adapter may change
  for (const auto& name : registry.names()) bank = bank->with(name, registry.at(name));
  graft::use(model, bank);
  // [/excerpt open]

  // [excerpt batch]
  const graft::index_t routes[] = {bank->find("alice"), bank->find("bob"), -1};  // one a sequence; -1: the base alone
  graft::tape<float> tape(ctx, graft::recording::off, {.routes = routes});
  const auto logits = model.logits(tape, questions(3));
  // [/excerpt batch]
  std::printf("one batch, three answers: %.4f %.4f %.4f\n", static_cast<double>(logits.value(2, 0)), static_cast<double>(logits.value(5, 0)),
              static_cast<double>(logits.value(8, 0)));

  std::atomic<bool> stop = false;
  std::atomic<long> answers = 0;
  std::atomic<float> last = 0;
  // [excerpt exchange]
  graft::adapter_switch<float> newest(bank);
  std::thread worker([&, own = graft::replicate(model)] { answer_alice(newest, own, stop, answers, last); });  // a model of its own; the base is shared
  // [/excerpt exchange]
  while (answers < 3) std::this_thread::yield();
  const float before = last;
  // [excerpt publish]
  newest.publish(bank->with("alice", registry.at("bob")));  // weights, rank and scale at once, under the number that alice had
  // [/excerpt publish]
  for (const long then = answers; answers < then + 3;) std::this_thread::yield();
  stop = true;
  worker.join();
  const bool changed = last != before;
  std::printf("%ld answers; alice's adapter was %s for bob's while a thread served\n", answers.load(), changed ? "exchanged" : "not exchanged");
}

}  // namespace

int main() {
  std::string folder = (fs::temp_directory_path() / "graft-serve-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) return 1;
  auto model = graft::load_or_make_llama<float>("random:tiny");
  write_adapters(folder, model);
  serve_from(folder, model);
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}
