// SPDX-License-Identifier: Apache-2.0
// What needs Eigen: link graft::linalg.
#pragma once
#include "graft/linalg/eigen_view.hpp"
