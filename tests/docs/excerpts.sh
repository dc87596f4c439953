#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Every C++ block in README.md and docs/ is an excerpt of a program that is compiled: sh excerpts.sh [--write].
#   in the program:   // [excerpt NAME] ... // [/excerpt NAME]
#   in the document:  <!-- excerpt path/of/program.cpp NAME -->, and a cpp block right behind it
# Fails, with the difference, when a block is another text; with --write it puts the program's text into the document.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
[ $# -lt 2 ] || root=$2
cd "$root"
fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
failed=0
for page in README.md $(find docs -name '*.md' | sort); do
  [ -f "$page" ] || continue
  awk -v page="$page" '
    function complain(text) { print page ":" FNR ": " text | "cat >&2"; bad = 1 }
    function emit(file, name,    line, indent, inside, found) {
      while ((getline line < file) > 0) {
        if (line ~ "^ *// \\[excerpt " name "\\]$") { inside = found = 1; indent = index(line, "/") - 1; continue }
        if (line ~ "^ *// \\[/excerpt " name "\\]$") break
        if (inside && line !~ /^ *\/\/ \[\/?excerpt /) print substr(line, 1, indent) ~ /^ *$/ ? substr(line, indent + 1) : line
      }
      close(file)
      if (!found) complain(file " has no excerpt " name)
    }
    /^<!-- excerpt [^ ]+ [^ ]+ -->$/ { file = $3; name = $4; pending = 1; print; next }
    /^ *```(cpp|c\+\+|cxx|C\+\+)/ {
      print
      if (pending) { emit(file, name); skipping = 1 } else complain("a C++ block that is no excerpt")
      pending = 0
      next
    }
    pending { complain("no cpp block follows the excerpt comment"); pending = 0 }
    /^```$/ { skipping = 0 }
    !skipping { print }
    END { exit bad }
  ' "$page" >"$fresh" || failed=1
  cmp -s "$page" "$fresh" && continue
  if [ "${1-}" = --write ]; then
    cp "$fresh" "$page"
    echo "$page: renewed"
  else
    echo "$page differs from the programs (sh tests/docs/excerpts.sh --write renews it):"
    diff "$page" "$fresh" || failed=1
  fi
done
exit $failed
