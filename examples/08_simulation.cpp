// SPDX-License-Identifier: Apache-2.0
// The tour, 8: sixteen clients in one process, on threads, stopped half-way and resumed. Read next: 09_files.cpp.
// Ends with: the resumed run equals the uninterrupted one, bit for bit
#include <cstdio>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "graft/graft.hpp"
#include "graft/io.hpp"

namespace {

/// One linear layer from 8 numbers to 2 classes: small enough to see the federation and not the model.
struct classifier {
  using value_type = float;
  graft::adapted_linear<float> layer{8, 2, true};
  static void visit(auto& self, auto& v) { v("layer", self.layer); }
};

/// Client c's own data: 64 points whose class depends on their sum, shifted by an amount that differs from client to client.
struct client_data {
  graft::tensor<float, 2> points;
  std::vector<std::int32_t> labels;
  explicit client_data(graft::fed::client_id c) {
    auto random = graft::random_stream(11).substream(c);
    points = graft::random_normal<float>(random, {64, 8}, 0.05 * static_cast<double>(c));
    for (graft::index_t i = 0; i < 64; ++i) labels.push_back(graft::sum(points.row(i)) > 0 ? 1 : 0);
  }
};

// [excerpt run]
struct worker {  // what one thread needs
  classifier model;
  graft::context ctx;
  explicit worker(const classifier& m) : model(graft::replicate(m)) {}
};

graft::fed::update train_client(worker& w, graft::fed::client_id id, const graft::fed::broadcast& b) {
  return graft::fed::answer(w.model, b, id, [&](classifier& m) {
    const client_data data(id);
    graft::sgd<float> optimizer(graft::trainable(m), {.lr = 0.5});
    double loss = 0;
    for (int step = 0; step < 10; ++step) {
      graft::tape<float> t(w.ctx);
      const auto l = graft::cross_entropy(t, m.layer(t, t.constant(std::as_const(data.points).view())), data.labels);
      loss = static_cast<double>(l.item());
      t.backward(l);
      optimizer.step(w.ctx);
    }
    return graft::fed::local_result{.samples = 64, .metrics = {{"loss", loss}}};
  });
}
// [/excerpt run]

}  // namespace

int main() {
  classifier model;
  graft::initialize(model, 5, 0.1);
  const auto start = graft::fed::shared_part(model);

  // [excerpt simulate]
  graft::thread_pool pool;
  const graft::safetensors_codec codec;  // messages are really encoded: byte counts are those of a network
  const auto run_until = [&](auto& server, std::uint64_t rounds) {
    const graft::fed::simulation_options options{.rounds = rounds, .clients = 16, .clients_per_round = 12, .seed = 3};
    graft::fed::simulate(
        pool, server, codec, options, [&] { return std::make_unique<worker>(model); },
        [](std::unique_ptr<worker>& w, graft::fed::client_id id, const graft::fed::broadcast& b) { return train_client(*w, id, b); },
        [](const graft::fed::simulated_round& r) {
          std::printf("round %llu: %td clients, loss %.4f, %llu bytes up\n", static_cast<unsigned long long>(r.result.round),
                      r.result.accepted, *graft::find(r.result.metrics, "loss"), static_cast<unsigned long long>(r.bytes_up));
        });
  };
  // [/excerpt simulate]

  graft::fed::server whole(graft::fed::fedavg(), start);
  run_until(whole, 6);

  // [excerpt resume]
  graft::fed::server first(graft::fed::fedavg(), start);
  run_until(first, 3);
  const auto bytes = graft::to_safetensors(first.checkpoint());  // or save_safetensors(path, ...)

  graft::fed::server second(graft::fed::fedavg(), start);  // a new process
  second.restore(graft::from_safetensors(bytes, "checkpoint"));
  run_until(second, 6);
  // [/excerpt resume]

  bool equal = true;
  for (const auto& [name, a] : whole.state().items) equal = equal && a.bytes == graft::find(second.state().items, name)->bytes;
  std::printf("the resumed run %s the uninterrupted one, bit for bit\n", equal ? "equals" : "DIFFERS FROM");
}
