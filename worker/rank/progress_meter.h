// Collects what the steps say between two reports.
#pragma once

#include <utility>
#include <vector>

#include "core/train/train_engine.h"
#include "worker/rank/rank_link.h"

namespace diffmoe {

class ProgressMeter {
 public:
  explicit ProgressMeter(const TrainingConfig& config) : config_(config) {}

  // After step number `step` (1 for the first).
  void Add(int64_t step, const StepFigures& figures, const PhaseSeconds& phases,
           double data_seconds, double step_seconds);
  // True after the first step, so that all see it run, and then about once per second.
  bool Due() const;
  // Means over the steps since the last call; phases as medians.
  std::pair<ProgressReport, std::vector<StepReportRecord>> Take(double elapsed_seconds,
                                                                int64_t bad_files, bool last);

 private:
  struct Sample {
    StepFigures figures;
    PhaseSeconds phases;
    double data_seconds, step_seconds;
  };
  const TrainingConfig& config_;
  bool first_ = true;
  int64_t step_ = 0;
  double seconds_ = 0;
  std::vector<Sample> samples_;
};

}  // namespace diffmoe
