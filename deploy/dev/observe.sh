#!/usr/bin/env bash
# Watches a real cluster through a real Prometheus while faults come and go; docs/operations.md says what it shows.
#
#   observe.sh [--seconds N] [--factor F]   Durations of the alert rules are divided by F.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

deploy/dev/setup.sh --for test
deploy/dev/build.sh release --target diffmoe-observe diffmoe diffmoe-coordinator diffmoe-worker diffmoe-rank
exec build/release/bin/diffmoe-observe "$@"
