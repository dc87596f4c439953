#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs two programs that print `name value` lines, in turns and each in its own process, and prints how they compare.
#
#   compare.sh OURS PEER [ROUNDS] [options of both programs...]
#
# A ratio above 1 means that ours is faster, or that it takes less memory.
set -u
ours=$1 peer=$2 rounds=${3:-3}
[ $# -gt 3 ] && shift 3 || shift $#
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

round=0
while [ "$round" -lt "$rounds" ]; do
  "$ours" "$@" >>"$work/ours" || exit 1
  "$peer" "$@" >>"$work/peer" || exit 1
  round=$((round + 1))
done

# value FILE NAME: the median of a name's values.
value() {
  awk -v name="$2" '$1 == name { print $2 }' "$work/$1" | sort -g | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'
}
ratio() { echo "$1 $2" | awk '{ printf "%.2f", $1 / $2 }'; }

sort -u "$work/peer" | grep -v '^[a-z_]*  *[-0-9.e+]*$'  # what the peer says about itself
for name in tokens_per_second tokens_per_cpu_second; do
  echo "$name: $(value ours $name), peer $(value peer $name), ratio $(ratio "$(value ours $name)" "$(value peer $name)")"
done
echo "peak_rss_mib: $(value ours peak_rss_mib), peer $(value peer peak_rss_mib), ratio $(ratio "$(value peer peak_rss_mib)" "$(value ours peak_rss_mib)")"
for name in share_of_peak saved_mib allocations_a_step trainable_parameters; do echo "$name: $(value ours $name)"; done
