#include "core/train/schedule.h"

namespace diffmoe {

double TrainingProgress(const TrainingConfig& config, int64_t step, double elapsed_seconds) {
  const double by_steps = static_cast<double>(step) / static_cast<double>(config.steps);
  const double by_time = config.minutes ? elapsed_seconds / (60 * *config.minutes) : 0;
  return std::clamp(std::max(by_steps, by_time), 0.0, 1.0);
}

}  // namespace diffmoe
