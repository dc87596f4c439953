#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds the tests and runs them. Usage: sh run.sh [PRESET [options of ctest]]; the preset is release,
# debug, asan or tsan. GRAFT_DATA names a folder of real models and texts; tests that need it are skipped without it.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/examples/setup.sh"
# shellcheck disable=SC2086
need_packages $build_packages catch2
preset=release
if [ $# -gt 0 ]; then preset=$1; shift; fi
if [ -z "${GRAFT_DATA:-}" ] && [ -d "$root/../shared/data" ]; then GRAFT_DATA=$(cd "$root/../shared/data" && pwd); fi
export GRAFT_DATA="${GRAFT_DATA:-}"

cd "$root"
echo "building the tests ($preset)"
mkdir -p build
cmake --preset "$preset" -DGRAFT_BUILD_TESTS=ON -DGRAFT_BUILD_EXAMPLES=ON >"build/$preset.log" 2>&1 || { cat "build/$preset.log" >&2; exit 1; }
cmake --build "build/$preset" >>"build/$preset.log" 2>&1 || { grep -E "error|FAILED" "build/$preset.log" | head -n 40 >&2; exit 1; }
exec ctest --test-dir "build/$preset" --output-on-failure --schedule-random -j "$(nproc)" "$@"
