// SPDX-License-Identifier: Apache-2.0
// Changing the element type that frozen weights are stored in. Read next: nn/filter.hpp.
#pragma once
#include <memory>
#include <vector>

#include "graft/nn/filter.hpp"

namespace graft {

/// A copy of an array in another element type, each value rounded once.
inline frozen_array convert_array(const frozen_array& a, dtype to) {
  auto bytes = std::make_shared<tensor<std::byte, 1>>(extents<1>{a.size() * bytes_of(to)});
  visit_dtype(to, [&]<class E>(E*) { convert_elements(a.type(), a.bytes().data(), a.size(), reinterpret_cast<E*>(bytes->data())); });
  return {to, a.shape(), bytes->data(), bytes};
}

/// Stores the frozen matrices the filter names as f32, bf16 or f16; vectors stay as they are. New memory, unless a matrix has
/// the type already; the old arrays, which others may share, are untouched.
template <module M>
void store_weights_as(M& m, dtype type, parameter_filter<typename M::value_type> which = everything) {
  if (type != dtype::f32 && type != dtype::bf16 && type != dtype::f16)
    throw_error<option_error>("store_weights_as: ", name_of(type), " is not one of f32, bf16, f16");
  for (auto& p : select(m, which))
    if (!p.trainable() && p.shape().size() == 2 && p.type() != type) p.parameter->assign(convert_array(p.parameter->share(), type));
}

}  // namespace graft
