#include "worker/rank/progress_meter.h"

#include <algorithm>

#include "core/train/schedule.h"

namespace diffmoe {
namespace {

constexpr double kReportSeconds = 1.0;

template <typename Get>
double Median(const auto& samples, const Get& get) {
  std::vector<double> values;
  for (const auto& sample : samples) values.push_back(get(sample));
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

}  // namespace

void ProgressMeter::Add(int64_t step, const StepFigures& figures, const PhaseSeconds& phases,
                        double data_seconds, double step_seconds) {
  step_ = step;
  seconds_ += step_seconds;
  samples_.push_back({figures, phases, data_seconds, step_seconds});
}

bool ProgressMeter::Due() const { return first_ || seconds_ >= kReportSeconds; }

std::pair<ProgressReport, std::vector<StepReportRecord>> ProgressMeter::Take(double elapsed_seconds,
                                                                             int64_t bad_files,
                                                                             bool last) {
  ProgressReport report;
  std::vector<StepReportRecord> records;
  const double count = static_cast<double>(samples_.size());
  int64_t step = step_ - static_cast<int64_t>(samples_.size());
  for (const Sample& sample : samples_) {
    const StepFigures& f = sample.figures;
    report.loss += f.loss / count;
    report.predictor_loss += f.predictor_loss / count;
    report.balance_loss += f.balance_loss / count;
    records.push_back({++step, static_cast<float>(f.loss), static_cast<float>(f.predictor_loss),
                       static_cast<float>(f.grad_norm), static_cast<float>(f.learning_rate)});
  }
  const StepFigures& newest = samples_.back().figures;
  report.step = step_;
  report.grad_norm = newest.grad_norm;
  report.learning_rate = newest.learning_rate;
  report.elapsed_seconds = elapsed_seconds;
  report.bad_files = bad_files;
  report.images_per_second = count * static_cast<double>(config_.global_batch) / seconds_;
  const double progress =
      last ? 1.0 : std::max(TrainingProgress(config_, step_, elapsed_seconds), 1e-9);
  report.total_steps = last ? step_ : config_.steps;
  report.seconds_left = std::max(0.0, elapsed_seconds / progress - elapsed_seconds);
  report.data_seconds = Median<>(samples_, [](const Sample& s) { return s.data_seconds; });
  report.forward_seconds = Median<>(samples_, [](const Sample& s) { return s.phases.forward; });
  report.backward_seconds = Median<>(samples_, [](const Sample& s) { return s.phases.backward; });
  report.exchange_seconds = Median<>(samples_, [](const Sample& s) { return s.phases.exchange; });
  report.reduce_seconds = Median<>(samples_, [](const Sample& s) { return s.phases.reduce; });
  report.optimizer_seconds = Median<>(samples_, [](const Sample& s) { return s.phases.optimizer; });
  for (const LayerFigures& layer : newest.layers) {
    report.layers.push_back({static_cast<int>(layer.block), layer.capacity,
                             layer.predictor_accuracy, layer.zero_expert_tokens, layer.thresholds,
                             layer.expert_load, layer.gate_entropy, layer.bytes_sent,
                             layer.collectives, layer.rows_to_rank});
  }
  samples_.clear();
  first_ = false;
  seconds_ = 0;
  return {std::move(report), std::move(records)};
}

}  // namespace diffmoe
