// SPDX-License-Identifier: Apache-2.0
// Everything that needs nothing but xsimd: tensors, automatic differentiation, models, adapters, optimisers, federation.
// Files are in graft/io.hpp, tokenizers in graft/text.hpp, decompositions in graft/linalg.hpp.
#pragma once
#include "graft/autograd/checkpoint.hpp"
#include "graft/autograd/custom.hpp"
#include "graft/autograd/gradcheck.hpp"
#include "graft/core/thread_pool.hpp"
#include "graft/fed/client.hpp"
#include "graft/fed/fedavg.hpp"
#include "graft/fed/simulation.hpp"
#include "graft/models/bert.hpp"
#include "graft/models/generate.hpp"
#include "graft/models/llama.hpp"
#include "graft/nn/init.hpp"
#include "graft/nn/state.hpp"
#include "graft/nn/storage.hpp"
#include "graft/ops/reduce.hpp"
#include "graft/optim/adamw.hpp"
#include "graft/optim/clip.hpp"
#include "graft/optim/schedule.hpp"
#include "graft/optim/sgd.hpp"
#include "graft/peft/attach.hpp"
#include "graft/version.hpp"
