// SPDX-License-Identifier: Apache-2.0
// What needs Eigen: decompositions, merging and converting adapters, and starts of LoRA from a weight. Link graft::linalg.
#pragma once
#include "graft/linalg/eigen_view.hpp"
#include "graft/linalg/svd.hpp"
#include "graft/methods/convert.hpp"
#include "graft/methods/lora_inits.hpp"
#include "graft/methods/merge.hpp"
