#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Trains an adapter for stories260K with 1, 2 and 7 threads: the files must be equal to the byte. Some minutes; prints SKIPPED
# where the data is missing. Usage: sh workers.sh [steps, default 500]
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$root/build/reference/workers steps=${1:-500}
. "$root/examples/setup.sh"
# shellcheck disable=SC2086
need_packages $build_packages
find_data
[ -n "$GRAFT_DATA" ] || { echo "SKIPPED equal bytes on any number of threads: GRAFT_DATA is not set"; exit 0; }

cd "$root"
mkdir -p "$work"
build release "$work/build.log" ON finetune
for threads in 1 2 7; do
  build/release/examples/finetune "$GRAFT_DATA/stories260K" --text "$GRAFT_DATA/tinyshakespeare/input.txt" --out "$work/$threads" --steps "$steps" --threads "$threads"
done
for threads in 2 7; do
  cmp "$work/1/adapter_model.safetensors" "$work/$threads/adapter_model.safetensors"
done
echo "$steps steps on 1, 2 and 7 threads: equal to the byte"
