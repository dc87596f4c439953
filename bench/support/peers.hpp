// SPDX-License-Identifier: Apache-2.0
// Other libraries' dense products, those that were found when this was configured. Read next: kernel/gemm.cpp.
#pragma once
#include <vector>

#include "graft/core/extents.hpp"
#include "support/timing.hpp"

namespace bench {

using graft::index_t;

/// c (m, n) = op(a) op(b), all contiguous and row-major; op(a) is (m, k) and op(b) is (k, n).
struct dense_product {
  index_t m, n, k;
  bool a_transposed, b_transposed;
  const float *a, *b;
  float* c;
};

/// One contender for every peer, ready to run: oneDNN, OpenBLAS, Eigen.
std::vector<contender> product_peers(const dense_product& p);

}  // namespace bench
