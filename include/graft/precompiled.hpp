// SPDX-License-Identifier: Apache-2.0
// Opt-in: include this and link graft::precompiled, and the float kernels, operations and models are compiled once, in that
// library, instead of in every source that uses them. Nothing else changes; built for another processor than the library,
// a program does not link. Read next: docs/building.md.
#pragma once
#include "graft/graft.hpp"

/// Names every template worth compiling once for element type T. EXTERN is `extern` to declare, nothing to define.
#define GRAFT_PRECOMPILED(EXTERN, T)                                                                                        \
  namespace graft {                                                                                                         \
  namespace kernel {                                                                                                        \
  EXTERN template void matmul_nt<T>(context&, tensor_view<const T, 2>, matrix_ref, tensor_view<T, 2>, product_scale,        \
                                    low_rank_term<T>);                                                                      \
  EXTERN template void matmul_nn<T>(context&, tensor_view<const T, 2>, matrix_ref, tensor_view<T, 2>, product_scale,        \
                                    low_rank_term<T>);                                                                      \
  EXTERN template void matmul_tn<T>(context&, tensor_view<const T, 2>, tensor_view<const T, 2>, tensor_view<T, 2>,          \
                                    product_scale);                                                                         \
  EXTERN template void attention<T>(context&, const attention_layout&, tensor_view<const T, 2>, tensor_view<const T, 2>,    \
                                    tensor_view<const T, 2>, tensor_view<T, 2>, T*);                                        \
  EXTERN template void attention_backward<T>(context&, const attention_layout&, tensor_view<const T, 2>,                    \
                                             tensor_view<const T, 2>, tensor_view<const T, 2>, tensor_view<const T, 2>,     \
                                             const T*, tensor_view<const T, 2>, gradient_target<T>, gradient_target<T>,     \
                                             gradient_target<T>);                                                           \
  EXTERN template void cross_entropy_rows<T>(context&, index_t, index_t, T*, const std::int32_t*, T, T*);                   \
  EXTERN template void softmax_rows<T>(context&, index_t, index_t, T*, index_t);                                            \
  EXTERN template void softmax_backward<T>(context&, index_t, index_t, const T*, const T*, T*, T);                          \
  EXTERN template void adamw<T>(context&, index_t, T*, const T*, T*, T*, const adamw_step&);                                \
  EXTERN template void gather_rows<T>(context&, const matrix_ref&, const std::int32_t*, index_t, T*, T);                    \
  EXTERN template void scatter_rows<T>(context&, const T*, const std::int32_t*, index_t, tensor_view<T, 2>, T);             \
  }                                                                                                                         \
  EXTERN template class tape<T>;                                                                                            \
  EXTERN template var<T, 2> linear<T>(tape<T>&, const var<T, 2>&, const var<T, 2>&);                                        \
  EXTERN template var<T, 2> linear<T>(tape<T>&, const var<T, 2>&, const matrix_ref&);                                       \
  EXTERN template var<T, 2> add_bias<T>(tape<T>&, var<T, 2>, const var<T, 1>&);                                             \
  EXTERN template var<T, 2> add_low_rank<T>(tape<T>&, var<T, 2>, const var<T, 2>&, const var<T, 2>&, const var<T, 2>&, double); \
  EXTERN template var<T, 2> linear_low_rank<T>(tape<T>&, const var<T, 2>&, const matrix_ref&, const var<T, 2>&,             \
                                               const var<T, 2>&, const var<T, 2>&, double);                                 \
  EXTERN template var<T, 2> add<T>(tape<T>&, const var<T, 2>&, const var<T, 2>&);                                           \
  EXTERN template var<T, 2> multiply<T>(tape<T>&, const var<T, 2>&, const var<T, 2>&);                                      \
  EXTERN template var<T, 2> silu<T>(tape<T>&, const var<T, 2>&);                                                            \
  EXTERN template var<T, 2> gelu<T>(tape<T>&, const var<T, 2>&);                                                            \
  EXTERN template var<T, 2> gelu_tanh<T>(tape<T>&, const var<T, 2>&);                                                       \
  EXTERN template var<T, 2> relu<T>(tape<T>&, const var<T, 2>&);                                                            \
  EXTERN template var<T, 2> tanh<T>(tape<T>&, const var<T, 2>&);                                                            \
  EXTERN template var<T, 2> swiglu<T>(tape<T>&, const var<T, 2>&, const var<T, 2>&);                                        \
  EXTERN template var<T, 2> dropout<T>(tape<T>&, const var<T, 2>&, double, std::uint64_t);                                  \
  EXTERN template var<T, 2> rms_norm<T>(tape<T>&, const var<T, 2>&, const var<T, 1>&, double);                              \
  EXTERN template var<T, 2> layer_norm<T>(tape<T>&, const var<T, 2>&, const var<T, 1>&, const var<T, 1>&, double);          \
  EXTERN template var<T, 2> attention<T>(tape<T>&, const kernel::attention_layout&, const var<T, 2>&, const var<T, 2>&,     \
                                         const var<T, 2>&);                                                                 \
  EXTERN template var<T, 2> rotate_positions<T>(tape<T>&, const var<T, 2>&, index_t, std::span<const std::int32_t>,         \
                                                tensor_view<const T, 2>, tensor_view<const T, 2>);                          \
  EXTERN template var<T, 2> embedding<T>(tape<T>&, const var<T, 2>&, std::span<const std::int32_t>);                        \
  EXTERN template var<T, 2> embedding<T>(tape<T>&, const matrix_ref&, std::span<const std::int32_t>);                       \
  EXTERN template var<T, 2> mean_rows<T>(tape<T>&, const var<T, 2>&, std::span<const index_t>);                             \
  EXTERN template var<T, 0> cross_entropy<T>(tape<T>&, const var<T, 2>&, std::span<const std::int32_t>);                    \
  EXTERN template var<T, 0> detail::linear_cross_entropy<T>(tape<T>&, const var<T, 2>&, const matrix_ref&, node_id,         \
                                                            std::span<const std::int32_t>);                                 \
  EXTERN template class parameter_base<T>;                                                                                  \
  EXTERN template struct adapted_linear<T>;                                                                                 \
  EXTERN template struct lora<T>;                                                                                           \
  EXTERN template class adamw<T>;                                                                                           \
  EXTERN template struct llama_layer<T>;                                                                                    \
  EXTERN template struct llama<T>;                                                                                          \
  EXTERN template struct bert_layer<T>;                                                                                     \
  EXTERN template struct bert<T>;                                                                                           \
  EXTERN template struct bert_classifier<T>;                                                                                \
  }

GRAFT_PRECOMPILED(extern, float)
