#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything from nothing: installs the missing packages, builds Release, and federates an adapter over 16 clients made of the
# text found on this machine. Usage: sh quickstart.sh [options of the quickstart program]. Results: build/quickstart/.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
. "$root/examples/setup.sh"
# shellcheck disable=SC2086
need_packages $build_packages

cd "$root"
mkdir -p build/quickstart
echo "building the quickstart program"
build release build/quickstart.log OFF quickstart

catalogue=build/quickstart/catalogue.tsv
if [ ! -s "$catalogue" ]; then
  echo "reading the package catalogue of this machine"
  sh examples/catalogue.sh "$catalogue" || rm -f "$catalogue"
fi
[ ! -s "$catalogue" ] || set -- --catalogue "$catalogue" "$@"
exec build/release/examples/quickstart --out build/quickstart "$@"
