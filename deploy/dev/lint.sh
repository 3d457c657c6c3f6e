#!/usr/bin/env bash
# All style checks.
#
#   lint.sh [--fast] [FILE...]   --fast: without clang-tidy (minutes). FILE: clang-tidy looks at these sources only
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

fast=0 files=()
while [ $# -gt 0 ]; do
  case "$1" in
    --fast) fast=1 ;;
    -*) die "unknown argument '$1'" ;;
    *)
      [ -f "$1" ] || die "no such file: $1"
      files+=("$1")
      ;;
  esac
  shift
done

if [ $fast = 1 ]; then
  exec python3 tests/lint/lint.py
fi
deploy/dev/setup.sh --for lint
failed=0
python3 tests/lint/lint.py || failed=1

# clang-tidy needs the compile commands and the generated protobuf headers.
deploy/dev/build.sh release --target diffmoe_proto
if [ ${#files[@]} -eq 0 ]; then
  mapfile -t files < <(find core server worker client tests -name '*.cc' | sort)
fi
mapfile -t files < <(for file in "${files[@]}"; do
  grep -qF "$PWD/$file\"" build/release/compile_commands.json && echo "$file"
done)
say "clang-tidy: ${#files[@]} files with $(build_jobs) at a time"
printf '%s\0' "${files[@]}" |
  xargs -0 -r -n 1 -P "$(build_jobs)" sh -c 'echo "clang-tidy $1"; clang-tidy --quiet -p build/release "$1" 2>/dev/null' lint ||
  failed=1
[ $failed = 0 ] || die "there are findings"
say "clean"
