#!/usr/bin/env bash
# Runs one benchmark of a release build: a table, and as the last line its figures as key=value.
set -euo pipefail
cd "$(dirname "$0")/../.."

usage() {
  cat <<'EOF'
usage: tests/bench/run.sh NAME [--check] [OPTION]...

  overhead   what watching costs a trainer, against the bare loop        (25 minutes)
             --threads 2: as in the quickstart, the daemon beside it
  instructions
             what a step asleep and the loss alone cost a trainer, counted
             by valgrind, whatever else runs                             (4 minutes)
  ring       a publish, records a second, payload against a plain copy   (1 minute)
  stats      the fused statistics against a plain read and against ATen  (1 minute)
  store      the run store: samples a second, bytes written and at rest,
             memory, opening and reading                                 (2 minutes)
  latency    optimizer step to a watching client                         (1 minute)
  all        each of them

--check: exit 1 when a figure misses what the project promises; OPTIONs go to the benchmark (overhead --help).
Builds what it needs in build/release; run deploy/setup.sh and, for latency, tests/run.sh once before. Measure on a machine
that does nothing else. tests/bench/RESULTS.md keeps what was measured.
EOF
}

build=build/release
python=${XDG_CACHE_HOME:-$HOME/.cache}/ikkuna/venv-tests/bin/python
export IKKUNA_BIN_DIR=$PWD/$build/bin

build_targets() {
  [[ -f $build/build.ninja ]] || cmake --preset release >"$build-configure.log" 2>&1 ||
    { cat "$build-configure.log" >&2; exit 1; }
  cmake --build --preset release --target "$@" >&2
}

machine() {
  printf 'machine: %s, %s cores, Linux %s; %s\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" \
    "$(nproc)" "$(uname -r)" "$(g++ --version | head -n 1)"
  printf 'load before: %s\n' "$(cut -d ' ' -f 1-3 /proc/loadavg)"
}

name=${1:-}
shift || true
case $name in
  -h | --help) usage; exit 0 ;;
  all)
    for each in ring stats store latency instructions overhead; do "$0" "$each" "$@"; done
    exit 0 ;;
esac
mkdir -p build
# The C library's default gives large blocks back to the system and takes them again: page faults instead of figures.
export MALLOC_TRIM_THRESHOLD_=$((1 << 33)) MALLOC_TOP_PAD_=$((1 << 28))
export MALLOC_MMAP_THRESHOLD_=$((1 << 30))
case $name in
  ring | stats | store)
    build_targets "${name}_bench"
    machine
    exec "$build/tests/${name}_bench" "$@" ;;
  overhead)
    build_targets overhead_trainer ikkuna-daemon ikkuna
    machine
    exec python3 tests/bench/overhead.py "$@" ;;
  instructions)
    build_targets overhead_trainer ikkuna-daemon
    machine
    exec python3 tests/bench/instructions.py "$@" ;;
  latency)
    [[ -x $python ]] || { echo "run.sh: no $python; run tests/run.sh once, which makes it" >&2; exit 1; }
    build_targets ikkuna-train ikkuna-daemon
    machine
    exec "$python" tests/bench/latency.py "$@" ;;
  *) usage >&2; exit 2 ;;
esac
