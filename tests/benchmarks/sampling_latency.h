// Who waits how long for images, with a real model and real time.
#pragma once

#include "tests/benchmarks/report.h"
#include "tests/benchmarks/sampling_model.h"

namespace diffmoe::bench {

struct LatencyOptions {
  int arrivals = 100;  // to measure the wait for the first step
  int requests = 240;  // at 80 % load
};

// From arrival, at a random moment of a step, to the first step of the request, while there is
// room: the 99th percentile beyond one step.
std::vector<Figure> MeasureFirstStep(SamplingModel& model, const LatencyOptions& options);

// Mean latency over that of a server that takes what waits, up to the same width, and makes it
// before it looks again. The same arrivals for both.
std::vector<Figure> MeasureLoad(SamplingModel& model, const LatencyOptions& options);

}  // namespace diffmoe::bench
