// SPDX-License-Identifier: Apache-2.0
// Included before every test: what graft::precompiled holds for float, for double as well.
#pragma once
#include "graft/precompiled.hpp"

GRAFT_PRECOMPILED(extern, double)
