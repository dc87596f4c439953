// SPDX-License-Identifier: Apache-2.0
// The type of sizes and positions. Read next: core/extents.hpp.
#pragma once
#include <cstddef>

namespace graft {

using index_t = std::ptrdiff_t;  // signed; not `index`, which collides with POSIX ::index under a using-directive

}  // namespace graft
