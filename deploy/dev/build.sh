#!/usr/bin/env bash
# Configures and builds.
#
#   build.sh [PRESET] [--target NAME...]   PRESET: release (default), dev, asan, tsan
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

preset=release
if [ $# -gt 0 ] && [ "$1" != --target ]; then
  preset=$1
  shift
fi
presets=$(sed -n 's/.*"name": "\([a-z]*\)", "generator".*/\1/p' CMakePresets.json)
grep -qxF "$preset" <<<"$presets" || die "unknown preset '$preset'; known: $(tr '\n' ' ' <<<"$presets")"
targets=()
if [ $# -gt 0 ]; then
  shift
  [ $# -gt 0 ] || die "--target needs at least one name"
  targets=(--target "$@")
fi

deploy/dev/setup.sh --for demo
start=$SECONDS
jobs=$(build_jobs)
# Ninja configures again by itself when a CMake file has changed.
if [ ! -f "build/$preset/build.ninja" ]; then
  say "configuring build/$preset"
  cmake --preset "$preset"
fi
say "building build/$preset with $jobs jobs"
NINJA_STATUS='[%f/%t, %e s] ' cmake --build "build/$preset" --parallel "$jobs" "${targets[@]}"
say "built build/$preset in $((SECONDS - start)) s"
