# SPDX-License-Identifier: Apache-2.0
# cmake -D scratch=DIR -P rules_check.cmake: breaks each rule once in a small tree of its own, and wants rules.cmake to say so.
cmake_minimum_required(VERSION 3.24)

# A header that keeps the rules, with these lines added.
function(header path)
  list(JOIN ARGN "\n" lines)
  file(WRITE ${tree}/graft/${path} "// SPDX-License-Identifier: Apache-2.0\n// For a test.\n#pragma once\n${lines}\n")
endfunction()

# Writes headers by the commands given, and runs the rules over them.
function(expect complaint)
  execute_process(COMMAND ${CMAKE_COMMAND} -D include=${tree} -P ${CMAKE_CURRENT_LIST_DIR}/rules.cmake
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  string(FIND "${output}" "${complaint}" found)
  if(found EQUAL -1)
    message(SEND_ERROR "expected \"${complaint}\", got:\n${output}")
  elseif(result EQUAL 0 AND NOT complaint MATCHES "keep the rules")
    message(SEND_ERROR "\"${complaint}\" was printed, but the exit code is 0")
  endif()
  file(REMOVE_RECURSE ${tree})
endfunction()

set(tree ${scratch})
file(REMOVE_RECURSE ${tree})

header(core/a.hpp "#include <vector>")
header(nn/b.hpp "#include \"graft/core/a.hpp\"")
header(graft.hpp "#include \"graft/nn/b.hpp\"")
expect("3 headers keep the rules")

header(core/a.hpp "#include \"graft/nn/b.hpp\"")
header(nn/b.hpp)
expect("core/a.hpp includes graft/nn/b.hpp: core/ does not stand above nn/")

header(fed/a.hpp "  #  include \"graft/peft/b.hpp\"")
header(peft/b.hpp)
expect("fed/a.hpp includes graft/peft/b.hpp: fed/ does not stand above peft/")

header(core/a.hpp "#include \"graft/core/b.hpp\"")
header(core/b.hpp "#include \"graft/core/c.hpp\"")
header(core/c.hpp "#include \"graft/core/a.hpp\"")
expect("a cycle: core/a.hpp -> core/b.hpp -> core/c.hpp -> core/a.hpp")

header(nn/a.hpp "#include \"graft/graft.hpp\"")
header(graft.hpp)
expect("nn/a.hpp includes graft/graft.hpp, an umbrella")

header(nn/a.hpp "#include \"graft/nn/b.hpp\"")
expect("nn/a.hpp includes graft/nn/b.hpp, which does not exist")

header(nn/a.hpp "#include \"b.hpp\"")
expect("write the path from graft/ on")

header(core/a.hpp "#include <thread>")
expect("core/a.hpp includes <thread>, which belongs to ^core/thread_pool")

header(kernel/a.hpp "#include <xsimd/xsimd.hpp>")
expect("kernel/a.hpp includes <xsimd/xsimd.hpp>")

header(simd/a.hpp "#include <sys/syscall.h>")
expect("simd/a.hpp includes <sys/syscall.h>")

header(linalg/a.hpp)
header(peft/b.hpp "#include \"graft/linalg/a.hpp\"")
header(graft.hpp "#include \"graft/peft/b.hpp\"")
expect("graft.hpp brings linalg/a.hpp along")

header(tools/a.hpp)
expect("tools/a.hpp is in a folder that has no place in the list of floors")

string(REPEAT "//\n" 600 long)
header(core/a.hpp "${long}")
expect("core/a.hpp has 604 lines, at most 600 are allowed")

header(core/a.hpp "// Read next: core/b.hpp.")
expect("core/a.hpp sends its reader to core/b.hpp, which does not exist")

header(fwd.hpp)
file(APPEND ${tree}/graft/fwd.hpp "class here;\ntemplate <class T> struct gone;\n")
header(core/a.hpp "class here {" "};")
expect("fwd.hpp names gone, which no header defines")

file(WRITE ${tree}/graft/core/a.hpp "#pragma once\n")
expect("core/a.hpp does not begin with the licence line")
