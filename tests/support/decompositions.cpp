// SPDX-License-Identifier: Apache-2.0
#include "support/decompositions.hpp"

template graft::detail::dense_svd graft::detail::svd_of<double>(const Eigen::MatrixXd&);
template graft::detail::thin_qr graft::detail::qr_of<double>(const Eigen::MatrixXd&);
