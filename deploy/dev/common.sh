# Sourced by the other scripts of this folder, with the repository root as working directory.
set -euo pipefail

deps_dir="$HOME/.cache/diffmoe/deps"
log_dir="$HOME/.cache/diffmoe/log"

say() { printf '[%s] %s\n' "${0##*/}" "$*"; }
die() {
  printf '[%s] error: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# with_progress LABEL LOG COMMAND...: runs COMMAND with its output in LOG and shows that it goes on: elapsed seconds in
# place on a terminal, a line every 10 s elsewhere. On failure shows the end of LOG and returns COMMAND's exit code.
with_progress() {
  local label=$1 log=$2 start=$SECONDS code=0 pid
  shift 2
  mkdir -p "$(dirname "$log")"
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    if [ -t 1 ]; then
      printf '\r\033[K%s ... %d s  %.60s' "$label" $((SECONDS - start)) "$(tail -n 1 "$log" | tr -d '\r\033')"
      sleep 1
    else
      local ticks=0
      while [ $ticks -lt 10 ] && kill -0 "$pid" 2>/dev/null; do
        sleep 1
        ticks=$((ticks + 1))
      done
      [ $ticks -lt 10 ] || printf '%s ... %d s\n' "$label" $((SECONDS - start))
    fi
  done
  wait "$pid" || code=$?
  [ ! -t 1 ] || printf '\r\033[K'
  if [ $code -ne 0 ]; then
    tail -n 30 "$log" >&2
    printf '%s: failed with exit code %d; full log: %s\n' "$label" "$code" "$log" >&2
    return $code
  fi
  printf '%s: done in %d s\n' "$label" $((SECONDS - start))
}

# Jobs for the build: one per core, but at least 1.5 GB of memory each.
build_jobs() {
  local cores memory_kb by_memory
  cores=$(nproc)
  memory_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  by_memory=$((memory_kb / 1500000))
  [ $by_memory -ge 1 ] || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}
