// SPDX-License-Identifier: Apache-2.0
// Everything that needs nothing but xsimd: tensors, automatic differentiation, models, adapters, optimisers, federation.
// Files are in graft/io.hpp, tokenizers in graft/text.hpp, decompositions in graft/linalg.hpp.
#pragma once
#include "graft/core/context.hpp"
#include "graft/core/frozen_array.hpp"
#include "graft/core/random.hpp"
#include "graft/core/thread_pool.hpp"
#include "graft/kernel/gemm.hpp"
#include "graft/nn/state_dict.hpp"
#include "graft/version.hpp"
