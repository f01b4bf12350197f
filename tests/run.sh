#!/usr/bin/env bash
# Builds and runs every test: all of them in a release build, those of the parts that can be instrumented under the
# address, undefined-behaviour and thread sanitizers as well, those of the LibTorch probe under the address sanitizer; then
# the fuzz targets for a minute. Some forty minutes on two idle cores; the second run is far shorter.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat <<'EOF'
usage: tests/run.sh [--long] [--only PRESET]... [-- CTEST_ARGUMENT...]

  --long         also the tests with the label `long`
  --only PRESET  one of release, asan, asan-torch, tsan, fuzz, dev instead of all but the last; may be repeated
  -- ...         goes to ctest, such as: -- -R daemon/graph; fuzz, which has no such tests, then runs only if named

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
if ((${#presets[@]} == 0)); then
  presets=(release asan asan-torch tsan)
  ((${#ctest_arguments[@]})) || presets+=(fuzz)
fi

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

# Each target first on what is kept in tests/fuzz/corpus, then for fuzz_seconds on what it makes of that, all at once.
# An input that fails is left in build/fuzz/found.
fuzz_seconds=60
run_fuzz() {
  local found=build/fuzz/found corpus target name code ok=1
  local -A running=()
  mkdir -p "$found"
  for corpus in tests/fuzz/corpus/*/; do
    name=$(basename "$corpus")
    target=build/fuzz/tests/${name}_fuzz
    mkdir -p "build/fuzz/corpus/$name"
    (
      # Its weighing of inputs by how rare they are takes twice the time of the inputs.
      limits=(-timeout=30 -rss_limit_mb=1024 -max_len=1024 -entropic=0 -artifact_prefix="$found/$name-")
      "$target" -runs=0 "${limits[@]}" "$corpus" &&
        "$target" -max_total_time="$fuzz_seconds" "${limits[@]}" "build/fuzz/corpus/$name" "$corpus"
    ) >"build/fuzz/$name.log" 2>&1 &
    running[$name]=$!
  done
  for name in "${!running[@]}"; do
    code=0
    wait "${running[$name]}" || code=$?
    if ((code == 0)); then
      summary+=("$(printf '%-10s %s: %s' fuzz "$name" "$(grep -E '^Done ' "build/fuzz/$name.log" | tail -n 1)")")
      continue
    fi
    ok=0
    failed+=("fuzz ($name)")
    grep -vE '^(#[0-9]|"|\s*NEW_FUNC|INFO:)' "build/fuzz/$name.log" | tail -n 60 >&2
    printf '%s failed; its log is build/fuzz/%s.log. Again:\n' "$name" "$name" >&2
    grep -oE "$found/$name-[a-z]+-[0-9a-f]+" "build/fuzz/$name.log" | sort -u |
      sed "s|^|  build/fuzz/tests/${name}_fuzz |" >&2
  done
  ((ok))
}

# Whether the one test that failed passes three times when it has the machine to itself, and no sanitizer has reported
# anything: on a busy machine, that is. Such a test, or what it tests, depends on speed and stays named in the summary; two
# of them, or a report, are a failure.
fails_only_among_others() {
  local preset=$1 results=$2
  grep -q ', 1 tests failed out of ' "$results" && grep -qE '^\s*[0-9]+ - .* \(Failed\)$' "$results" || return 1
  ! grep -qE '(ERROR|WARNING): [A-Za-z]*Sanitizer|runtime error: ' "$results" || return 1
  say "$preset: the test that failed, three times alone"
  [[ -z $builder ]] || kill -STOP -- "-$builder" 2>/dev/null || true
  "${under[@]}" ctest --preset "$preset" --rerun-failed --repeat until-fail:3 2>&1 | tee "${results%.log}-again.log"
  local code=${PIPESTATUS[0]}
  [[ -z $builder ]] || kill -CONT -- "-$builder" 2>/dev/null || true
  ((code == 0))
}

say "setup"
if [[ " ${presets[*]} " == *" fuzz "* ]]; then deploy/setup.sh --with-clang; else deploy/setup.sh; fi
make_test_venv

# What a build prints is in build/<preset>-build.log. In a process group of its own, so that it ends with this script.
export NINJA_STATUS="[%f/%t, %e s] "
builder=
# One that stands still would hear of its end only when it goes on.
stop_build() {
  [[ -n $builder ]] || return 0
  kill -TERM -- "-$builder" 2>/dev/null || true
  kill -CONT -- "-$builder" 2>/dev/null || true
}
trap stop_build EXIT
start_build() {
  local preset=$1
  mkdir -p build
  : >"build/$preset-build.log"
  set -m
  { cmake --preset "$preset" && nice -n "$2" cmake --build --preset "$preset" -j "$(jobs)"; } \
    >"build/$preset-build.log" 2>&1 &
  builder=$!
  set +m
}
finish_build() {
  local code=0
  tail -n +1 -f --pid="$builder" "build/$1-build.log"
  wait "$builder" || code=$?
  builder=
  return "$code"
}

# Threads of OpenMP that wait for each other spin, where two tests and a build share the processors for whole time slices:
# trainers of milliseconds take seconds then.
export OMP_WAIT_POLICY=passive

failed=()
summary=()
for i in "${!presets[@]}"; do
  preset=${presets[i]}
  say "$preset: build"
  [[ -n $builder ]] || start_build "$preset" 0
  built=1
  finish_build "$preset" || built=0
  # The end-to-end tests, one at a time, leave a processor idle: the next build goes on there, behind whatever they need.
  [[ -z ${presets[i + 1]:-} ]] || start_build "${presets[i + 1]}" 15
  if ((!built)); then
    failed+=("$preset (build)")
    continue
  fi
  if [[ $preset == fuzz ]]; then
    say "fuzz: each target for $fuzz_seconds s, all at once"
    run_fuzz || true
    continue
  fi
  say "$preset: tests"
  results=build/$preset-tests.log
  fixed_addresses "$preset"
  set +e
  "${under[@]}" ctest --preset "$preset" -j "$(nproc)" "${exclude[@]}" "${ctest_arguments[@]}" 2>&1 | tee "$results"
  code=${PIPESTATUS[0]}
  set -e
  verdict=$(grep -E 'tests passed|No tests were found' "$results" | tail -n 1)
  if ((code)) && fails_only_among_others "$preset" "$results"; then
    verdict+=", which then passed three times alone: UNSTEADY, to be mended"
    code=0
  fi
  ((code == 0)) || failed+=("$preset (tests)")
  summary+=("$(printf '%-10s %s' "$preset" "$verdict")")
  skipped=$(sed -n 's/^ *[0-9]* - \(.*\) (Skipped)$/  skipped: \1/p' "$results")
  [[ -z $skipped ]] || summary+=("$skipped")
  ended_badly=$(sed -nE 's/^\s*[0-9]+ - (.*) \((Failed|Timeout|Not Run|SEGFAULT|Subprocess .*|.*Exception.*)\)$/  \2: \1/p' "$results")
  [[ -z $ended_badly ]] || summary+=("$ended_badly")
done

say "summary"
printf '%s\n' "${summary[@]}"
if ((${#failed[@]})); then
  printf 'FAILED: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed"
