// SPDX-License-Identifier: Apache-2.0
#include "support/instances.hpp"

GRAFT_PRECOMPILED(, double)
