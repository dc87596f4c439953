// SPDX-License-Identifier: Apache-2.0
// Linked into every test executable beside other sources that include the same headers: a function that is not inline
// fails to link at once.
#include "graft/graft.hpp"
