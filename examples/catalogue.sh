#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writes Debian's package catalogue as one TSV: section, client number, source number, title, body.
# Usage: sh catalogue.sh OUT.tsv. A client is a maintainer, a source a source package; both appear as numbers only. Body:
# paragraphs apart by "\n" (a backslash and an n); a paragraph that stood in an earlier row is dropped. Fetches the package
# lists with their long descriptions into a folder beside OUT (about 16 MB), as any user; the system's own lists stay as
# they are. Without a network it makes do with the short descriptions of the lists that are there.
set -eu
out=${1:?usage: sh catalogue.sh OUT.tsv}
mkdir -p "$(dirname "$out")"
work=$(cd "$(dirname "$out")" && pwd)/lists
command -v apt-cache >/dev/null || { echo "catalogue: this machine has no apt-cache" >&2; exit 1; }
mkdir -p "$work/partial" "$work/cache"

own="-o Dir::State::Lists=$work -o Dir::Cache=$work/cache -o APT::Sandbox::User=root"
if apt-get $own -o Debug::NoLocking=1 -o Acquire::Languages=en -o Acquire::Retries=2 update >"$work/log" 2>&1 &&
   ls "$work"/*Translation-en* >/dev/null 2>&1; then
  translations() { for f in "$work"/*Translation-en*; do /usr/lib/apt/apt-helper cat-file "$f"; echo; done; }
else
  echo "catalogue: no package lists could be fetched; using the short descriptions of those on this machine" >&2
  own=
  translations() { :; }
fi

{ translations; echo "== packages =="; apt-cache $own dumpavail; } | LC_ALL=C awk -F '\n' '
  # Stanzas apart by empty lines: first the long descriptions by checksum, then the packages that name the checksums.
  function paragraphs(lines, n,    i, line, text, all) {
    all = ""; text = ""
    for (i = 1; i <= n + 1; ++i) {
      line = i <= n ? lines[i] : " ."
      if (line == " .") {
        if (text != "" && !(text in seen)) { seen[text] = 1; all = all (all == "" ? "" : "\\n") text }
        text = ""
      } else {
        sub(/^ +/, "", line); gsub(/[\t\\]/, " ", line); gsub(/ +$/, "", line)
        text = text (text == "" ? "" : " ") line
      }
    }
    return all
  }
  function number(table, key) { if (!(key in table)) table[key] = ++counts[table["name"]]; return table[key] }
  BEGIN { RS = ""; clients["name"] = "clients"; sources["name"] = "sources" }
  $1 == "== packages ==" { packages = 1 }
  {
    split("", f); body_lines = 0; field = ""
    for (i = 1; i <= NF; ++i) {
      if (substr($i, 1, 1) == " ") { if (field ~ /^Description/) lines[++body_lines] = $i; continue }
      at = index($i, ":"); if (at == 0) continue
      field = substr($i, 1, at - 1); f[field] = substr($i, at + 2)
    }
    if (!packages) {
      if (!(f["Description-md5"] in body)) body[f["Description-md5"]] = paragraphs(lines, body_lines)
      next
    }
    if (f["Package"] == "" || (f["Package"] in done)) next
    done[f["Package"]] = 1
    source = f["Source"] == "" ? f["Package"] : f["Source"]; sub(/ .*/, "", source)
    section = f["Section"]; sub(/.*\//, "", section)
    title = f["Description"] == "" ? f["Description-en"] : f["Description"]; gsub(/[\t\\]/, " ", title)
    if (section == "" || title == "") next
    print section "\t" number(clients, f["Maintainer"]) "\t" number(sources, source) "\t" title "\t" body[f["Description-md5"]]
  }' > "$out.part"
mv "$out.part" "$out"
rm -rf "$work"
echo "catalogue: $(wc -l < "$out") packages, $(wc -c < "$out") bytes in $out"
