// SPDX-License-Identifier: Apache-2.0
// The few macros of graft: a debug assertion, forced inlining and full unrolling. Read next: core/error.hpp.
#pragma once
#include <cassert>

/// Checks an internal condition in debug builds. Never used for what a user or a file may get wrong.
#define GRAFT_ASSERT(condition) assert(condition)

/// Inlines a micro-kernel helper even where the optimiser would not: an outlined call spills its registers.
#define GRAFT_INLINE inline __attribute__((always_inline))

/// The same for a lambda, after its parameters: one that is called from two places would otherwise become a call a vector.
#define GRAFT_INLINED __attribute__((always_inline))

/// Unrolls the loop that follows completely. Without it neither compiler keeps an accumulator array in registers.
#if defined(__clang__)
#define GRAFT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GRAFT_UNROLL _Pragma("GCC unroll 64")
#endif
