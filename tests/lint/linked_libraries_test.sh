#!/usr/bin/env bash
# linked_libraries_test.sh WITH_TORCH_BINARY TORCH_FREE_BINARY...
# The first must load torch (which proves that the check can see it), none of the others may.
set -euo pipefail
pattern='libtorch|libc10'
failed=0
with_torch=$1
shift
libraries=$(ldd "$with_torch")
grep -qE "$pattern" <<<"$libraries" || {
  echo "$with_torch loads no torch: the check is blind"
  failed=1
}
for binary in "$@"; do
  libraries=$(ldd "$binary")
  if grep -E "$pattern" <<<"$libraries"; then
    echo "$binary loads torch"
    failed=1
  else
    echo "$binary: $(wc -l <<<"$libraries") libraries, no torch"
  fi
done
exit $failed
