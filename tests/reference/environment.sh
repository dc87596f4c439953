# SPDX-License-Identifier: Apache-2.0
# Sourced after examples/setup.sh: the Python environment with the libraries graft is compared with.

# reference_python: makes build/reference/venv from requirements.txt, unless it is there, and sets $python. Fails, after
# the last lines of pip, when the libraries cannot be had.
reference_python() {
  python=$root/build/reference/venv/bin/python
  wanted=$root/tests/reference/requirements.txt installed=$root/build/reference/installed.txt
  cmp -s "$wanted" "$installed" && return 0
  echo "installing the Python libraries to compare with"
  mkdir -p "$root/build/reference"
  if { python3 -m venv "$root/build/reference/venv" && "$python" -m pip install -q -r "$wanted"; } >"$root/build/reference/pip.log" 2>&1; then
    cp "$wanted" "$installed"
    return 0
  fi
  tail -n 5 "$root/build/reference/pip.log"
  return 1
}
