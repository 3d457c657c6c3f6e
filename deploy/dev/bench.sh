#!/usr/bin/env bash
# Runs a benchmark, or lists them.
#
#   bench.sh [NAME [ARGUMENT...]]   NAME: what follows bench_ in the name of a target of tests/benchmarks
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

if [ $# -eq 0 ]; then
  echo "Benchmarks:"
  sed -n 's/.*diffmoe_binary(bench_\([a-z_0-9]*\).*/  \1/p' tests/benchmarks/CMakeLists.txt
  exit 0
fi
name=$1
shift
grep -q "diffmoe_binary(bench_$name\b" tests/benchmarks/CMakeLists.txt || die "no benchmark '$name'; ./run bench lists them"
deploy/dev/build.sh release --target "bench_$name" diffmoe-rank
export OMP_NUM_THREADS=1
exec "build/release/bin/bench_$name" "$@"
