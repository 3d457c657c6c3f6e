// What a sampling request costs, and how long that takes. Pure.
#pragma once

#include <cstdint>

#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/worker/v1/sampler_plane.pb.h"

namespace diffmoe::server {

// dopri5 chooses its calls; about as many as the golden runs need.
inline constexpr int kDopri5Calls = 40;

// A row is one sample in one network call.
struct SampleCost {
  int64_t calls = 0;  // one after the other, of every image
  int64_t rows = 0;   // of all images over all calls
};

// `request` is complete.
SampleCost CostOf(const v1::SampleRequest& request);
// A rough one: images times targets, for the thresholds and for what is measured with them.
SampleCost CostOf(const v1::CalibrateCheckpointRequest& request);

// Seconds of a call: base + row * rows, for up to `width_rows` rows.
struct StepCurve {
  double base_seconds = 0;
  double row_seconds = 0;
  int width_rows = 1;

  bool known() const { return base_seconds + row_seconds > 0; }
  // Of one row at full width.
  double SecondsPerRow() const;
  // Of a request that has a sampler to itself.
  double SecondsAlone(const SampleCost& cost) const;
};

StepCurve CurveOf(const worker::v1::SamplerLoad& load);

}  // namespace diffmoe::server
