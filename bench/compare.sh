#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Measures graft next to its peers: installs what is missing when it may, builds, runs in turns, prints the table of
# bench/compare/rows.py, and writes build/bench/compare.json with plots. Usage:
#
#   sh bench/compare.sh [--list] [--smoke] [--only PATTERN] [--clang] [--publish] [--rounds N] [--steps N]
#
# --list names the rows; --smoke verifies and judges nothing; --only takes the rows whose name has PATTERN; --clang measures the dense
# and attention rows once more with Clang; --publish puts the table and plots into docs/.
# Exit status: 0, 1 when a target is missed, 2 when something could not be installed, built, run or verified.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
here=$root/bench/compare out=$root/build/bench
. "$root/examples/setup.sh"
. "$root/tests/reference/environment.sh"

clang= publish= smoke= only=
for argument in "$@"; do
  shift
  case $argument in
    --list) exec python3 "$here/compare.py" --list names ;;
    -h | --help) sed -n '3,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --clang) clang=yes; continue ;;
    --publish) publish=yes; continue ;;
    --smoke) smoke=yes ;;
    --only*) only=yes ;;
  esac
  set -- "$@" "$argument"  # for compare.py
done

[ -z "$publish" ] || [ -z "$only$smoke" ] || { echo "--publish wants all rows, measured" >&2; exit 2; }

# llama_cpp: builds the Python package of llama.cpp for this machine, unless it is there. Some ten minutes on two cores. Without its
# kernels for matrix registers (AMX): in 0.3.36 they crash as soon as weights are q8_0.
llama_cpp() {
  "$python" -c "import gguf, llama_cpp" 2>/dev/null && return 0
  echo "building llama.cpp"
  case $(uname -m) in x86_64) without="-mno-amx-int8 -mno-amx-bf16 -mno-amx-tile" ;; *) without= ;; esac
  CFLAGS=$without CXXFLAGS=$without CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
    "$python" -m pip install -q -r "$here/requirements.txt" >"$root/build/reference/llama_cpp.log" 2>&1
}

# A function that stops must stop this script with 2.
# shellcheck disable=SC2086  # lists of words, here and below
(need_packages $build_packages python3 python3-venv) || exit 2
programs=$(python3 "$here/compare.py" --list programs "$@") || exit 2
packages="libbenchmark-dev libdnnl-dev ocl-icd-opencl-dev libopenblas-dev libopenblas0-pthread"  # dnnl only recommends OpenCL, but is not found without
targets=
for program in $programs; do
  case $program in
    *_libtorch) packages="$packages libtorch-dev" targets="$targets $program" ;;
    *.py) ;;
    *) targets="$targets $program" ;;
  esac
done
[ -z "$clang" ] || packages="$packages clang"
(need_packages $packages) || exit 2
case $programs in
  *.py*) reference_python || { echo "the libraries of tests/reference/requirements.txt cannot be installed" >&2; exit 2; } ;;
esac
case $programs in
  *decode_peer*) llama_cpp || { echo "llama.cpp cannot be built from its Python package: rows beside it are left out" >&2; set -- --without llama.cpp "$@"; } ;;
esac

cd "$root"
echo "building the benchmarks"
build_options=-DGRAFT_BUILD_BENCH=ON
(build release build/bench.log OFF $targets) || exit 2
set -- --programs "$root/build/release/bench" --out "$out" --python "${python:-python3}" "$@"
if [ -n "$clang" ]; then
  (cmake --preset release -B build/bench-clang $build_options -DCMAKE_CXX_COMPILER=clang++ && cmake --build build/bench-clang --parallel "$(nproc)" \
    --target bench_gemm bench_kernel) >build/bench-clang.log 2>&1 || { tail -n 20 build/bench-clang.log >&2; exit 2; }
  set -- --clang-programs "$root/build/bench-clang/bench" "$@"
fi

status=0
python3 "$here/compare.py" "$@" || status=$?
if [ "$status" -lt 2 ] && [ -z "$smoke" ]; then
  python3 "$here/plot.py" "$out/compare.json" "$out/compare/plots" || exit 2
  [ -z "$publish" ] || python3 "$here/plot.py" "$out/compare.json" docs/compare docs/benchmarks.md || exit 2
fi
exit "$status"
