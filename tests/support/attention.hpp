// SPDX-License-Identifier: Apache-2.0
// Attention and its gradients by their definition, for the kernels to be compared with.
#pragma once
#include <cmath>
#include <vector>

#include "graft/core/tensor.hpp"
#include "graft/kernel/attention_block.hpp"
#include "support/catch.hpp"
#include "support/near.hpp"

namespace graft::test {

struct example {
  std::vector<index_t> query_offsets, key_offsets;
  index_t heads, kv_heads, head_size;
  bool causal;

  kernel::attention_layout layout() const {
    return {heads, kv_heads, head_size, 1 / std::sqrt(static_cast<double>(head_size)), causal, query_offsets, key_offsets};
  }
};


template <class T>
struct attention_result {
  tensor<T, 2> y, log_sum, dq, dk, dv;
};

/// The definition, in double and with nested loops.
template <class T>
attention_result<double> plain_attention(const example& e, const tensor<T, 2>& q, const tensor<T, 2>& k, const tensor<T, 2>& v, const tensor<T, 2>& dy) {
  const auto at = e.layout();
  const index_t d = e.head_size;
  attention_result<double> r{tensor<double, 2>::zeros(q.shape()), tensor<double, 2>::zeros({q.shape()[0], e.heads}), tensor<double, 2>::zeros(q.shape()),
           tensor<double, 2>::zeros(k.shape()), tensor<double, 2>::zeros(v.shape())};
  for (index_t s = 0; s < at.sequences(); ++s) {
    const index_t q0 = e.query_offsets[s], n = e.query_offsets[s + 1] - q0, k0 = e.key_offsets[s], m = e.key_offsets[s + 1] - k0;
    for (index_t h = 0; h < e.heads; ++h)
      for (index_t i = 0; i < n; ++i) {
        const index_t g = h / (e.heads / e.kv_heads), seen = e.causal ? m - n + i + 1 : m;
        std::vector<double> p(static_cast<std::size_t>(seen)), dp(p.size());
        double sum = 0, mean = 0;
        for (index_t j = 0; j < seen; ++j) {
          double score = 0;
          for (index_t c = 0; c < d; ++c) score += double(q(q0 + i, h * d + c)) * double(k(k0 + j, g * d + c));
          sum += p[j] = std::exp(score * at.scale);
        }
        r.log_sum(q0 + i, h) = std::log(sum);
        for (index_t j = 0; j < seen; ++j) {
          p[j] /= sum;
          for (index_t c = 0; c < d; ++c) {
            r.y(q0 + i, h * d + c) += p[j] * double(v(k0 + j, g * d + c));
            r.dv(k0 + j, g * d + c) += p[j] * double(dy(q0 + i, h * d + c));
            dp[j] += double(dy(q0 + i, h * d + c)) * double(v(k0 + j, g * d + c));
          }
          mean += p[j] * dp[j];
        }
        for (index_t j = 0; j < seen; ++j)
          for (index_t c = 0; c < d; ++c) {
            const double ds = p[j] * (dp[j] - mean) * at.scale;
            r.dq(q0 + i, h * d + c) += ds * double(k(k0 + j, g * d + c));
            r.dk(k0 + j, g * d + c) += ds * double(q(q0 + i, h * d + c));
          }
      }
  }
  return r;
}

template <class T>
struct attention_inputs {
  tensor<T, 2> q, k, v, dy;

  explicit attention_inputs(const example& e)
      : q(random_tensor<T, 2>({e.query_offsets.back(), e.heads * e.head_size}, 1)),
        k(random_tensor<T, 2>({e.key_offsets.back(), e.kv_heads * e.head_size}, 2)), v(random_tensor<T, 2>(k.shape(), 3)),
        dy(random_tensor<T, 2>(q.shape(), 4)) {}
};

/// Results before anything was computed: gradients of 1, 2 and 3.
template <class T>
attention_result<T> attention_results_for(const example& e, const tensor<T, 2>& q, const tensor<T, 2>& k) {
  return {tensor<T, 2>(q.shape()), tensor<T, 2>({q.shape()[0], e.heads}), tensor<T, 2>::full(q.shape(), 1), tensor<T, 2>::full(k.shape(), 2),
          tensor<T, 2>::full(k.shape(), 3)};
}

/// Whether run(beta), which computes into attention_results_for(e, in.q, in.k), gives what the definition says, and with beta = 1 adds to what was there.
template <class T, class Run>
void check_definition(const example& e, const attention_inputs<T>& in, double allowed, Run run) {
  INFO("rows " << e.query_offsets.back() << " keys " << e.key_offsets.back() << " heads " << e.heads << "/" << e.kv_heads << " size " << e.head_size);
  const auto expected = plain_attention(e, in.q, in.k, in.v, in.dy);
  const attention_result<T> got = run(T(0)), added = run(T(1));
  CHECK(near(got.y, expected.y, allowed));
  CHECK(near(got.log_sum, expected.log_sum, allowed));
  CHECK(near(got.dq, expected.dq, allowed));
  CHECK(near(got.dk, expected.dk, allowed));
  CHECK(near(got.dv, expected.dv, allowed));
  index_t wrong = 0;
  for (index_t i = 0; i < added.dq.size(); ++i) wrong += std::abs(added.dq.data()[i] - got.dq.data()[i] - 1) > 1e-5;
  for (index_t i = 0; i < added.dk.size(); ++i) wrong += std::abs(added.dk.data()[i] - got.dk.data()[i] - 2) > 1e-5;
  for (index_t i = 0; i < added.dv.size(); ++i) wrong += std::abs(added.dv.data()[i] - got.dv.data()[i] - 3) > 1e-5;
  CHECK(wrong == 0);
}

}  // namespace graft::test
