#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "core/metrics/metrics.h"
#include "diffmoe/v1/training_job.pb.h"
#include "diffmoe/v1/training_spec.pb.h"

namespace diffmoe::metrics {

namespace {

// So many layers have series; of a deeper network so many that are spread evenly, the last among
// them. With 17 series each a job stays below 500.
constexpr int kMaxLayers = 24;

bool IsShown(int layer, int layers) {
  return layers <= kMaxLayers || (layer + 1) * kMaxLayers / layers > layer * kMaxLayers / layers;
}

// The smallest value that at least this share of them doesn't exceed. `values` isn't empty.
template <typename Values>
double Quantile(const Values& values, double share) {
  std::vector<double> sorted(values.begin(), values.end());
  const auto rank = static_cast<int64_t>(std::ceil(share * static_cast<double>(sorted.size())));
  const auto place = sorted.begin() + std::max<int64_t>(1, rank) - 1;
  std::nth_element(sorted.begin(), place, sorted.end());
  return *place;
}

// The series "min", `middle` and "max" of a layer. `values` isn't empty.
template <typename Values>
void SetSpread(GaugeSeries& gauges, const std::string& job_id, const std::string& block,
               const Values& values, const char* middle, double middle_value) {
  gauges.Set({job_id, block, "min"},
             static_cast<double>(*std::min_element(values.begin(), values.end())));
  gauges.Set({job_id, block, middle}, middle_value);
  gauges.Set({job_id, block, "max"},
             static_cast<double>(*std::max_element(values.begin(), values.end())));
}

template <typename Values>
double Mean(const Values& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

TrainMetrics::TrainMetrics(Registry& registry)
    : loss_(registry.get(), kTrainLoss),
      predictor_loss_(registry.get(), kTrainPredictorLoss),
      balance_loss_(registry.get(), kTrainBalanceLoss),
      grad_norm_(registry.get(), kTrainGradNorm),
      learning_rate_(registry.get(), kTrainLearningRate),
      step_(registry.get(), kTrainStep),
      planned_steps_(registry.get(), kTrainPlannedSteps),
      step_duration_(registry.get(), kTrainStepDuration),
      samples_(registry.get(), kTrainSamples),
      samples_per_second_(registry.get(), kTrainSamplesPerSecond),
      bad_files_(registry.get(), kTrainBadFiles),
      checkpoint_interval_(registry.get(), kTrainCheckpointInterval),
      target_capacity_(registry.get(), kTrainTargetCapacity),
      capacity_(registry.get(), kMoeCapacity),
      expert_load_(registry.get(), kMoeExpertLoad),
      dead_experts_(registry.get(), kMoeDeadExperts),
      threshold_(registry.get(), kMoeThreshold),
      threshold_drift_(registry.get(), kMoeThresholdDrift),
      predictor_accuracy_(registry.get(), kMoePredictorAccuracy),
      zero_expert_tokens_(registry.get(), kMoeZeroExpertTokens),
      gate_entropy_(registry.get(), kMoeGateEntropy),
      exchange_bytes_(registry.get(), kMoeExchangeBytes),
      exchange_calls_(registry.get(), kMoeExchangeCalls),
      exchange_rows_(registry.get(), kMoeExchangeRows) {}

void TrainMetrics::Update(const std::string& job_id, const v1::Progress& progress,
                          const v1::TrainingSpec& spec) {
  loss_.Set({job_id}, progress.loss());
  predictor_loss_.Set({job_id}, progress.predictor_loss());
  balance_loss_.Set({job_id}, progress.balance_loss());
  grad_norm_.Set({job_id}, progress.grad_norm());
  learning_rate_.Set({job_id}, progress.learning_rate());
  step_.Set({job_id}, static_cast<double>(progress.step()));
  planned_steps_.Set({job_id}, static_cast<double>(progress.total_steps()));
  samples_per_second_.Set({job_id}, progress.images_per_second());
  bad_files_.Set({job_id}, static_cast<double>(progress.bad_files()));
  checkpoint_interval_.Set({job_id}, static_cast<double>(spec.checkpoint().every_steps()));
  if (!progress.layers().empty()) {
    const bool by_tokens = spec.model().family() == v1::FAMILY_TOKEN_CHOICE;
    target_capacity_.Set({job_id}, by_tokens ? spec.model().top_k() : spec.model().capacity());
  }
  if (progress.has_phases()) {
    const v1::StepPhases& phases = progress.phases();
    step_duration_.Set({job_id, "data"}, phases.data());
    step_duration_.Set({job_id, "forward"}, phases.forward());
    step_duration_.Set({job_id, "backward"}, phases.backward());
    step_duration_.Set({job_id, "exchange"}, phases.exchange());
    step_duration_.Set({job_id, "reduce"}, phases.reduce());
    step_duration_.Set({job_id, "optimizer"}, phases.optimizer());
  }
  for (int i = 0; i < progress.layers_size(); ++i) {
    if (IsShown(i, progress.layers_size())) UpdateLayer(job_id, progress.layers(i));
  }

  int64_t steps = 0;
  {
    std::lock_guard lock(mutex_);
    const auto [entry, first] = last_step_.try_emplace(job_id, progress.step());
    if (!first) steps = std::max<int64_t>(0, progress.step() - entry->second);
    entry->second = progress.step();
  }
  samples_.Add({job_id}, static_cast<double>(steps * spec.train().global_batch()));
}

void TrainMetrics::UpdateLayer(const std::string& job_id, const v1::LayerStats& layer) {
  const std::string block = std::to_string(layer.block());
  capacity_.Set({job_id, block}, layer.capacity());
  if (!layer.thresholds().empty()) {
    predictor_accuracy_.Set({job_id, block}, layer.predictor_accuracy());
  }
  gate_entropy_.Set({job_id, block}, layer.gate_entropy());
  exchange_bytes_.Set({job_id, block}, static_cast<double>(layer.exchange_bytes()));
  exchange_calls_.Set({job_id, block}, static_cast<double>(layer.exchange_calls()));
  zero_expert_tokens_.Set({job_id, block}, layer.zero_expert_tokens());
  const auto& load = layer.expert_load();
  const auto& thresholds = layer.thresholds();
  const auto& rows = layer.exchange_rows();
  if (!load.empty()) SetSpread(expert_load_, job_id, block, load, "p95", Quantile(load, 0.95));
  if (!thresholds.empty()) {
    SetSpread(threshold_, job_id, block, thresholds, "median", Quantile(thresholds, 0.5));
    UpdateDrift(job_id, layer);
  }
  if (!rows.empty()) SetSpread(exchange_rows_, job_id, block, rows, "mean", Mean(rows));
  const auto dead = std::count(layer.expert_load().begin(), layer.expert_load().end(), 0.0F);
  if (!layer.expert_load().empty()) dead_experts_.Set({job_id, block}, static_cast<double>(dead));
}

void TrainMetrics::UpdateDrift(const std::string& job_id, const v1::LayerStats& layer) {
  std::vector<float> now(layer.thresholds().begin(), layer.thresholds().end());
  std::vector<float> before;
  {
    std::lock_guard lock(mutex_);
    before = std::exchange(last_thresholds_[job_id][layer.block()], now);
  }
  double moved = 0;
  if (before.size() == now.size()) {
    for (size_t i = 0; i < now.size(); ++i) moved += std::abs(now[i] - before[i]);
  }
  threshold_drift_.Set({job_id, std::to_string(layer.block())},
                       moved / static_cast<double>(now.size()));
}

void TrainMetrics::LossNotFinite(const std::string& job_id) {
  loss_.Set({job_id}, std::numeric_limits<double>::quiet_NaN());
}

void TrainMetrics::Remove(const std::string& job_id) {
  for (GaugeSeries* gauges : {&loss_,
                              &predictor_loss_,
                              &grad_norm_,
                              &learning_rate_,
                              &step_,
                              &planned_steps_,
                              &step_duration_,
                              &samples_per_second_,
                              &bad_files_,
                              &capacity_,
                              &expert_load_,
                              &dead_experts_,
                              &threshold_,
                              &threshold_drift_,
                              &predictor_accuracy_,
                              &zero_expert_tokens_,
                              &gate_entropy_,
                              &exchange_bytes_,
                              &exchange_calls_,
                              &exchange_rows_,
                              &balance_loss_,
                              &checkpoint_interval_,
                              &target_capacity_}) {
    gauges->RemoveFirst(job_id);
  }
  samples_.RemoveFirst(job_id);
  std::lock_guard lock(mutex_);
  last_step_.erase(job_id);
  last_thresholds_.erase(job_id);
}

}  // namespace diffmoe::metrics
