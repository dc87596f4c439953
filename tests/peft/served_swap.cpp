// SPDX-License-Identifier: Apache-2.0
// Adapters exchanged while other threads compute: no pass sees parts of two. GRAFT_SWAPS in the environment says how many exchanges.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "graft/peft/served.hpp"
#include "support/catch.hpp"

using namespace graft;

namespace {

/// Three layers beside one another. The base is zero, so that outputs are the adapters' alone.
struct three_layers {
  using value_type = double;
  std::vector<adapted_linear<double>> layers;

  three_layers() {
    for (int i = 0; i < 3; ++i) {
      layers.emplace_back(4, 5);
      layers.back().weight.assign(frozen_array(tensor<double, 2>::zeros({5, 4})));
    }
  }
  static void visit(auto& self, auto& v) { v("layers", self.layers); }
};

double scale_of(index_t k) { return static_cast<double>(1 + k % 7); }

/// Adapter k: the weights, the rank and the scale all follow from k. Of an input of ones, output o is scale_of(k) (k + o).
served_adapter<double> numbered(index_t k) {
  struct factors {
    tensor<double, 2> a, b;
  };
  const index_t rank = 1 + k % 3;
  const auto owner = std::make_shared<std::vector<factors>>();
  served_adapter<double> made;
  for (int i = 0; i < 3; ++i) {
    auto& f = owner->emplace_back(factors{tensor<double, 2>::full({rank, 4}, 0.25), tensor<double, 2>::zeros({5, rank})});
    for (index_t o = 0; o < 5; ++o) f.b(o, rank - 1) = static_cast<double>(k + o);
    made.layers.push_back({concat("layers.", i), std::as_const(f.a).view(), std::as_const(f.b).view(), scale_of(k)});
  }
  made.owner = owner;
  return made;
}

struct inference {
  std::int64_t passes = 0, banks = 0, wrong = 0, last = -1;
  std::string complaint;
};

/// Passes of three sequences, of the adapters "even", none and "odd", until the last bank has been seen.
void compute(const adapter_switch<double>& newest, const three_layers& original, index_t last, std::atomic<std::int64_t>& all_passes, inference& result) {
  auto model = replicate(original);
  context ctx;
  const auto x = tensor<double, 2>::full({5, 4}, 1.0);
  const index_t offsets[] = {0, 2, 3, 5};
  auto bank = newest.current();
  std::uint64_t seen = newest.version();
  use(model, bank);
  while (result.last < last) {
    if (const auto version = newest.version(); version != seen) {
      seen = version;
      bank = newest.current();
      use(model, bank);
      ++result.banks;
    } else {
      std::this_thread::yield();  // nothing new: let the publisher have a turn
    }
    const index_t routes[] = {bank->find("even"), -1, bank->find("odd")};
    tape<double> t(ctx, recording::off, {.sequence_offsets = offsets, .routes = routes});
    const auto y0 = model.layers[0](t, t.constant(x)), y1 = model.layers[1](t, t.constant(x)), y2 = model.layers[2](t, t.constant(x));
    const double scale = y0.value(0, 1) - y0.value(0, 0);
    const auto k = static_cast<index_t>(y0.value(0, 0) / scale);
    bool right = k >= result.last && k % 2 == 0;
    for (const auto& y : {y0, y1, y2})
      for (index_t r = 0; r < 5; ++r)
        for (index_t o = 0; o < 5; ++o) {
          const index_t own = r < 2 ? k : k + 1;
          right = right && y.value(r, o) == (r == 2 ? 0 : scale_of(own) * static_cast<double>(own + o));
        }
    result.wrong += !right;
    result.last = std::max<std::int64_t>(result.last, k);
    ++result.passes, ++all_passes;
  }
}

}  // namespace

TEST_CASE("no pass sees parts of two banks, however often they are exchanged") {
  const char* wanted = std::getenv("GRAFT_SWAPS");
  const index_t swaps = wanted == nullptr ? 20000 : std::stoll(wanted);
  three_layers model;
  const auto empty = serve(model, targets({"0", "1", "2"}));
  const auto pair = [](const adapter_bank<double>& from, index_t k) { return from.with("even", numbered(2 * k))->with("odd", numbered(2 * k + 1)); };
  adapter_switch<double> newest(pair(*empty, 0));
  std::vector<inference> results(2);
  std::atomic<std::int64_t> passes = 0;
  std::vector<std::thread> threads;
  for (auto& r : results)
    threads.emplace_back([&] {
      try {
        compute(newest, model, 2 * swaps, passes, r);
      } catch (const error& e) {
        r.complaint = e.what();
        passes += std::int64_t{1} << 40;  // nobody need wait for it
      }
    });
  for (index_t k = 1; k <= swaps; ++k) {
    newest.publish(pair(*newest.current(), k));
    if (k % 32 == 0)  // on a busy machine all would be published before a pass is run
      for (const auto before = passes.load(); passes < before + 3;) std::this_thread::yield();
  }
  for (auto& t : threads) t.join();
  CHECK(results[0].banks + results[1].banks >= swaps / 32);
  CHECK(newest.version() == static_cast<std::uint64_t>(swaps));
  for (const auto& r : results) {
    INFO(r.passes << " passes with " << r.banks << " banks");
    CHECK(r.complaint.empty());
    CHECK(r.wrong == 0);
    CHECK(r.last == 2 * swaps);
    if (wanted != nullptr) WARN(r.passes << " passes with " << r.banks << " banks of " << swaps);
  }
}
