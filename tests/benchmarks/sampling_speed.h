// What an image costs, beside matrix products of the same run. One thread computes and never waits,
// so its time on the core is taken, which other programs don't lengthen.
#pragma once

#include "tests/benchmarks/report.h"
#include "tests/benchmarks/sampling_model.h"

namespace diffmoe::bench {

struct SpeedOptions {
  int steps = 7;  // timed, of 50
};

// Seconds per image of 50 Euler steps with guidance, share of the GEMM rate, exact over fast; at
// batches 1 and 8. `targets`: least shares of exact at 1 and at 8.
std::vector<Figure> MeasureSpeed(const std::string& name, SamplingModel& model,
                                 std::pair<double, double> targets, const SpeedOptions& options);

// The model's own matrix products at 8 guided images, each alone, over the time of a step.
Figure MeasureBound(const std::string& name, SamplingModel& model, const SpeedOptions& options);

}  // namespace diffmoe::bench
