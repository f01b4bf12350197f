#!/usr/bin/env bash
# Builds and runs every test: all of them in a release build, those of the parts that can be instrumented under the
# address, undefined-behaviour and thread sanitizers as well. Under 30 minutes on two cores; the second run is far shorter.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'EOF'
usage: tests/run.sh [--long] [--only PRESET]... [-- CTEST_ARGUMENT...]

  --long         also the tests with the label `long`
  --only PRESET  one of release, asan, tsan, dev instead of the first three; may be repeated
  -- ...         goes to ctest, such as: -- -R daemon/graph

Exit code 0 if everything passed. Builds in build/<preset>; LibTorch and a Python for the tests are kept in
${XDG_CACHE_HOME:-~/.cache}/ikkuna (XDG_CACHE_HOME moves it).
EOF
}

presets=()
exclude=(-LE long)
ctest_arguments=()
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --long) exclude=() ;;
    --only)
      [[ -n ${2:-} ]] || { usage >&2; exit 2; }
      presets+=("$2")
      shift ;;
    --) shift; ctest_arguments=("$@"); break ;;
    *) printf 'run.sh: unknown argument %s\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
((${#presets[@]})) || presets=(release asan tsan)

cache=${XDG_CACHE_HOME:-$HOME/.cache}/ikkuna
test_venv=$cache/venv-tests
started=$SECONDS
say() { printf '\n=== [%4d s] %s\n' "$((SECONDS - started))" "$*"; }

# The environment is made afresh when the list changes; the copy of the list, written last, says that it is complete.
make_test_venv() {
  if cmp -s tests/requirements.txt "$test_venv/requirements.txt"; then
    return
  fi
  say "Python for the tests: $test_venv"
  rm -rf "$test_venv"
  "${PYTHON:-python3}" -m venv "$test_venv"
  "$test_venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$test_venv/requirements.txt"
}

# A file that includes LibTorch takes 2 GB to compile.
jobs() {
  local cores memory_gb
  cores=$(nproc)
  memory_gb=$(awk '/^MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
  local by_memory=$((memory_gb / 2 > 1 ? memory_gb / 2 : 1))
  echo $((cores < by_memory ? cores : by_memory))
}

# The thread sanitizer of GCC 12 cannot start where the kernel randomises addresses with more than 28 bits.
under=()
fixed_addresses() {
  under=()
  if [[ $1 == tsan ]] && setarch "$(uname -m)" -R true 2>/dev/null; then under=(setarch "$(uname -m)" -R); fi
}

say "setup"
deploy/setup.sh
make_test_venv

export NINJA_STATUS="[%f/%t, %e s] "
failed=()
summary=()
for preset in "${presets[@]}"; do
  say "$preset: build"
  log=build/$preset-configure.log
  mkdir -p build
  if ! cmake --preset "$preset" >"$log" 2>&1; then
    cat "$log" >&2
    failed+=("$preset (configure)")
    continue
  fi
  if ! cmake --build --preset "$preset" -j "$(jobs)"; then
    failed+=("$preset (build)")
    continue
  fi
  say "$preset: tests"
  results=build/$preset-tests.log
  fixed_addresses "$preset"
  set +e
  "${under[@]}" ctest --preset "$preset" -j "$(nproc)" "${exclude[@]}" "${ctest_arguments[@]}" 2>&1 | tee "$results"
  code=${PIPESTATUS[0]}
  set -e
  ((code == 0)) || failed+=("$preset (tests)")
  summary+=("$(printf '%-8s %s' "$preset" "$(grep -E 'tests passed|No tests were found' "$results" | tail -n 1)")")
  skipped=$(sed -n 's/^ *[0-9]* - \(.*\) (Skipped)$/  skipped: \1/p' "$results")
  [[ -z $skipped ]] || summary+=("$skipped")
done

say "summary"
printf '%s\n' "${summary[@]}"
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed"
