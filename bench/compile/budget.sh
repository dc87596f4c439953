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
# here too, between the others, and scale what follows: so a busy machine slows both sides. Times are user time, the median
# of the runs; what is over its budget is run three times more, each time right after the two, and judged by those.
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
    linalg/* | methods/merge.hpp | methods/convert.hpp | methods/lora_inits.hpp) echo 3.0 ;;  # Eigen
    tests/*) echo 12 ;;
    *) echo 1.5 ;;         # xsimd and kernels
  esac
}

# What a folder needs beside xsimd: without it its headers are left out.
dependency() {
  case $1 in
    io.hpp | io/*) echo nlohmann/json.hpp ;;
    linalg.hpp | linalg/* | methods/merge.hpp | methods/convert.hpp | methods/lora_inits.hpp) echo Eigen/Core ;;
    text.hpp | text/*) echo utf8proc.h ;;
    *) echo cstddef ;;
  esac
}

# user_time NAME [flags...]: prints the seconds that compiling $work/NAME.cpp takes.
user_time() {
  name=$1
  shift
  (
    "$compiler" -std=c++20 -O2 "$@" -c "$work/$name.cpp" -o "$work/object.o" 2>"$work/errors" || exit 1
    times >"$work/children"  # a pipe would ask a new shell, which has no children
    awk 'NR == 2 { split($1, t, /[ms]/); printf "%.2f", t[1] * 60 + t[2] }' "$work/children"
  )
}
time_references() {
  xsimd=$(user_time xsimd "$@") && json=$(user_time json "$@") || { cat "$work/errors"; echo "xsimd and nlohmann/json must be installed"; exit 1; }
  scale=$(echo "$xsimd $json" | awk '{ print (0.87 + 1.58) / ($1 + $2) }')
}
# run NAME PATH [flags...]: appends seconds and scaled seconds to $work/NAME.times. Tests are compiled as tests/CMakeLists.txt does it.
run() {
  name=$1 path=$2
  shift 2
  case $path in
    tests/*) set -- "$@" -march=native "-I$source_dir/tests" -include "$source_dir/tests/support/instances.hpp" ;;
  esac
  seconds=$(user_time "$name" "$@") || { cat "$work/errors"; echo "$path does not compile alone"; exit 1; }
  echo "$seconds $scale" | awk '{ print $1, $1 * $2 }' >>"$work/$name.times"
}
# median NAME: the median of the seconds, and that of the scaled seconds.
median() {
  for field in 1 2; do
    cut -d ' ' -f $field "$work/$1.times" | sort -g | awk '{ v[NR] = $1 } END { printf "%.2f ", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
  done
}
is_over() { echo "$(median "$1") $2" | awk '{ exit !($2 > $3) }'; }

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

round=0
while [ "$round" -lt "${RUNS:-2}" ]; do
  count=0
  while read -r name limit path; do
    [ $((count % 15)) -ne 0 ] || time_references "$@"
    run "$name" "$path" "$@"
    count=$((count + 1))
  done <"$work/list"
  round=$((round + 1))
done

over=0
echo "seconds  scaled  budget"
while read -r name limit path; do
  if is_over "$name" "$limit"; then
    rm "$work/$name.times"
    for again in 1 2 3; do
      time_references "$@"
      run "$name" "$path" "$@"
    done
  fi
  verdict=ok
  if is_over "$name" "$limit"; then verdict=over over=$((over + 1)); fi
  echo "$(median "$name") $limit $verdict $path" | awk '{ printf "%7.2f  %6.2f  %6.1f  %-4s  %s\n", $1, $2, $3, $4, $5 }'
done <"$work/list"
echo "$over of $number over budget; xsimd takes $xsimd s and json $json s here"
[ "$over" -eq 0 ]
