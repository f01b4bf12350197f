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
trainer_pid='' meeting=''

# Runs at every way out. The daemon is ours alone, in a directory that nobody else knows; one that does not end in 20 s is
# killed, and where even this script is killed it ends by itself (--linger).
clean_up() {
  local code=$? daemon_pid
  trap - EXIT INT TERM HUP
  if [[ -n $trainer_pid ]]; then
    kill -TERM "$trainer_pid" 2>/dev/null || true
    for _ in {1..50}; do kill -0 "$trainer_pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$trainer_pid" 2>/dev/null || true
    wait "$trainer_pid" 2>/dev/null || true
  fi
  if [[ -n $meeting ]]; then
    if ! "$bin/ikkuna" down --timeout 20 >/dev/null 2>&1 && read -r daemon_pid <"$meeting/lock"; then
      kill -KILL "$daemon_pid" 2>/dev/null || true
    fi
    rm -rf "$meeting"
  fi
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
"$bin/ikkuna" up --data-dir "$data" --linger 60 || die "ikkuna-daemon did not come up; see above"
log=$(find "$data" -name daemon.log)

# In the background, so that a Ctrl-C here reaches clean_up at once.
"$bin/ikkuna-train" --model "$model" --epochs "$epochs" </dev/null &
trainer_pid=$!
wait "$trainer_pid" || die "ikkuna-train failed, see above; the daemon's log is $log"
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

printf '\n'
"$bin/ikkuna" down || die "ikkuna-daemon did not end as it should; its log is $log"

say "Recorded"
find "$data" -type f \( -name '*.run' -o -name '*tfevents*' \) -printf '%s\t%p\n' | sort -k2 |
  awk -F'\t' '{ kind = $2 ~ /tfevents/ ? "TensorBoard" : "run"; printf "  %-12s %8.1f KB  %s\n", kind, $1 / 1024, $2 }'
cat <<EOF

It can be read without a daemon, here or wherever it is copied to:
  $bin/ikkuna --data-dir $data plot loss
Next: deploy/quickstart.sh --model resnet-small; README.md shows how to watch a trainer of your own.
EOF
