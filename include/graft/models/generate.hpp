// SPDX-License-Identifier: Apache-2.0
// Token by token generation from a decoder, and how the next token is chosen. Read next: examples/apps/generate.cpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "graft/core/random.hpp"
#include "graft/models/kv_cache.hpp"
#include "graft/nn/batch.hpp"
#include "graft/autograd/tape.hpp"

namespace graft {

struct sampling_options {
  double temperature = 0;  // 0: always the likeliest token; else logits are divided by it
  index_t top_k = 0;       // keep the k likeliest; 0: all
  double top_p = 1;        // keep the likeliest that together reach this probability; in (0, 1]
  std::uint64_t seed = 0;

  void validate() const {
    if (!(temperature >= 0)) throw_error<option_error>("sampling: temperature is ", temperature, ", expected 0 or more");
    if (top_k < 0) throw_error<option_error>("sampling: top_k is ", top_k, ", expected 0 or more");
    if (!(top_p > 0 && top_p <= 1)) throw_error<option_error>("sampling: top_p is ", top_p, ", expected more than 0 and at most 1");
  }
};

/// Chooses tokens from logits: temperature, then top-k, then top-p, as the transformers library orders them. A function of
/// the seed and of how many were chosen before.
class sampler {
 public:
  explicit sampler(const sampling_options& o) : options_(o), random_(o.seed) { o.validate(); }

  template <class T>
  std::int32_t operator()(std::span<const T> logits) {
    if (options_.temperature == 0) return static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
    const auto k = static_cast<std::ptrdiff_t>(options_.top_k == 0 ? logits.size() : std::min<std::size_t>(static_cast<std::size_t>(options_.top_k), logits.size()));
    order_.resize(logits.size());
    std::iota(order_.begin(), order_.end(), 0);
    std::ranges::partial_sort(order_, order_.begin() + k, [&](std::int32_t a, std::int32_t b) {
      const T x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
      return x > y || (x == y && a < b);
    });
    weights_.clear();
    const double most = static_cast<double>(logits[static_cast<std::size_t>(order_[0])]);
    for (std::ptrdiff_t i = 0; i < k; ++i)
      weights_.push_back(std::exp((static_cast<double>(logits[static_cast<std::size_t>(order_[static_cast<std::size_t>(i)])]) - most) / options_.temperature));
    const double all = std::reduce(weights_.begin(), weights_.end());
    double kept = 0;
    std::size_t count = 0;
    while (count < weights_.size() && (count == 0 || kept < options_.top_p * all)) kept += weights_[count++];
    double u = random_.uniform() * kept;
    for (std::size_t i = 0; i < count; ++i)
      if ((u -= weights_[i]) < 0) return order_[i];
    return order_[count - 1];
  }

 private:
  sampling_options options_;
  random_stream random_;
  std::vector<std::int32_t> order_;
  std::vector<double> weights_;
};

struct generate_options {
  index_t max_tokens = 128;
  sampling_options sampling;
  std::vector<std::int32_t> stop;  // generation ends after one of these; it is part of the result
};

/// Continues a prompt and returns the new tokens. on_token sees each at once; generation ends when it returns false, after a
/// stop token, after max_tokens, or at the model's longest sequence. Throws shape_error for an empty or too long prompt.
template <class M>
std::vector<std::int32_t> generate(context& ctx, M& model, std::span<const std::int32_t> prompt, const generate_options& o = {},
                                   function_ref<bool(std::int32_t)> on_token = [](std::int32_t) { return true; }) {
  using T = typename M::value_type;
  if (prompt.empty()) throw_error<shape_error>("generate: the prompt has no tokens");
  const auto longest = model.config.max_position_embeddings;
  if (static_cast<index_t>(prompt.size()) > longest)
    throw_error<shape_error>("generate: the prompt has ", prompt.size(), " tokens, the model allows ", longest);
  auto cache = model.make_cache(static_cast<index_t>(prompt.size()) + std::clamp<index_t>(o.max_tokens, 0, longest - static_cast<index_t>(prompt.size())));
  sampler choose(o.sampling);
  std::vector<std::int32_t> result;
  token_batch batch;
  batch.add(prompt);
  while (static_cast<index_t>(result.size()) < o.max_tokens) {
    tape<T> t(ctx, recording::off);
    const auto x = model.hidden(t, batch, &cache);
    const auto last = t.constant(tensor_view<const T, 2>(x.value).slice(0, x.shape()[0] - 1, x.shape()[0]));
    const auto scores = model.logits(t, last);
    const std::int32_t next = choose(std::span<const T>(scores.value.data, static_cast<std::size_t>(scores.value.size())));
    result.push_back(next);
    if (!on_token(next) || std::ranges::find(o.stop, next) != o.stop.end() || cache.length() == longest) break;
    batch.clear();
    batch.add(std::span(&next, 1));
  }
  return result;
}

}  // namespace graft
