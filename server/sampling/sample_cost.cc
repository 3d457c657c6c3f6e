#include "server/sampling/sample_cost.h"

#include <algorithm>
#include <cmath>

#include "core/diffusion/sampler_kind.h"

namespace diffmoe::server {

SampleCost CostOf(const v1::SampleRequest& request) {
  const std::string& sampler = request.sampler();
  int64_t calls = request.steps();
  if (sampler == SamplerName(SamplerKind::kHeun)) calls *= 2;
  if (sampler == SamplerName(SamplerKind::kDopri5)) calls = kDopri5Calls;
  // Steps beside the guidance interval have the conditional half only.
  double guided = 1;
  if (request.has_guidance_interval()) {
    guided = request.guidance_interval().end() - request.guidance_interval().begin();
  }
  if (request.guidance() == 0 || request.guidance() == 1) guided = 0;
  const double per_image = static_cast<double>(calls) * (1 + guided);
  return {calls, static_cast<int64_t>(std::ceil(per_image * static_cast<double>(request.count())))};
}

SampleCost CostOf(const v1::CalibrateCheckpointRequest& request) {
  const int64_t calls = 1 + 3 * int64_t{request.capacities_size()};
  return {calls, calls * request.images()};
}

double StepCurve::SecondsPerRow() const {
  return row_seconds + base_seconds / static_cast<double>(std::max(1, width_rows));
}

double StepCurve::SecondsAlone(const SampleCost& cost) const {
  const double rows = static_cast<double>(cost.rows);
  const double calls = static_cast<double>(std::max<int64_t>(1, cost.calls));
  const double parts = std::ceil(rows / calls / static_cast<double>(std::max(1, width_rows)));
  return calls * parts * base_seconds + rows * row_seconds;
}

StepCurve CurveOf(const worker::v1::SamplerLoad& load) {
  const auto clean = [](double seconds) { return std::isfinite(seconds) ? seconds : 0.0; };
  return {std::max(0.0, clean(load.step_base_seconds())),
          std::max(0.0, clean(load.step_row_seconds())), std::max(1, load.width_rows())};
}

}  // namespace diffmoe::server
