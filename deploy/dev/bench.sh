#!/usr/bin/env bash
# Runs a benchmark, or lists them. Each prints its figures beside a limit that was measured in the same run.
#
#   bench.sh [NAME [ARGUMENT...]]
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

list() {
  echo "Benchmarks:"
  echo "  train        images/s of a training step on one and two ranks, and a MoE layer, against the GEMM rate (JSON)"
  echo "               --workloads demo s-e8   --steps N"
  echo "  checkpoint   save and load of checkpoint chunks against the disk"
}

[ $# -gt 0 ] || {
  list
  exit 0
}
name=$1
shift
case "$name" in
  train) target=diffmoe-bench command=(diffmoe-bench train) ;;
  checkpoint) target=checkpoint_bench command=(checkpoint_bench) ;;
  *)
    list >&2
    die "no benchmark '$name'"
    ;;
esac
deploy/dev/build.sh release --target "$target"
export OMP_NUM_THREADS=1
exec "build/release/bin/${command[0]}" "${command[@]:1}" "$@"
