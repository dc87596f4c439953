#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every header has its entry in docs/reference/, every entry its header, and every link in the documents leads somewhere.
set -eu
cd "$(dirname "$0")/../.."
failed=0
for header in $(cd include/graft && find . -name '*.hpp' ! -path '*/detail/*' | sed 's|^\./||' | sort); do
  case $header in
    */*) page=docs/reference/${header%%/*}.md ;;
    *) page=docs/reference/index.md ;;
  esac
  grep -qsF "## ${header##*/}" "$page" || { echo "$page has no entry \"## ${header##*/}\" for $header"; failed=1; }
done
for page in docs/reference/*.md; do
  layer=$(basename "$page" .md)
  [ "$layer" = index ] && layer=.
  for header in $(sed -n 's/^## \([a-z0-9_]*\.hpp\).*/\1/p' "$page"); do
    [ -f "include/graft/$layer/$header" ] || { echo "$page describes $header, which does not exist"; failed=1; }
  done
done
for page in README.md $(find docs -name '*.md'); do
  [ -f "$page" ] || continue
  for link in $(awk '/^```/ { fence = !fence } !fence' "$page" | grep -oE '\]\([^)# ]+' | sed 's/^](//' | grep -v '^[a-z]*:' | sort -u); do
    [ -e "$(dirname "$page")/$link" ] || { echo "$page: the link $link leads nowhere"; failed=1; }
  done
done
exit $failed
