// SPDX-License-Identifier: Apache-2.0
// Dense products of every form at the shapes of real layers, next to other libraries, in turns on one thread.
// Usage: bench_gemm [--quick] [--filter REGEX] [--json FILE], which has the entries of a Google Benchmark file.
#include "graft/kernel/gemm.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <regex>
#include <string_view>

#include "graft/core/random.hpp"
#include "graft/precompiled.hpp"
#include "shapes.hpp"
#include "support/machine.hpp"
#include "support/near.hpp"
#include "support/peers.hpp"

namespace {

using namespace bench;
using graft::tensor;

enum class form { nt, nn, tn };
constexpr const char* names[] = {"nt", "nn", "tn"};

/// A layer seen from one of its three products: y = x w^T, dx = dy w, dw = dy^T x.
struct problem {
  form f;
  linear_shape layer;
  index_t tokens;
  bool low_rank = false;

  /// gemm/nt/576x1536/256, low_rank/tn/8x576/256
  std::string name() const {
    return (low_rank ? "low_rank/" : "gemm/") + std::string(names[static_cast<int>(f)]) + "/" + std::to_string(layer.out) + "x" +
           std::to_string(layer.in) + "/" + std::to_string(tokens);
  }
};

struct operands {
  tensor<float, 2> a, b, c;
  dense_product view;

  explicit operands(const problem& p)
      : a(graft::test::random_tensor<float, 2>({p.tokens, p.f == form::nt ? p.layer.in : p.layer.out}, 1)),
        b(graft::test::random_tensor<float, 2>({p.f == form::tn ? p.tokens : p.layer.out, p.layer.in}, 2)),
        c({p.f == form::tn ? p.layer.out : p.tokens, p.f == form::nt ? p.layer.out : p.layer.in}),
        view{c.shape()[0], c.shape()[1], p.f == form::nt ? p.layer.in : p.f == form::nn ? p.layer.out : p.tokens, p.f == form::tn, p.f == form::nt,
             a.data(), b.data(), c.data()} {}

  void run(graft::context& ctx) {
    if (view.a_transposed) graft::kernel::matmul_tn<float>(ctx, a, b, c);
    else if (view.b_transposed) graft::kernel::matmul_nt<float>(ctx, a, b.view(), c);
    else graft::kernel::matmul_nn<float>(ctx, a, b.view(), c);
  }
};

/// Stops the program unless 2,000 elements of c, corners among them, are what a plain sum in double gives.
void verify(const operands& o, const std::string& who) {
  const dense_product& p = o.view;
  graft::random_stream random(7);
  for (int n = 0; n < 2000; ++n) {
    const index_t i = n < 4 ? (n & 1) * (p.m - 1) : static_cast<index_t>(random.below(static_cast<std::uint64_t>(p.m)));
    const index_t j = n < 4 ? (n >> 1) * (p.n - 1) : static_cast<index_t>(random.below(static_cast<std::uint64_t>(p.n)));
    double sum = 0, size = 0;
    for (index_t k = 0; k < p.k; ++k) {
      const double term = static_cast<double>(p.a_transposed ? o.a(k, i) : o.a(i, k)) * static_cast<double>(p.b_transposed ? o.b(j, k) : o.b(k, j));
      sum += term;
      size += std::abs(term);
    }
    const double difference = std::abs(static_cast<double>(o.c(i, j)) - sum);
    if (!(difference <= graft::test::tolerance<float>(p.k) * size)) {
      std::printf("%s is wrong: c(%td, %td) differs by %g of %g\n", who.c_str(), i, j, difference, size);
      std::exit(1);
    }
  }
}

struct score {
  std::map<std::string, std::vector<double>> ratios;  // to every peer, over the problems
  std::vector<double> shares;
  std::map<std::string, double> at_best;  // of one problem, by counter

