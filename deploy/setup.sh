#!/usr/bin/env bash
# Installs what Ikkuna is built from on Debian 12: packages, and LibTorch in a cache outside the tree.
# Run it again at any time: what is there already is left alone.
set -euo pipefail

torch_version=2.11.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ikkuna
venv=$cache/venv-torch-$torch_version
packages=(
  build-essential cmake ninja-build ccache pkg-config
  python3-venv
  libgrpc++-dev libssl-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  libboost-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libspdlog-dev libsqlite3-dev libzstd-dev zlib1g-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  dataset-fashion-mnist
)

# What the fuzz targets are built with, and nothing else is.
clang_packages=(clang libclang-rt-14-dev)

usage() {
  cat <<EOF
usage: deploy/setup.sh [--with-clang] [--help]

Installs, where missing:
  1. Debian packages (needs root): ${packages[*]}
  2. LibTorch $torch_version, from the Python package torch, in $venv
     (about 5 GB; XDG_CACHE_HOME moves it)

  --with-clang  also what the fuzz targets of the tests are built with: ${clang_packages[*]}
EOF
}

say() { printf '%s\n' "$*"; }
die() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }

install_packages() {
  command -v dpkg-query >/dev/null || die "this script knows Debian 12 alone; elsewhere install the equivalents of: ${packages[*]}"
  local missing=() package
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == ii* ]] || missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then
    say "[1/2] packages: all ${#packages[@]} are installed"
    return
  fi
  if ((EUID != 0)); then
    die "these packages are missing, and only root may install them. Run:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}
then this script again."
  fi
  say "[1/2] packages: installing ${missing[*]}"
  local log
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    die "apt-get failed; its whole output is in $log"
  fi
  rm -f "$log"
}

torch_is_installed() {
  [[ -x $venv/bin/python && ! -e $venv.incomplete ]] &&
    "$venv/bin/python" - "$torch_version" <<'EOF' 2>/dev/null
import importlib.metadata as metadata, sys
metadata.version("numpy")
sys.exit(metadata.version("torch").split("+")[0] != sys.argv[1])
EOF
}

install_torch() {
  mkdir -p "$cache" || die "cannot make $cache; set XDG_CACHE_HOME to a folder that can be written to"
  exec 9>"$cache/setup.lock"
  flock -n 9 || { say "[2/2] LibTorch: another setup is at work in $cache, waiting for it"; flock 9; }
  if torch_is_installed; then
    say "[2/2] LibTorch: $torch_version is in $venv"
    return
  fi
  local free_mb
  free_mb=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
  ((free_mb >= 8000)) || die "LibTorch needs 8 GB while it is installed, $cache has $free_mb MB; set XDG_CACHE_HOME to a larger disk"
  say "[2/2] LibTorch: installing torch $torch_version in $venv (3 GB to download, a minute or more)"
  # An interrupted installation is started afresh.
  : >"$venv.incomplete"
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/python" -m pip install --no-cache-dir --disable-pip-version-check "torch==$torch_version" numpy ||
    die "pip could not install torch $torch_version; see its message above (network, proxy or disk), then run this again"
  rm -f "$venv.incomplete"
}

case ${1:-} in
  "") ;;
  --with-clang) packages+=("${clang_packages[@]}") ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; die "unknown argument '$1'" ;;
esac
install_packages
install_torch
