#!/usr/bin/env bash
# unarmed_programs_test.sh ARMED_PROGRAM PROGRAM...
# The first must hold the armed kill points (which proves that the check can see them), none of the others may.
set -euo pipefail
mark=DIFFMOE_KILL_POINT
failed=0
grep -qF "$mark" "$1" || {
  echo "$1 has no armed kill points: the check is blind"
  failed=1
}
shift
for program in "$@"; do
  if grep -qF "$mark" "$program"; then
    echo "$program has armed kill points"
    failed=1
  fi
done
exit $failed
