// SPDX-License-Identifier: Apache-2.0
// The step of lora_step.cpp for SmolLM-135M in libtorch, written as its users write it: one sequence, one thread.
#include <sys/resource.h>
#include <torch/torch.h>

#include <cmath>
#include <vector>

#include "support/steps.hpp"

namespace {

using torch::Tensor;

constexpr long width = 576, inner = 1536, layers = 30, heads = 9, kv_heads = 3, head = 64, vocabulary = 49152, rank = 8;
constexpr double scale = 16.0 / rank;

struct adapted_linear {
  Tensor weight, a, b;

  adapted_linear(long out, long in, std::vector<Tensor>& trained)
      : weight(torch::randn({out, in}) * 0.02), a((torch::rand({rank, in}) * 2 - 1) / std::sqrt(static_cast<double>(in))), b(torch::zeros({out, rank})) {
    for (Tensor* t : {&a, &b}) trained.push_back(t->requires_grad_(true));
  }
  Tensor operator()(const Tensor& x) const { return torch::linear(x, weight) + torch::linear(torch::linear(x, a), b) * scale; }
};

Tensor rms_norm(const Tensor& x, const Tensor& gain) { return x * torch::rsqrt(x.pow(2).mean(-1, true) + 1e-5) * gain; }

/// x: (heads, tokens, head); cosine and sine: (tokens, head).
Tensor rotate(const Tensor& x, const Tensor& cosine, const Tensor& sine) {
  const auto halves = x.chunk(2, -1);
  return x * cosine + torch::cat({-halves[1], halves[0]}, -1) * sine;
}

struct tables {
  Tensor cosine, sine, mask;

  explicit tables(long tokens) {
    const Tensor frequencies = torch::pow(10000.0, -torch::arange(0, head, 2).to(torch::kFloat) / static_cast<double>(head));
    const Tensor angles = torch::outer(torch::arange(tokens).to(torch::kFloat), frequencies).repeat({1, 2});
    cosine = angles.cos();
    sine = angles.sin();
    mask = torch::full({tokens, tokens}, -INFINITY).triu(1);
  }
};

struct layer {
  Tensor norm1 = torch::ones({width}), norm2 = torch::ones({width});
  adapted_linear q, k, v, o, gate, up, down;

  explicit layer(std::vector<Tensor>& t)
      : q(heads * head, width, t), k(kv_heads * head, width, t), v(kv_heads * head, width, t), o(width, heads * head, t), gate(inner, width, t),
        up(inner, width, t), down(width, inner, t) {}

  Tensor operator()(const Tensor& x, const tables& at) const {
    const Tensor y = x + attend(rms_norm(x, norm1), at);
    const Tensor z = rms_norm(y, norm2);
    return y + down(torch::silu(gate(z)) * up(z));
  }

 private:
  Tensor attend(const Tensor& x, const tables& at) const {
    const auto split = [&](const Tensor& t, long n) { return t.view({-1, n, head}).transpose(0, 1); };
    const Tensor queries = rotate(split(q(x), heads), at.cosine, at.sine);
    const Tensor keys = rotate(split(k(x), kv_heads), at.cosine, at.sine).repeat_interleave(heads / kv_heads, 0);
    const Tensor values = split(v(x), kv_heads).repeat_interleave(heads / kv_heads, 0);
#if TORCH_VERSION_MAJOR >= 2
    const Tensor mixed = at::scaled_dot_product_attention(queries.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0), {}, 0.0, true).squeeze(0);
#else
    const Tensor scores = torch::matmul(queries, keys.transpose(1, 2)) * (1 / std::sqrt(static_cast<double>(head))) + at.mask;
    const Tensor mixed = torch::matmul(torch::softmax(scores, -1), values);
#endif
    return o(mixed.transpose(0, 1).reshape({-1, heads * head}));
  }
};

}  // namespace

int main(int argc, char** argv) {
  const bench::step_options o = bench::parse_step_options(argc, argv);
  if (o.model != "smollm-135m" || o.batch != 1 || o.threads != 1 || o.checkpointing || !o.verify.empty()) {
    std::fprintf(stderr, "%s: one sequence of smollm-135m on one thread is all there is\n", argv[0]);
    return 2;
  }
  at::set_num_threads(1);
  at::set_num_interop_threads(1);
  torch::manual_seed(0);
  std::vector<Tensor> trained;
  const Tensor embedding = torch::randn({vocabulary, width}) * 0.02, gain = torch::ones({width});
  std::vector<layer> stack;
  for (long i = 0; i < layers; ++i) stack.emplace_back(trained);
  torch::optim::AdamW optimizer(trained, torch::optim::AdamWOptions(bench::step_rate));

  Tensor ids = torch::empty({o.tokens}, torch::kLong);
  for (long n = 0; n < o.tokens; ++n) ids[n] = bench::example_token(n, vocabulary);
  const Tensor labels = torch::cat({ids.slice(0, 1), torch::full({1}, -100, torch::kLong)});
  const tables at(o.tokens);
  double loss = 0, first_loss = 0;
  const auto step = [&] {
    Tensor x = torch::embedding(embedding, ids);
    for (const layer& l : stack) x = l(x, at);
    const Tensor mean = torch::nn::functional::cross_entropy(torch::linear(rms_norm(x, gain), embedding), labels,
                                                             torch::nn::functional::CrossEntropyFuncOptions().ignore_index(-100));
    mean.backward();
    loss = mean.item<double>();
    optimizer.step();
    optimizer.zero_grad();
  };
  step();
  first_loss = loss;
  const bench::step_times times = bench::time_steps(o, step);

  long count = 0;
  for (const Tensor& t : trained) count += t.numel();
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  std::printf("peer libtorch_%d.%d.%d\n", TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR, TORCH_VERSION_PATCH);
  bench::print_rates(o, times);
  bench::print_value("peak_rss_mib", static_cast<double>(usage.ru_maxrss) / 1024);
  bench::print_value("trainable_parameters", static_cast<double>(count));
  bench::print_value("loss_first", first_loss);
  bench::print_value("loss_last", loss);
}
