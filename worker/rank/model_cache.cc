#include "worker/rank/model_cache.h"

#include <xxhash.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "worker/rank/state_reader.h"

namespace diffmoe {
namespace {

std::string HashOf(Denoiser& denoiser) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  for (const ParameterInfo& info : denoiser.layout().infos()) {
    XXH3_64bits_update(state, denoiser.parameters().at(info.name).data_ptr<float>(),
                       static_cast<size_t>(info.elements()) * sizeof(float));
  }
  const XXH64_hash_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return absl::StrFormat("%016x", hash);
}

absl::StatusOr<std::vector<std::vector<float>>> ThresholdsOf(const CheckpointSummaryData& summary,
                                                             const ModelConfig& model) {
  const size_t layers = summary.blocks.size();
  std::vector<std::vector<float>> thresholds(layers);
  if (model.family != Family::kDiffMoe) return thresholds;
  const size_t experts = static_cast<size_t>(model.experts);
  if (summary.thresholds.size() != layers * experts) {
    return absl::FailedPreconditionError(absl::StrCat("thresholds of the checkpoint: expected ",
                                                      layers, " x ", experts, ", got ",
                                                      summary.thresholds.size(), " values"));
  }
  for (size_t i = 0; i < layers; ++i) {
    const auto first = summary.thresholds.begin() + static_cast<int64_t>(i * experts);
    thresholds[i].assign(first, first + static_cast<int64_t>(experts));
  }
  return thresholds;
}

}  // namespace

std::unique_ptr<Denoiser> CheckpointModel::Empty() const {
  MoeOptions options;
  options.inference_rule = config_.compatibility.inference_rule;
  return std::make_unique<Denoiser>(config_.model, at::kFloat, options);
}

absl::StatusOr<std::shared_ptr<CheckpointModel>> CheckpointModel::Read(RankLink& link,
                                                                       const CheckpointId& id,
                                                                       const TrainingConfig& config,
                                                                       NumericMode mode) {
  ASSIGN_OR_RETURN(const CheckpointManifest manifest, link.GetManifest(id.job_id, id.step));
  std::shared_ptr<CheckpointModel> model(new CheckpointModel());
  model->id_ = id;
  model->config_ = config;
  model->process_ = MakeProcess(config.diffusion);
  std::unique_ptr<Denoiser> denoiser = model->Empty();
  std::vector<WantedRun> wanted;
  for (const ParameterInfo& info : denoiser->layout().infos()) {
    wanted.push_back({"ema/" + info.name, info.shape, 0, info.elements(),
                      denoiser->parameters().at(info.name).data_ptr<float>()});
  }
  RETURN_IF_ERROR(ReadState(link, manifest, wanted));
  ASSIGN_OR_RETURN(model->thresholds_, ThresholdsOf(manifest.summary, config.model));
  denoiser->SetThresholds(model->thresholds_);
  model->weights_hash_ = HashOf(*denoiser);
  if (mode == NumericMode::kExact) denoiser->Pack();
  model->Slot(mode) = std::move(denoiser);
  LogInfo("rank", "loaded a checkpoint",
          {{"job", id.job_id}, {"step", id.step}, {"weights", model->weights_hash_}});
  return model;
}

Denoiser& CheckpointModel::Mode(NumericMode mode) {
  std::unique_ptr<Denoiser>& slot = Slot(mode);
  if (slot) return *slot;
  Denoiser& other = exact_ ? *exact_ : *fast_;
  slot = Empty();
  for (const ParameterInfo& info : other.layout().infos()) {
    slot->parameters().at(info.name).copy_(other.parameters().at(info.name));
  }
  slot->SetThresholds(thresholds_);
  if (mode == NumericMode::kExact) slot->Pack();
  return *slot;
}

absl::StatusOr<std::shared_ptr<CheckpointModel>> ModelCache::Get(const CheckpointId& id,
                                                                 const TrainingConfig& config,
                                                                 NumericMode mode) {
  const auto found =
      std::ranges::find_if(models_, [&](const auto& model) { return model->id() == id; });
  if (found != models_.end()) {
    models_.splice(models_.begin(), models_, found);
  } else {
    // What nobody needs goes before the new one comes.
    Trim();
    ASSIGN_OR_RETURN(std::shared_ptr<CheckpointModel> model,
                     CheckpointModel::Read(link_, id, config, mode));
    models_.push_front(std::move(model));
  }
  std::shared_ptr<CheckpointModel> model = models_.front();
  model->Mode(mode);
  Trim();
  return model;
}

void ModelCache::Trim() {
  size_t spare = 0;
  for (auto it = models_.begin(); it != models_.end();) {
    const bool held = it->use_count() > 1;
    if (!held) ++spare;
    it = !held && spare > spare_ ? models_.erase(it) : std::next(it);
  }
}

}  // namespace diffmoe
