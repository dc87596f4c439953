// SPDX-License-Identifier: Apache-2.0
// The float kernels as a table of functions: graft::precompiled holds one for each instruction set.
// Read next: kernel/choose_table.hpp for which is taken, precompiled.hpp for who calls it.
#pragma once
#include <tuple>

#include "graft/kernel/adamw.hpp"
#include "graft/kernel/attention.hpp"
#include "graft/kernel/attention_backward.hpp"
#include "graft/kernel/blocked_cross_entropy.hpp"
#include "graft/kernel/embedding.hpp"
#include "graft/kernel/gemm.hpp"
#include "graft/kernel/rope.hpp"
#include "graft/kernel/rounded_row.hpp"
#include "graft/kernel/routed_low_rank.hpp"
#include "graft/kernel/softmax.hpp"

namespace graft::kernel {

namespace detail {

/// map with a function that has a name, of one to three arrays.
template <class F, class... In>
using map_pointer = void (*)(context&, index_t, float*, float, F, const In*...);
template <class F>
using map_of_one = map_pointer<F, float>;
template <class F>
using map_of_two = map_pointer<F, float, float>;
template <class F>
using map_of_three = map_pointer<F, float, float, float>;

using map_table = std::tuple<
    map_of_two<plus>, map_of_two<times>, map_of_one<times_constant<float>>,
    map_of_one<value_of<relu_function>>, map_of_two<gradient_of<relu_function>>,
    map_of_one<value_of<silu_function>>, map_of_two<gradient_of<silu_function>>,
    map_of_one<value_of<gelu_erf_function>>, map_of_two<gradient_of<gelu_erf_function>>,
    map_of_one<value_of<gelu_tanh_function>>, map_of_two<gradient_of<gelu_tanh_function>>,
    map_of_one<value_of<tanh_function>>, map_of_two<gradient_of<tanh_function>>,
    map_of_two<gated_value_of<silu_function>>, map_of_three<gated_gradient_of<silu_function>>>;

template <class Arch, class F, class... In>
constexpr void fill(map_pointer<F, In...>& entry) { entry = &map<float, Arch, F, In...>; }

}  // namespace detail

#define GRAFT_EACH_KERNEL(X)                                                                                            \
  X(matmul_nt) X(matmul_nn) X(matmul_tn) X(attention) X(attention_backward) X(rotate_positions) X(gather_rows)          \
  X(scatter_rows) X(add_bias) X(bias_backward) X(rms_norm) X(rms_norm_backward) X(rms_norm_gain_backward) X(layer_norm) \
  X(layer_norm_backward) X(layer_norm_gain_backward) X(softmax_rows) X(softmax_backward) X(cross_entropy_rows) X(cross_entropy_block) X(cross_entropy_end) X(adamw) \
  X(routed_low_rank) X(round_to_blocks) X(values_of_blocks) X(multiplies_in_bf16)

/// The kernels that operations on float are made of. Their types do not depend on the instruction set.
struct kernel_table {
  const char* name;
#define GRAFT_KERNEL_MEMBER(kernel_name) decltype(&kernel::kernel_name<float>) kernel_name;
  GRAFT_EACH_KERNEL(GRAFT_KERNEL_MEMBER)
#undef GRAFT_KERNEL_MEMBER
  detail::map_table maps;
};

/// The table for one instruction set, which the flags of the compilation must allow.
template <class Arch = simd::default_arch>
constexpr kernel_table table_of(const char* name) {
  kernel_table table{};
  table.name = name;
#define GRAFT_KERNEL_ENTRY(kernel_name) table.kernel_name = &kernel::kernel_name<float, Arch>;
  GRAFT_EACH_KERNEL(GRAFT_KERNEL_ENTRY)
#undef GRAFT_KERNEL_ENTRY
  std::apply([](auto&... entry) { (detail::fill<Arch>(entry), ...); }, table.maps);
  return table;
}
#undef GRAFT_EACH_KERNEL

/// The table that this processor's calls go to, chosen once. Defined in graft::precompiled. Throws option_error when GRAFT_ARCH
/// in the environment names none that can run here.
const kernel_table& chosen_table();

}  // namespace graft::kernel
