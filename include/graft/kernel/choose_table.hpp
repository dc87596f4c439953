// SPDX-License-Identifier: Apache-2.0
// Which table of kernels a processor can run: for the source of graft::precompiled alone. Read next: precompiled.hpp.
#pragma once
#include <cstdlib>
#include <initializer_list>
#include <string>
#include <string_view>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "graft/core/error.hpp"
#include "graft/kernel/table.hpp"

namespace graft::kernel {

#if defined(__x86_64__)
/// Whether processor and system have all that the flags of a table's compilation allow: the lists are those of CMakeLists.txt.
inline bool runs_sse2() { return true; }
inline bool runs_avx2() {
  __builtin_cpu_init();
  unsigned a, b, c = 0, d;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;  // Clang's builtin does not know this one
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
inline bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif
inline bool runs_native() { return true; }

struct table_choice {
  const kernel_table* table;
  bool (*runs)();
};

/// The first table that runs here, or the one that the environment variable GRAFT_ARCH names.
inline const kernel_table& choose_table(std::initializer_list<table_choice> widest_first) {
  const char* const wanted = std::getenv("GRAFT_ARCH");
  std::string here;
  for (const table_choice& choice : widest_first) {
    if (!choice.runs()) continue;
    if (wanted == nullptr || std::string_view(wanted) == choice.table->name) return *choice.table;
    here += here.empty() ? "" : ", ";
    here += choice.table->name;
  }
  throw_error<option_error>("GRAFT_ARCH is \"", std::string_view(wanted), "\", this processor runs ", here);
}

}  // namespace graft::kernel
