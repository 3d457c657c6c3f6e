#!/usr/bin/env bash
# Runs a benchmark, or lists them. Each prints its figures beside a limit that was measured in the same run.
#
#   bench.sh [NAME [ARGUMENT...]]
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

list() {
  echo "Benchmarks:"
  echo "  train        training steps on one and two ranks and a MoE layer: against the GEMM rate, a dense model, and each other"
  echo "               --workloads demo s-e8 s-e16 s-e8-32 dense-s   --steps N   --repetitions N   --sockets"
  echo "  collectives  exchanges between two ranks over shared memory and over sockets"
  echo "  invariance   every family trained under six layouts; one hash of the result per family, or it fails   --steps N"
  echo "  control      the coordinator: durable submits, reads with a long queue, many workers, memory, restart"
  echo "               --jobs N   --events N   --workers N   --clients N   --seconds N"
  echo "  scrape       GET /metrics with many series: time beside a memcpy of the same bytes, and what 100 scrapes a second cost"
  echo "               --series N   --scrapes N"
  echo "  sampling     an image: cost beside the GEMM rate, exact beside fast; waits beside batches to completion"
  echo "  service      the sampling service through its programs: round trip of a null model, overload   --seconds N"
  echo "               --models s-e8 demo   --steps N   --arrivals N   --requests N"
  echo "  schedules    random schedules of requests: each image must be what it is alone, or it fails   --schedules N   --seed S"
  echo "  checkpoint   stall of the step against a memcpy; save and load through the service, and of chunks alone, against the disk"
}

[ $# -gt 0 ] || {
  list
  exit 0
}
name=$1
shift
case "$name" in
  train | collectives) target=diffmoe-bench command=(diffmoe-bench "$name") ;;
  invariance) target=invariance_bench command=(invariance_bench) ;;
  checkpoint)
    deploy/dev/build.sh release --target checkpoint_path_bench
    OMP_NUM_THREADS=1 build/release/bin/checkpoint_path_bench
    target=checkpoint_bench command=(checkpoint_bench)
    ;;
  service) target=service_bench command=(service_bench) ;;
  sampling) target=sampling_bench command=(sampling_bench) ;;
  schedules) target=sampling_schedules command=(sampling_schedules) ;;
  scrape) target=scrape_bench command=(scrape_bench) ;;
  control) target=control_bench command=(control_bench) ;;
  *)
    list >&2
    die "no benchmark '$name'"
    ;;
esac
deploy/dev/build.sh release --target "$target"
export OMP_NUM_THREADS=1
exec "build/release/bin/${command[0]}" "${command[@]:1}" "$@"
