// SPDX-License-Identifier: Apache-2.0
// Changing the type that frozen weights are stored in. Read next: nn/filter.hpp, core/blocks.hpp.
#pragma once
#include "graft/nn/filter.hpp"
#include "graft/nn/quantize.hpp"

namespace graft {

namespace detail {
inline void check_weight_type(std::string_view op, dtype type) {
  if (type != dtype::f32 && type != dtype::bf16 && type != dtype::f16 && !is_block_format(type))
    throw_error<option_error>(op, ": ", name_of(type), " is not one of f32, bf16, f16, q8_0, q4_0, nf4");
}
}  // namespace detail

/// Stores the frozen matrices the filter names as f32, bf16, f16, q8_0, q4_0 or nf4; vectors stay as they are. New memory,
/// unless a matrix has the type already; the old arrays, which others may share, are untouched.
template <module M>
void store_weights_as(M& m, dtype type, parameter_filter<typename M::value_type> which = everything) {
  detail::check_weight_type("store_weights_as", type);
  for (auto& p : select(m, which))
    if (!p.trainable() && p.shape().size() == 2 && p.type() != type) p.parameter->assign(convert_array(p.parameter->share(), type));
}

}  // namespace graft
