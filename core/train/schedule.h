// Learning rate and average decay as pure functions of progress.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/spec/training_config.h"

namespace diffmoe {

// Share of the run that is done: steps or minutes, whichever is further.
double TrainingProgress(const TrainingConfig& config, int64_t step, double elapsed_seconds);

// Linear warm-up over warmup_steps, then a half cosine from the peak to final_ratio * peak. step: 0
// for the first; progress: share of the run that is done, in [0, 1].
inline double LearningRateAt(const OptimizerConfig& optimizer, int64_t step, double progress) {
  constexpr double kPi = 3.14159265358979323846;
  double rate = optimizer.learning_rate;
  if (step < optimizer.warmup_steps) {
    rate *= static_cast<double>(step + 1) / static_cast<double>(optimizer.warmup_steps);
  }
  const double cosine = 0.5 * (1 + std::cos(kPi * std::clamp(progress, 0.0, 1.0)));
  return rate * (optimizer.final_ratio + (1 - optimizer.final_ratio) * cosine);
}

// Decay of the weight average at 0-based `step`: rises to ema_decay, or is constant.
inline double EmaDecayAt(const OptimizerConfig& optimizer, int64_t step) {
  if (!optimizer.ema_warmup) return optimizer.ema_decay;
  const double s = static_cast<double>(step);
  return std::min(optimizer.ema_decay, (1 + s) / (10 + s));
}

}  // namespace diffmoe
