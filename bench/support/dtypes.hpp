// SPDX-License-Identifier: Apache-2.0
// --dtype of the programs that measure ours. Read next: steps.hpp.
#pragma once
#include <string_view>

#include "graft/core/dtype.hpp"
#include "graft/core/error.hpp"

namespace bench {

inline graft::dtype parse_dtype(std::string_view name) {
  for (const graft::dtype type : {graft::dtype::bf16, graft::dtype::f16, graft::dtype::q8_0, graft::dtype::q4_0, graft::dtype::nf4})
    if (graft::name_of(type) == name) return type;
  graft::throw_error<graft::option_error>("--dtype \"", name, "\" is not one of bf16, f16, q8_0, q4_0, nf4");
}

}  // namespace bench
