// SPDX-License-Identifier: Apache-2.0
// graft::linalg alone: a tensor seen by Eigen.
#include <cstdio>

#include "graft/linalg/eigen_view.hpp"

int main() {
  const auto x = graft::tensor<double, 2>::of({{1, 2}, {3, 4}});
  std::printf("linalg: the trace is %g\n", graft::as_eigen(x).trace());
}
