#!/usr/bin/env bash
# Trains a DiffMoE on real images with two ranks, samples from the cluster while and after it trains, and shows the results.
# Writes report.html, samples.png, loss.png, report.json and while-training.png. The last line is 'demo: ok'.
#
#   demo.sh [--out DIR] [--minutes N] [--dataset fashion|emoji]
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

out=demo-out minutes='' dataset=fashion
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=${2:?--out needs a value} && shift 2 ;;
    --minutes) minutes=${2:?--minutes needs a value} && shift 2 ;;
    --dataset) dataset=${2:?--dataset needs a value} && shift 2 ;;
    *) die "unknown argument '$1'" ;;
  esac
done
case "$dataset" in
  fashion) minutes=${minutes:-8} ;;
  emoji) minutes=${minutes:-20} ;;
  *) die "--dataset takes fashion or emoji, not '$dataset'" ;;
esac
[[ "$minutes" =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--minutes takes a number, not '$minutes'"
mkdir -p "$out"

deploy/dev/setup.sh --for demo
deploy/dev/build.sh release --target diffmoe diffmoe-coordinator diffmoe-worker diffmoe-rank

overrides=(--set "train.minutes=$minutes")
if [ "$dataset" = emoji ]; then
  deploy/dev/fetch-emoji.sh | tee "$log_dir/fetch-emoji.log"
  overrides+=(--set "data.path=$(tail -n 1 "$log_dir/fetch-emoji.log")")
fi
# A short run gets its first checkpoint early enough to be sampled while it trains.
awk -v m="$minutes" 'BEGIN {exit !(m < 3)}' && overrides+=(--set checkpoint.every_steps=25)

data=$(mktemp -d "${TMPDIR:-/tmp}/diffmoe-demo.XXXXXX")
diffmoe=(build/release/bin/diffmoe --data-dir "$data")
up=0 sampler=0
cleanup() {
  local code=$?
  trap - EXIT INT TERM
  [ $sampler = 0 ] || kill "$sampler" 2>/dev/null || true
  if [ $up != 0 ]; then
    kill -TERM "$up" 2>/dev/null || true
    wait "$up" 2>/dev/null || true
  fi
  if [ $code != 0 ] && [ -d "$data/logs" ]; then
    mkdir -p "$out/logs"
    cp -r "$data/logs" "$out/logs/services" 2>/dev/null || true
    cp -r "$data/worker/logs" "$out/logs/ranks" 2>/dev/null || true
    echo "demo: failed; the logs of all processes are in $out/logs" >&2
  fi
  rm -rf "$data"
  exit $code
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say "starting a coordinator and a worker with three slots: diffmoe up"
"${diffmoe[@]}" up --slots 3 --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 >"$out/up.log" 2>&1 &
up=$!
for _ in $(seq 300); do
  "${diffmoe[@]}" workers 2>/dev/null | grep -q CONNECTED && break
  kill -0 "$up" 2>/dev/null || {
    cat "$out/up.log" >&2
    die "diffmoe up ended"
  }
  sleep 0.1
done
cat "$out/up.log"

say "submitting deploy/jobs/$dataset-demo.yaml: $minutes minutes of training on two ranks"
job=$("${diffmoe[@]}" submit "deploy/jobs/$dataset-demo.yaml" "${overrides[@]}" 2>/dev/null) ||
  die "the job was refused: $("${diffmoe[@]}" submit "deploy/jobs/$dataset-demo.yaml" "${overrides[@]}" 2>&1)"

# One image from the first checkpoint, while the job goes on.
sample_while_training() {
  until "${diffmoe[@]}" ckpt get "$job" >/dev/null 2>&1; do
    "${diffmoe[@]}" job get "$job" -o json | grep -qE '"state": "(SUCCEEDED|FAILED|CANCELLED)"' && return 0
    sleep 1
  done
  "${diffmoe[@]}" job get "$job" -o json | grep -q '"state": "RUNNING"' &&
    "${diffmoe[@]}" sample --job "$job" --class 7 --n 1 --steps 20 --seed 1 --out "$out/while-training.png"
}
rm -f "$out/while-training.png"
sample_while_training >"$out/while-training.log" 2>&1 &
sampler=$!

"${diffmoe[@]}" watch "$job" || die "the job did not succeed"
wait "$sampler" || die "sampling while training failed: $(cat "$out/while-training.log")"
sampler=0
[ ! -f "$out/while-training.png" ] || say "sampled while the job was training: $out/while-training.png"

say "sampling every class from the last checkpoint"
"${diffmoe[@]}" report "$job" --out "$out"

kill -TERM "$up"
code=0
wait "$up" || code=$?
up=0
[ $code = 0 ] || die "diffmoe up ended with exit code $code"
echo "wrote $out/report.html $out/samples.png $out/loss.png $out/report.json"
echo "demo: ok"
