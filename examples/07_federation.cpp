// SPDX-License-Identifier: Apache-2.0
// The tour, 7: a federation without sockets. The server is a state machine: bytes out, bytes in, any transport between.
// Read next: 08_simulation.cpp.
// Ends with: 2 of 3 replies entered round 2; the NaN was refused as "not finite"
#include <cstdio>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "graft/graft.hpp"
#include "graft/io.hpp"

namespace {

graft::llama<float> make_model() {
  graft::llama<float> model(graft::llama_config::stories_260k());
  graft::initialize(model, 1, 0.08);
  graft::attach(model, graft::all_linear(), graft::lora_options{.rank = 4, .alpha = 8});
  return model;
}

// [excerpt client]
/// One client: what the server said in, the reply out. Its text never leaves this function.
std::vector<std::byte> answer_round(graft::llama<float>& model, graft::fed::client_id id, std::span<const std::byte> message) {
  const graft::safetensors_codec codec;
  const auto update = graft::fed::answer(model, codec.decode_broadcast(message), id, [&](graft::llama<float>& m) {
    graft::token_batch batch;
    batch.add_with_next_labels(std::vector<std::int32_t>{1, 20, static_cast<std::int32_t>(100 + id), 30, 40, 50});
    graft::context ctx;
    graft::adamw<float> optimizer(graft::trainable(m), {.lr = 5e-3, .weight_decay = 0});
    double loss = 0;
    for (int step = 0; step < 5; ++step) {
      graft::tape<float> t(ctx);
      const auto l = m.loss(t, batch);
      loss = static_cast<double>(l.item());
      t.backward(l);
      optimizer.step(ctx);
    }
    return graft::fed::local_result{.samples = 5, .metrics = {{"loss", loss}}};
  });
  return codec.encode(update);
}
// [/excerpt client]

}  // namespace

int main() {
  auto model = make_model();
  const graft::safetensors_codec codec;
  // [excerpt server]
  graft::fed::server server(graft::fed::fedavg(), graft::fed::shared_part(model), {.min_replies = 2});
  for (int round = 0; round < 2; ++round) {
    const auto down = codec.encode(server.begin_round());  // hand these bytes to any transport
    std::size_t up = 0;
    for (const graft::fed::client_id id : {1u, 2u, 3u}) {
      auto client_model = graft::replicate(model);  // shares the frozen base
      const auto reply = answer_round(client_model, id, down);
      up += reply.size();
      server.accept(reply, codec);
    }
    const auto result = server.finish_round();
    std::printf("round %d: %td replies, loss %.3f, %zu bytes down to each, %zu bytes up in all\n", round, result.accepted,
                *graft::find(result.metrics, "loss"), down.size(), up);
  }
  // [/excerpt server]

  // [excerpt refused]
  const auto down = codec.encode(server.begin_round());
  for (const graft::fed::client_id id : {1u, 2u}) server.accept(answer_round(model, id, down), codec);
  graft::fed::update broken = codec.decode_update(answer_round(model, 3, down));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(broken.delta[0].second.bytes.data(), &nan, sizeof nan);
  const auto refusal = server.accept(codec.encode(broken), codec);  // changes nothing, and is counted
  const auto result = server.finish_round();
  // [/excerpt refused]
  std::printf("%td of 3 replies entered round %llu; the NaN was refused as \"%s\"\n", result.accepted,
              static_cast<unsigned long long>(result.round), refusal ? graft::fed::name_of(*refusal).data() : "nothing");
}
