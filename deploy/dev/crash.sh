#!/usr/bin/env bash
# Kills real processes at named moments, or damages files, and checks that nothing acknowledged is lost.
#
#   crash.sh [--cycles N] [--corruptions N] [--seed S] [--point NAME] [--keep-dir DIR] [--list]
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

deploy/dev/setup.sh --for test
deploy/dev/build.sh release --target crash_test
exec build/release/bin/crash_test "$@"
