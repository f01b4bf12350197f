#!/usr/bin/env bash
# The whole of Ikkuna once, on real data: builds it, trains a network on Fashion-MNIST with a daemon watching, shows what it saw.
# Ends by itself and leaves nothing running; what was recorded stays in ikkuna-data/.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'EOF'
usage: deploy/quickstart.sh [--model fc|alexnet-mini|resnet-small] [--epochs N]

Installs what is missing (deploy/setup.sh), builds the release preset, starts ikkuna-daemon, runs ikkuna-train on
Fashion-MNIST, and prints through the ikkuna client what the daemon recorded. The default is two epochs of `fc`, under a
minute of training on two cores. IKKUNA_QUICKSTART_DATA moves the recording from ikkuna-data/quickstart-<time>.
EOF
}

die() { printf '\nquickstart.sh: %s\n' "$*" >&2; exit 1; }

model=fc epochs=2
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --model | --epochs)
      [[ -n ${2:-} ]] || { usage >&2; die "$1 needs a value"; }
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    *) usage >&2; die "unknown argument '$1'" ;;
  esac
  shift
done
[[ $epochs =~ ^[1-9][0-9]*$ ]] || die "--epochs $epochs: give a whole number above zero"
case $model in
  fc) first_layer=layers.0 ;;
  alexnet-mini) first_layer=features.0 ;;
  resnet-small) first_layer=stem.0 ;;
  *) die "--model $model: one of fc, alexnet-mini, resnet-small" ;;
esac

bold= plain=
if [[ -t 1 ]]; then bold=$'\e[1m' plain=$'\e[0m'; fi
say() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

bin=$PWD/build/release/bin
data=${IKKUNA_QUICKSTART_DATA:-$PWD/ikkuna-data/quickstart-$(date +%Y%m%d-%H%M%S)}
daemon_pid='' trainer_pid='' meeting=''

# Runs at every way out. A daemon of our own that does not end on SIGTERM within 20 s is killed.
clean_up() {
  local code=$? pid
  trap - EXIT
  for pid in $trainer_pid $daemon_pid; do kill -TERM "$pid" 2>/dev/null || true; done
  for _ in {1..200}; do
    [[ -n $daemon_pid ]] && kill -0 "$daemon_pid" 2>/dev/null || break
    sleep 0.1
  done
  for pid in $trainer_pid $daemon_pid; do kill -KILL "$pid" 2>/dev/null || true; done
  wait
  [[ -z $meeting ]] || rm -rf "$meeting"
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A file that includes LibTorch takes 2 GB to compile.
build_jobs() {
  local cores memory_gb
  cores=$(nproc)
  memory_gb=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
  local by_memory=$((memory_gb / 2 > 1 ? memory_gb / 2 : 1))
  echo $((cores < by_memory ? cores : by_memory))
}

say "1/4 Setup"
deploy/setup.sh

say "2/4 Build (a few minutes the first time)"
mkdir -p build
cmake --preset release >build/release-configure.log 2>&1 || {
  tail -n 20 build/release-configure.log >&2
  die "cmake failed; its whole output is in build/release-configure.log"
}
NINJA_STATUS='[%f/%t, %e s] ' cmake --build --preset release -j "$(build_jobs)" --target ikkuna-daemon ikkuna ikkuna-train

say "3/4 Train '$model' on Fashion-MNIST, with ikkuna-daemon watching"
meeting=$(mktemp -d /tmp/ikkuna-quickstart.XXXXXX)
export IKKUNA_DIR=$meeting
mkdir -p "$data"
"$bin/ikkuna-daemon" --data-dir "$data" </dev/null >"$data/daemon.log" 2>&1 &
daemon_pid=$!
ready=
for _ in {1..300}; do
  if "$bin/ikkuna" status >/dev/null 2>&1; then ready=yes; break; fi
  kill -0 "$daemon_pid" 2>/dev/null || break
  sleep 0.1
done
if [[ -z $ready ]]; then
  cat "$data/daemon.log" >&2
  die "ikkuna-daemon did not come up within 30 s; its log, above, is $data/daemon.log"
fi

# In the background, so that a Ctrl-C here reaches clean_up at once.
"$bin/ikkuna-train" --model "$model" --epochs "$epochs" </dev/null &
trainer_pid=$!
wait "$trainer_pid" || die "ikkuna-train failed, see above; the daemon's log is $data/daemon.log"
trainer_pid=''

say "4/4 What the daemon saw"
show() {
  printf '\n%s$ ikkuna %s%s\n' "$bold" "$*" "$plain"
  "$bin/ikkuna" "$@"
}
show status
show table
show plot loss
show plot weight_gradients_norm2 --module "$first_layer" --log

kill -TERM "$daemon_pid"
wait "$daemon_pid" || die "ikkuna-daemon did not end cleanly; its log is $data/daemon.log"
daemon_pid=''

say "Recorded"
find "$data" -type f \( -name '*.db' -o -name '*tfevents*' \) -printf '%s\t%p\n' | sort -k2 |
  awk -F'\t' '{ kind = $2 ~ /tfevents/ ? "TensorBoard" : "store"; printf "  %-12s %8.1f KB  %s\n", kind, $1 / 1024, $2 }'
cat <<EOF

Next: deploy/quickstart.sh --model resnet-small; README.md shows how to watch a trainer of your own.
EOF
