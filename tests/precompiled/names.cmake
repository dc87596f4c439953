# SPDX-License-Identifier: Apache-2.0
# cmake -D library=FILE -D tables=NAMES -D nm=NM -D objdump=OBJDUMP -P names.cmake: what a linker finds in graft::precompiled.
# An inline function of a table's object must not be taken for the same function elsewhere: it may be of wider instructions than
# the processor has. Nor may anything of such an object run before the processor was asked, or the rest of the library be wide.
cmake_minimum_required(VERSION 3.24)

function(run output)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE text)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN} failed: ${result}")
  endif()
  string(REPLACE ";" "," text "${text}")
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

run(names ${nm} --print-file-name --defined-only --extern-only ${library})
string(REPLACE ", " ";" tables "${tables}")
foreach(table IN LISTS tables)
  string(REGEX MATCHALL "[^\n]*:${table}\\.o:[^\n]*" shown "${names}")
  list(LENGTH shown count)
  if(NOT count EQUAL 1 OR NOT shown MATCHES " [DR] ${table}$")
    list(JOIN shown "\n" shown)
    message(FATAL_ERROR "${table}.o must show ${table} and nothing else, it shows\n${shown}")
  endif()
endforeach()

run(sections ${objdump} --section-headers ${library})
string(REGEX REPLACE "\nprecompiled\\.cpp\\.o:.*" "" of_tables "${sections}")  # which may have initialisers
if(NOT sanitized AND of_tables MATCHES "\\.(init_array|ctors|group)[^\n]*")
  message(FATAL_ERROR "an object of a table has a section ${CMAKE_MATCH_0}")
endif()

run(code ${objdump} --disassemble --no-show-raw-insn ${library})
string(FIND "${code}" "\nprecompiled.cpp.o:" first)
string(SUBSTRING "${code}" ${first} -1 code)
string(FIND "${code}" "\ngraft_kernels_" last)
string(SUBSTRING "${code}" 0 ${last} code)
if(code MATCHES "[^\n]*%[yz]mm[^\n]*")
  message(FATAL_ERROR "what every processor runs has wide instructions: ${CMAKE_MATCH_0}")
endif()
list(LENGTH tables count)
message(STATUS "${count} tables, each the only name of its object")
