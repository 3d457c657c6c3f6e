#!/usr/bin/env bash
# Runs every test. The last line is 'N passed, N failed', counted in test cases; exit code 1 when one failed.
#
#   test.sh [--label LABEL] [--preset PRESET]   LABEL: unit, parity, sim, multiprocess, integration, lint
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

label='' preset=release
while [ $# -gt 0 ]; do
  case "$1" in
    --label) label=${2:?--label needs a value} && shift 2 ;;
    --preset) preset=${2:?--preset needs a value} && shift 2 ;;
    *) die "unknown argument '$1'" ;;
  esac
done

deploy/dev/setup.sh --for test
deploy/dev/build.sh "$preset"

results=build/$preset/test-results
rm -rf "$results"
mkdir -p "$results/cases"
export GTEST_OUTPUT="xml:$PWD/$results/cases/" GTEST_COLOR=no
failed=0

# run_tests NAME CTEST_ARGUMENT...
run_tests() {
  local name=$1
  shift
  ctest --test-dir "build/$preset" --no-tests=ignore --output-on-failure --output-junit "$PWD/$results/$name.xml" "$@" ||
    failed=1
}

start=$SECONDS
if [ -n "$label" ]; then
  run_tests all -L "^$label\$"
else
  # Small tests side by side; those that start processes and measure deadlines one at a time.
  run_tests small -LE '^(multiprocess|integration)$' -j "$(nproc)"
  run_tests processes -L '^(multiprocess|integration)$'
fi
say "tests took $((SECONDS - start)) s"
python3 deploy/dev/count_tests.py "$results" || failed=1
exit $failed
