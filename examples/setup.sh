# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts that build graft: installs the Debian packages they name, when it may. Nothing here is run by hand.

build_packages="g++ cmake ninja-build pkg-config libxsimd-dev nlohmann-json3-dev libeigen3-dev libpcre2-dev libutf8proc-dev libcli11-dev"

# need_packages NAME...: installs what is missing as root, or through a sudo that asks nothing; else names it and stops.
need_packages() {
  command -v dpkg-query >/dev/null 2>&1 || { echo "not a Debian system: expecting $* or their like to be there"; return 0; }
  missing=
  for package in "$@"; do
    # A tool may come from elsewhere; a library is what the package brings.
    case $package in
      g++ | cmake) command -v "$package" >/dev/null 2>&1 && continue ;;
      ninja-build) command -v ninja >/dev/null 2>&1 && continue ;;
    esac
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" = 0 ]; then as_root=; elif sudo -n true 2>/dev/null; then as_root="sudo -n"; else
    echo "These packages are missing; install them and run this again:" >&2
    echo "  apt-get install$missing" >&2
    exit 1
  fi
  echo "installing$missing"
  log=$(mktemp)
  # shellcheck disable=SC2086  # lists of words
  if ! { $as_root apt-get -qq -o Acquire::Retries=3 update &&
         $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Acquire::Retries=3 install $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "could not install$missing" >&2
    rm -f "$log"
    exit 1
  fi
  rm -f "$log"
}

# build PRESET LOG TESTS [TARGET...]: configures build/PRESET with tests ON or OFF, and with $build_options, and builds these targets,
# or everything.
build_options=
build() {
  preset=$1 log=$2 tests=$3
  shift 3
  mkdir -p "$root/build"
  (cd "$root" && cmake --preset "$preset" "-DGRAFT_BUILD_TESTS=$tests" -DGRAFT_BUILD_EXAMPLES=ON $build_options) >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
  cmake --build "$root/build/$preset" --parallel "$(nproc)" ${1:+--target "$@"} >>"$log" 2>&1 ||
    { grep -E "error|FAILED" "$log" | head -n 40 >&2; echo "the whole output is in $log" >&2; exit 1; }
}

# find_data: sets GRAFT_DATA, the folder of real models and texts, to the one beside the project unless it is set already.
find_data() {
  if [ -z "${GRAFT_DATA:-}" ] && [ -d "$root/../shared/data" ]; then GRAFT_DATA=$(cd "$root/../shared/data" && pwd); fi
  export GRAFT_DATA="${GRAFT_DATA:-}"
}
