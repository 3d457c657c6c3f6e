// The engine's state as runs of logical tensors, for checkpoints.
#include <ATen/ops/empty.h>

#include <algorithm>
#include <stdexcept>

#include "absl/strings/str_cat.h"
#include "core/train/parameter_runs.h"
#include "core/train/train_engine.h"

namespace diffmoe {

std::vector<StateRun> TrainEngine::DenseRuns(const std::string& prefix, at::Tensor flat,
                                             int64_t flat_begin, int64_t begin, int64_t end) {
  std::vector<StateRun> runs;
  float* data = flat.data_ptr<float>();
  ForEachRun(layout_, begin, end, [&](const ParameterPlace& place, int64_t from, int64_t count) {
    runs.push_back({prefix + place.info->name, place.info->shape, from - place.offset, count,
                    data + (from - flat_begin)});
  });
  return runs;
}

std::vector<StateRun> TrainEngine::OwnedExpertRuns(const std::string& prefix,
                                                   const at::Tensor& flat) {
  std::vector<StateRun> runs;
  float* data = flat.data_ptr<float>();
  for (const OwnedRun& run : layout_.owned_experts()) {
    const ParameterInfo& info = *run.place.info;
    runs.push_back({prefix + info.name, info.shape, 0, info.elements(), data + run.state_offset});
  }
  return runs;
}

std::vector<StateRun> TrainEngine::ExpertWeightRuns(bool owned_only) {
  std::vector<StateRun> runs;
  float* data = parameters_.experts().data_ptr<float>();
  const ExpertRange owned = layout_.placement().owned();
  for (const ParameterPlace& place : layout_.experts()) {
    if (owned_only && !owned.contains(place.info->expert)) continue;
    runs.push_back({"model/" + place.info->name, place.info->shape, 0, place.info->elements(),
                    data + place.offset});
  }
  return runs;
}

std::vector<StateRun> TrainEngine::OptimizerState() {
  const int64_t begin = layout_.slice_begin(), end = begin + layout_.slice_elements();
  std::vector<StateRun> runs;
  const auto append = [&](const std::vector<StateRun>& more) {
    runs.insert(runs.end(), more.begin(), more.end());
  };
  append(DenseRuns("ema/", ema_dense_, begin, begin, end));
  append(DenseRuns("adam_m/", m_dense_, begin, begin, end));
  append(DenseRuns("adam_v/", v_dense_, begin, begin, end));
  append(OwnedExpertRuns("ema/", ema_experts_));
  append(OwnedExpertRuns("adam_m/", m_experts_));
  append(OwnedExpertRuns("adam_v/", v_experts_));
  return runs;
}

std::vector<StateRun> TrainEngine::OwnedState() {
  const int64_t begin = layout_.slice_begin(), end = begin + layout_.slice_elements();
  std::vector<StateRun> runs = DenseRuns("model/", parameters_.dense(), 0, begin, end);
  for (StateRun& run : ExpertWeightRuns(/*owned_only=*/true)) runs.push_back(std::move(run));
  for (StateRun& run : OptimizerState()) runs.push_back(std::move(run));
  return runs;
}

std::vector<StateRun> TrainEngine::NeededState() {
  std::vector<StateRun> runs =
      DenseRuns("model/", parameters_.dense(), 0, 0, layout_.dense_elements());
  for (StateRun& run : ExpertWeightRuns(/*owned_only=*/false)) runs.push_back(std::move(run));
  for (StateRun& run : OptimizerState()) runs.push_back(std::move(run));
  return runs;
}

at::Tensor TrainEngine::State(const std::string& name) const {
  const size_t slash = name.find('/');
  const std::string kind = name.substr(0, slash), key = name.substr(slash + 1);
  if (kind == "model")
    return parameters_.contains(key) ? parameters_.at(key).view({-1}) : at::Tensor();
  const at::Tensor& dense = kind == "ema" ? ema_dense_ : kind == "adam_m" ? m_dense_ : v_dense_;
  const at::Tensor& experts = kind == "ema"      ? ema_experts_
                              : kind == "adam_m" ? m_experts_
                                                 : v_experts_;
  const int64_t begin = layout_.slice_begin(), end = begin + layout_.slice_elements();
  for (const ParameterPlace& place : layout_.dense()) {
    if (place.info->name != key) continue;
    const int64_t elements = place.info->elements();
    if (place.offset < begin || place.offset + elements > end) return at::Tensor();
    return dense.narrow(0, place.offset - begin, elements);
  }
  for (const OwnedRun& run : layout_.owned_experts()) {
    if (run.place.info->name != key) continue;
    return experts.narrow(0, run.state_offset, run.place.info->elements());
  }
  return at::Tensor();
}

void TrainEngine::FinishRestore(const std::vector<std::vector<float>>& thresholds,
                                bool initialized) {
  RefreshComputeWeights();
  if (thresholds.size() != moe_layers_.size()) {
    throw std::invalid_argument(absl::StrCat("checkpoint has thresholds of ", thresholds.size(),
                                             " MoE layers, the model has ", moe_layers_.size()));
  }
  for (size_t l = 0; l < thresholds.size(); ++l) {
    at::Tensor values = at::empty({static_cast<int64_t>(thresholds[l].size())},
                                  at::TensorOptions().dtype(at::kFloat));
    std::copy(thresholds[l].begin(), thresholds[l].end(), values.data_ptr<float>());
    moe_layers_[l]->SetThreshold(values, initialized);
  }
}

std::vector<std::vector<float>> TrainEngine::Thresholds() const {
  std::vector<std::vector<float>> all;
  for (const auto& layer : moe_layers_) {
    const at::Tensor values = layer->threshold().to(at::kFloat).contiguous();
    all.emplace_back(values.const_data_ptr<float>(),
                     values.const_data_ptr<float>() + values.numel());
  }
  return all;
}

bool TrainEngine::thresholds_initialized() const {
  return moe_layers_.empty() || moe_layers_.front()->threshold_initialized();
}

}  // namespace diffmoe
