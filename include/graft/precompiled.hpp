// SPDX-License-Identifier: Apache-2.0
// Opt-in: include this and link graft::precompiled, and the float kernels, operations and models are compiled once, in that
// library, instead of in every source that uses them. The library holds its kernels for several instruction sets and takes those
// of the processor it runs on, whatever processor the program was compiled for. Read next: docs/building.md.
#pragma once
#include "graft/graft.hpp"
#include "graft/kernel/table.hpp"

// The float kernels under the names that this compilation gives them: calls of the chosen table.
namespace graft::kernel {

#define GRAFT_FORWARD(kernel_name, parameters, arguments) \
  template <>                                             \
  inline void kernel_name<float, simd::default_arch> parameters { chosen_table().kernel_name arguments; }

GRAFT_FORWARD(matmul_nt, (context& ctx, tensor_view<const float, 2> x, matrix_ref w, tensor_view<float, 2> y, product_scale scale,
                          low_rank_term<float> term), (ctx, x, w, y, scale, term))
GRAFT_FORWARD(matmul_nn, (context& ctx, tensor_view<const float, 2> x, matrix_ref w, tensor_view<float, 2> y, product_scale scale,
                          low_rank_term<float> term), (ctx, x, w, y, scale, term))
GRAFT_FORWARD(matmul_tn, (context& ctx, tensor_view<const float, 2> a, tensor_view<const float, 2> b, tensor_view<float, 2> c,
                          product_scale scale), (ctx, a, b, c, scale))
GRAFT_FORWARD(attention, (context& ctx, const attention_layout& at, tensor_view<const float, 2> q, tensor_view<const float, 2> k,
                          tensor_view<const float, 2> v, tensor_view<float, 2> y, float* log_sum), (ctx, at, q, k, v, y, log_sum))
GRAFT_FORWARD(attention_backward, (context& ctx, const attention_layout& at, tensor_view<const float, 2> q, tensor_view<const float, 2> k,
                                   tensor_view<const float, 2> v, tensor_view<const float, 2> y, const float* log_sum,
                                   tensor_view<const float, 2> dy, gradient_target<float> dq, gradient_target<float> dk,
                                   gradient_target<float> dv), (ctx, at, q, k, v, y, log_sum, dy, dq, dk, dv))
GRAFT_FORWARD(rotate_positions, (context& ctx, index_t rows, index_t heads, index_t head_size, const float* x, const std::int32_t* positions,
                                 const float* cosine, const float* sine, bool inverse, float* y, float beta),
              (ctx, rows, heads, head_size, x, positions, cosine, sine, inverse, y, beta))
GRAFT_FORWARD(gather_rows, (context& ctx, const matrix_ref& table, const std::int32_t* ids, index_t rows, float* y, float beta),
              (ctx, table, ids, rows, y, beta))
GRAFT_FORWARD(scatter_rows, (context& ctx, const float* dy, const std::int32_t* ids, index_t rows, tensor_view<float, 2> dtable, float beta),
              (ctx, dy, ids, rows, dtable, beta))
GRAFT_FORWARD(routed_low_rank, (context& ctx, tensor_view<const float, 2> x, std::span<const routed_term<float>> terms, tensor_view<float, 2> y),
              (ctx, x, terms, y))
GRAFT_FORWARD(add_bias, (context& ctx, index_t rows, index_t columns, float* y, index_t ldy, const float* bias),
              (ctx, rows, columns, y, ldy, bias))
GRAFT_FORWARD(bias_backward, (context& ctx, index_t rows, index_t columns, const float* dy, float* dbias, float beta),
              (ctx, rows, columns, dy, dbias, beta))
GRAFT_FORWARD(rms_norm, (context& ctx, index_t rows, index_t columns, const float* x, const float* gain, double eps, float* y, float* scale),
              (ctx, rows, columns, x, gain, eps, y, scale))
GRAFT_FORWARD(rms_norm_backward, (context& ctx, index_t rows, index_t columns, const float* x, const float* gain, const float* scale,
                                  const float* dy, float* dx, float beta), (ctx, rows, columns, x, gain, scale, dy, dx, beta))
GRAFT_FORWARD(rms_norm_gain_backward, (context& ctx, index_t rows, index_t columns, const float* x, const float* scale, const float* dy,
                                       float* dgain, float beta), (ctx, rows, columns, x, scale, dy, dgain, beta))
GRAFT_FORWARD(layer_norm, (context& ctx, index_t rows, index_t columns, const float* x, const float* gain, const float* bias, double eps,
                           float* y, float* mean, float* scale), (ctx, rows, columns, x, gain, bias, eps, y, mean, scale))
GRAFT_FORWARD(layer_norm_backward, (context& ctx, index_t rows, index_t columns, const float* x, const float* gain, const float* mean,
                                    const float* scale, const float* dy, float* dx, float beta),
              (ctx, rows, columns, x, gain, mean, scale, dy, dx, beta))
GRAFT_FORWARD(layer_norm_gain_backward, (context& ctx, index_t rows, index_t columns, const float* x, const float* mean, const float* scale,
                                         const float* dy, float* dgain, float beta), (ctx, rows, columns, x, mean, scale, dy, dgain, beta))
GRAFT_FORWARD(softmax_rows, (context& ctx, index_t rows, index_t columns, float* x, index_t ld), (ctx, rows, columns, x, ld))
GRAFT_FORWARD(softmax_backward, (context& ctx, index_t rows, index_t columns, const float* y, const float* dy, float* dx, float beta),
              (ctx, rows, columns, y, dy, dx, beta))
GRAFT_FORWARD(cross_entropy_rows, (context& ctx, index_t rows, index_t columns, float* logits, const std::int32_t* labels, float factor,
                                   float* loss), (ctx, rows, columns, logits, labels, factor, loss))
GRAFT_FORWARD(cross_entropy_block, (context& ctx, tensor_view<float, 2> logits, index_t first, const std::int32_t* labels,
                                    softmax_so_far<float> so_far, tensor_view<float, 2> sums), (ctx, logits, first, labels, so_far, sums))
GRAFT_FORWARD(cross_entropy_end, (context& ctx, index_t rows, const matrix_ref& weight, const std::int32_t* labels, softmax_so_far<float> so_far,
                                  float factor, tensor_view<float, 2> sums, float* loss), (ctx, rows, weight, labels, so_far, factor, sums, loss))
GRAFT_FORWARD(adamw, (context& ctx, index_t n, float* w, const float* g, float* m, float* v, const adamw_step& step), (ctx, n, w, g, m, v, step))
GRAFT_FORWARD(round_to_blocks, (context& ctx, index_t n, const float* x, rounded_block* to), (ctx, n, x, to))
GRAFT_FORWARD(values_of_blocks, (context& ctx, index_t n, const rounded_block* from, float* x), (ctx, n, from, x))
#undef GRAFT_FORWARD
template <>
inline bool multiplies_in_bf16<float, simd::default_arch>() { return chosen_table().multiplies_in_bf16(); }

#define GRAFT_FORWARD_MAP(F, parameters, arguments, ...)                                                                       \
  template <>                                                                                                                 \
  inline void map<float, simd::default_arch, F, __VA_ARGS__> parameters { std::get<detail::map_pointer<F, __VA_ARGS__>>(chosen_table().maps) arguments; }
#define GRAFT_FORWARD_MAP_OF_ONE(F) \
  GRAFT_FORWARD_MAP(F, (context& ctx, index_t n, float* out, float beta, F f, const float* a), (ctx, n, out, beta, f, a), float)
#define GRAFT_FORWARD_MAP_OF_TWO(F) \
  GRAFT_FORWARD_MAP(F, (context& ctx, index_t n, float* out, float beta, F f, const float* a, const float* b), (ctx, n, out, beta, f, a, b), float, float)
#define GRAFT_FORWARD_MAP_OF_THREE(F)                                                                                         \
  GRAFT_FORWARD_MAP(F, (context& ctx, index_t n, float* out, float beta, F f, const float* a, const float* b, const float* c), \
                    (ctx, n, out, beta, f, a, b, c), float, float, float)

GRAFT_FORWARD_MAP_OF_TWO(plus)
GRAFT_FORWARD_MAP_OF_TWO(times)
GRAFT_FORWARD_MAP_OF_ONE(times_constant<float>)
GRAFT_FORWARD_MAP_OF_ONE(value_of<relu_function>)
GRAFT_FORWARD_MAP_OF_TWO(gradient_of<relu_function>)
GRAFT_FORWARD_MAP_OF_ONE(value_of<silu_function>)
GRAFT_FORWARD_MAP_OF_TWO(gradient_of<silu_function>)
GRAFT_FORWARD_MAP_OF_ONE(value_of<gelu_erf_function>)
GRAFT_FORWARD_MAP_OF_TWO(gradient_of<gelu_erf_function>)
GRAFT_FORWARD_MAP_OF_ONE(value_of<gelu_tanh_function>)
GRAFT_FORWARD_MAP_OF_TWO(gradient_of<gelu_tanh_function>)
GRAFT_FORWARD_MAP_OF_ONE(value_of<tanh_function>)
GRAFT_FORWARD_MAP_OF_TWO(gradient_of<tanh_function>)
GRAFT_FORWARD_MAP_OF_TWO(gated_value_of<silu_function>)
GRAFT_FORWARD_MAP_OF_THREE(gated_gradient_of<silu_function>)
#undef GRAFT_FORWARD_MAP_OF_THREE
#undef GRAFT_FORWARD_MAP_OF_TWO
#undef GRAFT_FORWARD_MAP_OF_ONE
#undef GRAFT_FORWARD_MAP

}  // namespace graft::kernel

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
  EXTERN template void cross_entropy_block<T>(context&, tensor_view<T, 2>, index_t, const std::int32_t*, softmax_so_far<T>, \
                                              tensor_view<T, 2>);                                                           \
  EXTERN template void cross_entropy_end<T>(context&, index_t, const matrix_ref&, const std::int32_t*, softmax_so_far<T>, T, \
                                            tensor_view<T, 2>, T*);                                                         \
  EXTERN template void softmax_rows<T>(context&, index_t, index_t, T*, index_t);                                            \
  EXTERN template void softmax_backward<T>(context&, index_t, index_t, const T*, const T*, T*, T);                          \
  EXTERN template void adamw<T>(context&, index_t, T*, const T*, T*, T*, const adamw_step&);                                \
  EXTERN template void gather_rows<T>(context&, const matrix_ref&, const std::int32_t*, index_t, T*, T);                    \
  EXTERN template void scatter_rows<T>(context&, const T*, const std::int32_t*, index_t, tensor_view<T, 2>, T);             \
  }                                                                                                                         \
  EXTERN template class tape<T>;                                                                                            \
  EXTERN template var<T, 2> linear<T>(tape<T>&, const var<T, 2>&, const var<T, 2>&, result);                                \
  EXTERN template var<T, 2> linear<T>(tape<T>&, const var<T, 2>&, const matrix_ref&, result);                               \
  EXTERN template var<T, 2> add_bias<T>(tape<T>&, var<T, 2>, const var<T, 1>&);                                             \
  EXTERN template var<T, 2> add_low_rank<T>(tape<T>&, var<T, 2>, const var<T, 2>&, const var<T, 2>&, const var<T, 2>&, double); \
  EXTERN template var<T, 2> linear_low_rank<T>(tape<T>&, const var<T, 2>&, const matrix_ref&, const var<T, 2>&,             \
                                               const var<T, 2>&, const var<T, 2>&, double, result);                         \
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
  EXTERN template class any_adapter<T>;                                                                                     \
  EXTERN template struct adapted_linear<T>;                                                                                 \
  EXTERN template struct embedding_module<T>;                                                                               \
  EXTERN template struct lora<T>;                                                                                           \
  EXTERN template class adamw<T>;                                                                                           \
  EXTERN template struct llama_layer<T>;                                                                                    \
  EXTERN template struct llama_body<T>;                                                                                     \
  EXTERN template struct llama<T>;                                                                                          \
  EXTERN template struct bert_layer<T>;                                                                                     \
  EXTERN template struct bert_encoder<T>;                                                                                   \
  EXTERN template struct bert<T>;                                                                                           \
  EXTERN template struct bert_classifier<T>;                                                                                \
  EXTERN template index_t attach<llama<T>>(llama<T>&, const target_modules&, const lora_options&, const attach_options&);   \
  EXTERN template index_t attach<bert<T>>(bert<T>&, const target_modules&, const lora_options&, const attach_options&);     \
  EXTERN template index_t attach<bert_classifier<T>>(bert_classifier<T>&, const target_modules&, const lora_options&,       \
                                                     const attach_options&);                                                \
  }

GRAFT_PRECOMPILED(extern, float)
