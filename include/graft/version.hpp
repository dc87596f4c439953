// SPDX-License-Identifier: Apache-2.0
// The version of graft, in the one place that states it. CMakeLists.txt reads this line.
#pragma once

#define GRAFT_VERSION "0.1.0"