  void add(const score& other) {
    for (const auto& [name, r] : other.ratios) ratios[name].insert(ratios[name].end(), r.begin(), r.end());
    shares.insert(shares.end(), other.shares.begin(), other.shares.end());
  }
};

struct options {
  bool quick = false;
  std::regex filter{""};
  std::string json;
};

/// What was asked for, and what has been measured.
struct session {
  options o;
  graft::context ctx;
  std::string entries;  // of the JSON file
};

void print_head(const std::vector<contender>& all) {
  std::printf("form   out x in      tokens  GFLOP/s  of peak");
  for (const contender& c : all)
    if (c.name != "graft" && c.name != "peak") std::printf("  %13s", c.name.c_str());
  std::printf("   (others: how many times faster graft is)\n");
}

void keep(session& to, const problem& p, double rate, const score& one) {
  char number[64];
  const auto counter = [&](const std::string& name, double value) {
    std::snprintf(number, sizeof number, "%.6g", value);
    to.entries += ", \"" + name + "\": " + number;
  };
  to.entries += std::string(to.entries.empty() ? "" : ",") + "\n  {\"name\": \"" + p.name() + "\"";
  counter("GFLOP/s", rate);
  counter("of_peak", one.shares.front());
  for (const auto& [name, ratios] : one.ratios) counter("vs_" + name, ratios.front());
  for (const auto& [name, ratio] : one.at_best) counter(name + "_at_best", ratio);
  to.entries += "}";
}

score run(session& to, const problem& p) {
  score one;
  if (!std::regex_search(p.name(), to.o.filter)) return one;
  operands o(p);
  std::vector<contender> all{{"graft", [&] { o.run(to.ctx); }}, {"peak", [] { fma_burst(); }}};
  for (contender& peer : product_peers(o.view)) all.push_back(std::move(peer));
  for (const contender& c : all) {
    if (c.name == "peak") continue;
    std::fill_n(o.c.data(), o.c.size(), std::numeric_limits<float>::quiet_NaN());
    c.run();
    verify(o, c.name);
  }
  static const bool head = (print_head(all), true);
  (void)head;
  const round_times times = take_turns(all, {5, 0.005});
  const double flops = 2.0 * static_cast<double>(o.view.m) * static_cast<double>(o.view.n) * static_cast<double>(o.view.k);
  const double rate = 1e-9 * flops / median(times[0]), share = speed_ratio(times[0], times[1]) * flops / fma_burst();
  one.shares.push_back(share);
  one.at_best["of_peak"] = speed_ratio_at_best(times[0], times[1]) * flops / fma_burst();
  std::printf("%-4s %6td x %-6td  %6td  %7.1f  %7.2f", names[static_cast<int>(p.f)], p.layer.out, p.layer.in, p.tokens, rate, share);
  double best_onednn = 0;
  for (std::size_t i = 2; i < all.size(); ++i) {
    const double ratio = speed_ratio(times[0], times[i]);
    std::printf("  %13.2f", ratio);
    one.ratios[all[i].name].push_back(ratio);
    const double at_best = one.at_best["vs_" + all[i].name] = speed_ratio_at_best(times[0], times[i]);
    if (!all[i].name.starts_with("oneDNN") || (best_onednn != 0 && best_onednn <= ratio)) continue;
    best_onednn = ratio;
    one.at_best["vs_oneDNN"] = at_best;
  }
  if (best_onednn != 0) one.ratios["oneDNN"].push_back(best_onednn);
  std::printf("\n");
  std::fflush(stdout);
  keep(to, p, rate, one);
  return one;
}

std::vector<problem> problems(bool quick) {
  std::vector<problem> all;
  const auto add = [&](const linear_shape& layer) {
    for (const form f : {form::nt, form::nn, form::tn})
      for (const index_t tokens : token_counts) {
        if (f == form::nn && tokens < 8) continue;   // gradients come in batches
        if (f == form::tn && (tokens < 32 || layer.out > 8192)) continue;
        all.push_back({f, layer, tokens});
      }
  };
  for (const linear_shape& layer : linear_layers)
    if (!quick || layer.in == 576) add(layer);
  if (quick) std::erase_if(all, [](const problem& p) { return p.layer.out > 8192 || (p.tokens != 1 && p.tokens != 32 && p.tokens != 256); });
  return all;
}

void print_summary(const char* what, const score& s) {
  if (s.shares.empty()) return;
  std::printf("%s: median share of peak %.2f over %zu shapes", what, median(s.shares), s.shares.size());
  for (const auto& [name, ratios] : s.ratios) std::printf("; median ratio to %s %.2f, least %.2f", name.c_str(), median(ratios), *std::ranges::min_element(ratios));
  std::printf("\n");
}

options parse(int argc, char** argv) {
  options o;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--quick") o.quick = true;
    else if (name == "--filter" && i + 1 < argc) o.filter = argv[++i];
    else if (name == "--json" && i + 1 < argc) o.json = argv[++i];
    else {
      std::fprintf(stderr, "usage: %s [--quick] [--filter REGEX] [--json FILE]\n", argv[0]);
      std::exit(2);
    }
  }
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  session all{parse(argc, argv), {}, {}};
  use_one_thread();
  std::printf("%s\n", describe_machine().c_str());
  score total, by_form[3], low_rank;
  for (const problem& p : problems(all.o.quick)) {
    const score one = run(all, p);
    total.add(one);
    by_form[static_cast<int>(p.f)].add(one);
  }
  std::printf("products of a LoRA update\n");
  for (const linear_shape& layer : low_rank_layers)
    for (const form f : {form::nt, form::nn, form::tn}) low_rank.add(run(all, {f, layer, 256, true}));
  for (const form f : {form::nt, form::nn, form::tn}) print_summary(names[static_cast<int>(f)], by_form[static_cast<int>(f)]);
  print_summary("LoRA updates, 256 tokens", low_rank);
  print_summary("all", total);
  if (const auto found = total.ratios.find("oneDNN"); found != total.ratios.end())
    std::printf("median ratio to oneDNN: %.2f over %zu shapes\n", median(found->second), found->second.size());
  if (all.o.json.empty()) return 0;
  std::FILE* file = std::fopen(all.o.json.c_str(), "w");
  const bool written = file != nullptr && std::fprintf(file, "{\"benchmarks\": [%s\n]}\n", all.entries.c_str()) > 0;
  if (file == nullptr || std::fclose(file) != 0 || !written) return std::fprintf(stderr, "cannot write %s\n", all.o.json.c_str()), 1;
}
