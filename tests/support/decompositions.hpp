// SPDX-License-Identifier: Apache-2.0
// Included by tests that decompose matrices: what takes Eigen half a minute to compile is compiled once, in decompositions.cpp.
#pragma once
#include "graft/linalg/svd.hpp"

extern template graft::detail::dense_svd graft::detail::svd_of<double>(const Eigen::MatrixXd&);
extern template graft::detail::thin_qr graft::detail::qr_of<double>(const Eigen::MatrixXd&);
