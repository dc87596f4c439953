// SPDX-License-Identifier: Apache-2.0
#include "support/files.hpp"

GRAFT_FILES(, float)
