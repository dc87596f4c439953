// SPDX-License-Identifier: Apache-2.0
// Counts calls of operator new. The operators are replaced in allocations.cpp, linked into every test.
#pragma once
#include <cstddef>

namespace graft::test {

/// Calls of operator new, of any form and on any thread, since the program began.
std::size_t allocations();

}  // namespace graft::test
