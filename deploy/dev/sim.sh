#!/usr/bin/env bash
# Runs simulated clusters; docs/simulation.md says what they show. Arguments: diffmoe-sim --help
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. deploy/dev/common.sh

deploy/dev/build.sh release --target diffmoe-sim >&2
exec build/release/bin/diffmoe-sim "$@"
