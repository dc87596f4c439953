// SPDX-License-Identifier: Apache-2.0
// Low-rank adaptation. Read next: peft/attach.hpp; nn/linear.hpp says what an adapter is.
#pragma once
#include <cmath>
#include <string>

#include "graft/kernel/gemm.hpp"
#include "graft/nn/init.hpp"
#include "graft/nn/linear.hpp"
#include "graft/ops/elementwise.hpp"

namespace graft {

/// How A starts: uniform in +-1/sqrt(in), or normal with deviation 1/rank. B starts as zero.
enum class lora_init { kaiming, gaussian };

struct lora_options {
  index_t rank = 8;             // >= 1
  double alpha = 16;            // the update is scaled by alpha / rank
  bool rank_stabilised = false;  // scale by alpha / sqrt(rank) instead (rsLoRA)
  double dropout = 0;           // in [0, 1), on the input of the update while training
  lora_init init = lora_init::kaiming;

  double scale() const { return alpha / (rank_stabilised ? std::sqrt(static_cast<double>(rank)) : static_cast<double>(rank)); }
  void validate() const {
    if (rank < 1 || rank > (1 << 16)) throw_error<option_error>("lora: rank is ", rank, ", expected 1 to 65536");
    if (!std::isfinite(alpha)) throw_error<option_error>("lora: alpha is ", alpha, ", expected a finite number");
    if (!(dropout >= 0 && dropout < 1)) throw_error<option_error>("lora: dropout is ", dropout, ", expected 0 to below 1");
  }
};

/// y = f(x) + scale * (dropout(x) A^T) B^T. Starts as the identity: A as the options say, B zero.
/// Paths: "lora_A.weight" (R, in), "lora_B.weight" (out, R). Source: Hu et al. 2021; scale of Kalajdzievski 2023.
template <class T>
struct lora {
  using value_type = T;
  struct factor {  // one level of path, so that names equal those of PEFT folders
    using value_type = T;
    parameter<T, 2> weight;
    static void visit(auto& self, auto& v) { v("weight", self.weight); }
  };
  factor a, b;
  lora_options options;
  std::uint64_t stream = 0;  // of the dropout masks

  lora(index_t in, index_t out, lora_options o = {}, random_stream random = random_stream{}) : options((o.validate(), o)) {
    tensor<T, 2> down({o.rank, in});
    if (o.init == lora_init::gaussian) fill_normal(down.span(), random.substream("lora_A"), 1 / static_cast<double>(o.rank));
    else fill_uniform(down.span(), random.substream("lora_A"), 1 / std::sqrt(static_cast<double>(in)));
    a.weight = parameter<T, 2>(std::move(down));
    b.weight = parameter<T, 2>(tensor<T, 2>::zeros({out, o.rank}));
    a.weight.tag = b.weight.tag = "adapter";
    stream = random.substream("dropout").bits();
  }
  static void visit(auto& self, auto& v) {
    v("lora_A", self.a);
    v("lora_B", self.b);
  }

  var<T, 2> apply(tape<T>& t, const var<T, 2>& x, linear_map<T> f) {
    return f.ending_in_low_rank(x, dropout(t, x, options.dropout, stream), t.leaf(a.weight), t.leaf(b.weight), options.scale());
  }
  void merge_into(affine<T> w) const {  // W + scale B A
    context serial;
    kernel::matmul_nn<T>(serial, b.weight.view(), a.weight.matrix(), w.weight, {options.scale(), 1});
  }
  std::string describe() const {
    return concat("lora(rank ", options.rank, ", alpha ", options.alpha, options.rank_stabilised ? ", rank-stabilised" : "", ")");
  }
};

/// Learning rates of LoRA+, for an optimiser: B learns `ratio` times as fast as A and all else. Source: Hayou et al. 2024.
inline auto lora_plus(double ratio = 16) {
  if (!(ratio > 0) || !std::isfinite(ratio)) throw_error<option_error>("lora_plus: the ratio is ", ratio, ", expected more than 0");
  return [ratio](const auto& p) { return p.path.ends_with("lora_B.weight") ? ratio : 1.0; };
}

}  // namespace graft
