// Time of the collectives between two ranks of this host, over shared memory and over sockets.
#pragma once

#include "tests/benchmarks/report.h"

namespace diffmoe::bench {

// Sizes as they occur in training: scores, token rows, gradients and weights. Two threads.
Json MeasureCollectives();

}  // namespace diffmoe::bench
