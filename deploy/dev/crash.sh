#!/usr/bin/env bash
# Kills real processes at named moments, or damages files, and checks that nothing acknowledged is lost.
#
#   crash.sh [--cycles N] [--corruptions N] [--seed S] [--point NAME] [--keep-dir DIR] [--list]
#   crash.sh --resume N [--seed=S] [--steps-between=N] [--full]   a training job killed N times ends with the same bits; --full: the demo's own size
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

deploy/dev/setup.sh --for test
if [ "${1:-}" = --resume ]; then
  kills=${2:?--resume needs a number} && shift 2
  deploy/dev/build.sh release --target kill_resume_test diffmoe diffmoe-coordinator diffmoe-worker diffmoe-rank
  exec build/release/bin/kill_resume_test "--kills=$kills" "$@"
fi
deploy/dev/build.sh release --target crash_test
exec build/release/bin/crash_test "$@"
