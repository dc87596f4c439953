#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compiles every public header alone and fails when one takes longer than its budget.
#
#   budget.sh SOURCE_DIR COMPILER [include flags...]
#
# Environment: ONLY, a pattern of paths to time (core/*); TESTS, sources under tests/ to time as well, each against the
# budget of a test; RUNS, timings of each (2).
#
# Budgets are seconds of a reference machine, on which xsimd.hpp takes 0.87 s and nlohmann/json.hpp 1.58 s. Both are timed
# here too, between the others, and their sum gives the scale. Times are user time, the best of the runs; what is over
# its budget is run three times more before it is judged.
set -u
source_dir=$1 compiler=$2
shift 2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The rule, in seconds of the reference machine.
budget() {
  case $1 in
    graft.hpp | io.hpp | text.hpp | linalg.hpp | precompiled.hpp) echo 3.0 ;;
    core/* | version.hpp) echo 0.5 ;;
    io/*) echo 2.6 ;;      # the JSON parser and one second
    linalg/*) echo 3.0 ;;  # Eigen
    tests/*) echo 12 ;;
    *) echo 1.5 ;;         # xsimd and kernels
  esac
}

# What a folder needs beside xsimd: without it its headers are left out.
dependency() {
  case $1 in
    io.hpp | io/*) echo nlohmann/json.hpp ;;
    linalg.hpp | linalg/*) echo Eigen/Core ;;
    text.hpp | text/*) echo utf8proc.h ;;
    *) echo cstddef ;;
  esac
}

# time_once NAME [flags...]: appends the user time of compiling $work/NAME.cpp to $work/NAME.times.
time_once() {
  name=$1
  shift
  (
    "$compiler" -std=c++20 -O2 "$@" -c "$work/$name.cpp" -o "$work/object.o" 2>"$work/errors" || exit 1
    times >"$work/children"  # a pipe would ask a new shell, which has no children
    awk 'NR == 2 { split($1, t, /[ms]/); printf "%.2f\n", t[1] * 60 + t[2] }' "$work/children" >>"$work/$name.times"
  )
}
best() { sort -n "$work/$1.times" | head -n 1; }
time_references() {
  time_once xsimd "$@" && time_once json "$@" || { cat "$work/errors"; echo "xsimd and nlohmann/json must be installed"; exit 1; }
}
scale() { echo "$(best xsimd) $(best json)" | awk '{ print (0.87 + 1.58) / ($1 + $2) }'; }

echo '#include <xsimd/xsimd.hpp>' >"$work/xsimd.cpp"
echo '#include <nlohmann/json.hpp>' >"$work/json.cpp"
cd "$source_dir/include/graft" || exit 1
sources=$(find . -name '*.hpp' ! -path '*/detail/*' ! -path './ext/*' | sed 's|^\./||' | sort)
for test in ${TESTS:-}; do sources="$sources tests/$test"; done

number=0
for path in $sources; do
  case $path in ${ONLY:-*}) ;; *) continue ;; esac
  needed=$(dependency "$path")
  if ! echo "#include <$needed>" | "$compiler" -E -x c++ "$@" - >"$work/out" 2>&1; then
    echo "left out: $path, which needs $needed"
    continue
  fi
  name=source_$number
  case $path in
    tests/*) echo "#include \"$source_dir/$path\"" ;;
    *) echo "#include \"graft/$path\"" ;;
  esac >"$work/$name.cpp"
  echo "$name $(budget "$path") $path" >>"$work/list"
  number=$((number + 1))
done

# run NAME PATH [flags...]: tests are compiled as tests/CMakeLists.txt does it.
run() {
  name=$1 path=$2
  shift 2
  case $path in
    tests/*) set -- "$@" -march=native "-I$source_dir/tests" -include "$source_dir/tests/support/instances.hpp" ;;
  esac
  time_once "$name" "$@" || { cat "$work/errors"; echo "$path does not compile alone"; exit 1; }
}

round=0
while [ "$round" -lt "${RUNS:-2}" ]; do
  time_references "$@"
  count=0
  while read -r name limit path; do
    run "$name" "$path" "$@"
    count=$((count + 1))
    [ $((count % 30)) -ne 0 ] || time_references "$@"
  done <"$work/list"
  round=$((round + 1))
done
time_references "$@"

factor=$(scale)
over=0
echo "xsimd $(best xsimd) s, json $(best json) s here: one second here is $factor s on the reference machine"
echo "seconds  scaled  budget"
while read -r name limit path; do
  exceeds() { echo "$(best "$name") $factor $limit" | awk '{ exit !($1 * $2 > $3) }'; }
  if exceeds; then for again in 1 2 3; do run "$name" "$path" "$@"; done; fi
  verdict=ok
  if exceeds; then verdict=over over=$((over + 1)); fi
  echo "$(best "$name") $factor $limit $verdict $path" | awk '{ printf "%7.2f  %6.2f  %6.1f  %-4s  %s\n", $1, $1 * $2, $3, $4, $5 }'
done <"$work/list"
echo "$over of $number over budget"
[ "$over" -eq 0 ]
