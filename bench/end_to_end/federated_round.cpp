// SPDX-License-Identifier: Apache-2.0
// One federated round of 16 clients on a byte-level model of a million parameters, LoRA on all layers, one thread: what
// travels, and how the time divides between learning and everything else.
#include <cstdio>

#include "graft/fed/client.hpp"
#include "graft/fed/fedavg.hpp"
#include "graft/fed/server.hpp"
#include "graft/io/load_model.hpp"
#include "graft/io/update_codec.hpp"
#include "graft/precompiled.hpp"
#include "support/machine.hpp"
#include "support/steps.hpp"

namespace {

using graft::index_t;
constexpr std::uint64_t clients = 16;
constexpr int local_steps = 4, batch_size = 4, sequence = 256;

graft::token_batch random_batch(graft::random_stream random) {
  graft::token_batch batch;
  std::vector<std::int32_t> ids(sequence);
  for (int b = 0; b < batch_size; ++b) {
    for (auto& id : ids) id = static_cast<std::int32_t>(random.below(256));
    batch.add_with_next_labels(ids);
  }
  return batch;
}

/// Seconds of a call, added to a sum.
template <class F>
auto timed(double& sum, F f) {
  const double start = bench::thread_seconds();
  auto result = f();
  sum += bench::thread_seconds() - start;
  return result;
}

}  // namespace

int main() {
  auto model = graft::load_or_make_llama<float>("random:tiny");
  graft::attach(model, graft::all_linear(), graft::lora_options{.rank = 8, .alpha = 16});
  const graft::safetensors_codec codec;
  graft::fed::server server(graft::fed::fedavg{}, graft::fed::shared_part(model));
  graft::context ctx;

  std::vector<double> learning, codecs, serving, client_side;
  double bytes_up = 0, bytes_down = 0;
  for (int round = 0; round < 4; ++round) {  // the first fills the pool
    double learn = 0, code = 0, serve = 0, answer = 0;
    bytes_up = bytes_down = 0;
    const auto broadcast = timed(serve, [&] { return server.begin_round(); });
    const auto down = timed(code, [&] { return codec.encode(broadcast); });
    for (std::uint64_t c = 0; c < clients; ++c) {
      const auto received = timed(code, [&] { return codec.decode_broadcast(down); });
      const auto update = timed(answer, [&] {
        return graft::fed::answer(model, received, c, [&](auto& m) {
          return timed(learn, [&] {
            graft::adamw<float> optimizer(graft::trainable(m), {.lr = 1e-3});
            for (int step = 0; step < local_steps; ++step) {
              const auto batch = random_batch(graft::random_stream(c).substream(static_cast<std::uint64_t>(step)));
              graft::tape<float> t(ctx, graft::recording::on, {.training = true});
              t.backward(m.loss(t, batch));
              optimizer.step(ctx);
            }
            return graft::fed::local_result{local_steps * batch_size, {}};
          });
        });
      });
      const auto up = timed(code, [&] { return codec.encode(update); });
      bytes_up += static_cast<double>(up.size());
      bytes_down += static_cast<double>(down.size());
      const auto refused = timed(serve, [&] { return server.accept(std::span(up), codec); });
      if (refused) return std::printf("client %d was refused\n", static_cast<int>(c)), 1;
    }
    if (!timed(serve, [&] { return server.finish_round(); }).applied) return std::printf("the round failed\n"), 1;
    if (round == 0) continue;
    learning.push_back(learn);
    codecs.push_back(code);
    serving.push_back(serve);
    client_side.push_back(answer - learn);
  }
  using bench::median, bench::print_value;
  const double rss = bench::peak_rss_bytes();  // before the machine is measured, which takes memory too
  std::printf("%s\n", bench::describe_machine().c_str());
  const double tokens = clients * local_steps * batch_size * sequence;
  print_value("bytes_up", bytes_up);
  print_value("bytes_down", bytes_down);
  print_value("seconds_learning", median(learning));
  print_value("seconds_loading_and_diff", median(client_side));
  print_value("seconds_coding", median(codecs));
  print_value("seconds_server", median(serving));
  print_value("share_of_learning", median(learning) / (median(learning) + median(client_side) + median(codecs) + median(serving)));
  print_value("tokens_per_cpu_second", tokens / median(learning));
  print_value("peak_rss_mib", rss / 1048576);
}
