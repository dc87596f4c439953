# SPDX-License-Identifier: Apache-2.0
# cmake -D compiler=... -D snippet=... -D includes=a|b -P check.cmake: compiles one snippet and judges what came of it.
file(STRINGS ${snippet} lines LIMIT_COUNT 2)
list(GET lines 1 line)
if(NOT line MATCHES "^// expects: (.+)$")
  message(FATAL_ERROR "${snippet}: the second line must be \"// expects: TEXT\" or \"// expects: nothing\"")
endif()
set(expected "${CMAKE_MATCH_1}")

string(REPLACE "|" ";" includes "${includes}")
list(TRANSFORM includes PREPEND -I)
execute_process(COMMAND ${compiler} -std=c++20 -fsyntax-only ${includes} ${snippet}
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)

if(expected STREQUAL "nothing")
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${snippet} must compile, but did not:\n${output}")
  endif()
elseif(result EQUAL 0)
  message(FATAL_ERROR "${snippet} compiled, though it should fail with \"${expected}\"")
else()
  string(FIND "${output}" "${expected}" found)
  if(found EQUAL -1)
    message(FATAL_ERROR "${snippet} failed, but not with \"${expected}\":\n${output}")
  endif()
endif()
