// SPDX-License-Identifier: Apache-2.0
// What a thousand adapters cost that are open at once: memory of the process before, with all of them, and as they are used; verified by what
// one of them gives. Folders of rank 8 on q and v of SmolLM-135M are written below the system's temporary folder and removed again.
//
//   bench_adapter_registry [COUNT]
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "graft/io/adapter_registry.hpp"
#include "graft/io/peft_folder.hpp"
#include "graft/precompiled.hpp"
#include "support/timing.hpp"

namespace {

namespace fs = std::filesystem;
using graft::index_t;

/// The linear layers of SmolLM-135M that are served; their own weights are zero, and shared.
struct projections {
  using value_type = float;
  std::vector<graft::adapted_linear<float>> q_proj, v_proj;

  projections() {
    const graft::frozen_array q(graft::tensor<float, 2>::zeros({576, 576})), v(graft::tensor<float, 2>::zeros({192, 576}));
    for (int i = 0; i < 30; ++i) {
      q_proj.emplace_back(576, 576).weight.assign(q);
      v_proj.emplace_back(576, 192).weight.assign(v);
    }
  }
  static void visit(auto& self, auto& v) {
    v("q_proj", self.q_proj);
    v("v_proj", self.v_proj);
  }
};

/// Resident memory in MiB, and the part of it that is mapped files.
struct resident {
  double all = 0, files = 0;
};
resident measure() {
  resident r;
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == "VmRSS:" && status >> r.all) r.all /= 1024;
    if (word == "RssFile:" && status >> r.files) r.files /= 1024;
  }
  return r;
}
void report(const char* when, double seconds = 0) {
  const resident r = measure();
  std::printf("%-44s %9.1f MiB resident, %9.1f of it files", when, r.all, r.files);
  if (seconds != 0) std::printf(", %8.3f s", seconds);
  std::printf("\n");
}

/// A pass of one row through all layers; the sum of what came out.
double pass(graft::context& ctx, projections& m, index_t route) {
  const auto x = graft::tensor<float, 2>::full({1, 576}, 0.5f);
  const index_t offsets[] = {0, 1};
  double sum = 0;
  graft::tape<float> t(ctx, graft::recording::off, {.sequence_offsets = offsets, .routes = {&route, 1}});
  for (auto* layers : {&m.q_proj, &m.v_proj})
    for (auto& layer : *layers) {
      const auto y = layer(t, t.constant(x));
      for (index_t i = 0; i < y.value.size(); ++i) sum += static_cast<double>(y.value.data[i]);
    }
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  const index_t count = bench::only_verifies() ? 3 : argc > 1 ? std::atoll(argv[1]) : 1000;
  std::string folder = (fs::temp_directory_path() / "graft-bench-XXXXXX").string();
  if (count < 1 || ::mkdtemp(folder.data()) == nullptr) return 2;
  double expected = 0;  // of the last adapter, attached the plain way
  graft::context ctx;
  {
    projections plain;
    graft::attach(plain, graft::all_linear(), graft::lora_options{.rank = 8, .alpha = 16});
    for (index_t k = 0; k < count; ++k) {
      for (auto& p : graft::trainable(plain))
        graft::fill_uniform(p.parameter->value(), graft::random_stream(static_cast<std::uint64_t>(k)).substream(p.path), 0.1);
      graft::save_peft(plain, fs::path(folder) / std::to_string(k));
    }
    expected = pass(ctx, plain, 0);
  }
  const auto size = static_cast<double>(fs::file_size(fs::path(folder) / "0" / "adapter_model.safetensors"));
  std::printf("%td adapters of %.2f MiB each, %.0f MiB in all\n", count, size / 0x1p20, size * static_cast<double>(count) / 0x1p20);

  projections model;
  const auto empty = graft::serve(model, graft::all_linear());
  report("before");
  double start = bench::wall_seconds();
  graft::adapter_registry<float> registry;
  registry.add_all(folder);
  report("all open", bench::wall_seconds() - start);
  start = bench::wall_seconds();
  auto bank = empty;
  for (const auto& name : registry.names()) bank = bank->with(name, registry.at(name));
  graft::use(model, bank);
  report("all in one bank", bench::wall_seconds() - start);
  start = bench::wall_seconds();
  const double got = pass(ctx, model, bank->find(std::to_string(count - 1)));
  report("one used", bench::wall_seconds() - start);
  start = bench::wall_seconds();
  for (index_t k = 0; k < count; ++k) pass(ctx, model, k);
  report("all used", bench::wall_seconds() - start);
  start = bench::wall_seconds();
  bank = bank->with(bank->name(0), registry.at(bank->name(count - 1)));
  graft::use(model, bank);
  report("one exchanged for another", bench::wall_seconds() - start);
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  if (got == expected && count > 0) return 0;
  std::printf("wrong: the last adapter gives %.9g, attached the plain way %.9g\n", got, expected);
  return 1;
}
