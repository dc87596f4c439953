#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds the tests and runs them. Usage: sh run.sh [PRESET [LAYER...]]; PRESET is release (the
# default), debug, asan or tsan; LAYER is a folder of tests with an executable of its own, as core or fed; none: everything.
# GRAFT_DATA names a folder of real models and texts; tests that need it are skipped without it.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/examples/setup.sh"
# shellcheck disable=SC2086  # lists of words, here and below
need_packages $build_packages catch2
preset=release
if [ $# -gt 0 ]; then preset=$1; shift; fi
find_data

cd "$root"
echo "building the tests ($preset${1:+: $*})"
targets= layers=
for layer in "$@"; do targets="$targets test_$layer" layers="$layers${layers:+|}$layer"; done
build "$preset" "build/tests-$preset.log" ON $targets
exec ctest --test-dir "build/$preset" --output-on-failure --progress --parallel "$(nproc)" ${layers:+--label-regex "^($layers)\$"}
