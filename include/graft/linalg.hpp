// SPDX-License-Identifier: Apache-2.0
// What needs Eigen: decompositions, and merging and converting adapters. Link graft::linalg.
#pragma once
#include "graft/linalg/eigen_view.hpp"
#include "graft/linalg/svd.hpp"
#include "graft/methods/convert.hpp"
#include "graft/methods/merge.hpp"
