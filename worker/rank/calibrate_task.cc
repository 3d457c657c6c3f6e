#include "worker/rank/calibrate_task.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/base/status_macros.h"
#include "core/data/image_dataset.h"
#include "worker/error_boundary.h"

namespace diffmoe {
namespace {

constexpr size_t kMaxWaiting = 16;
constexpr absl::Duration kProgressInterval = absl::Milliseconds(500);

struct HeldOut {
  std::unique_ptr<ImageDataset> dataset;
  std::string name;
};

absl::StatusOr<HeldOut> OpenHeldOut(RankLink& link, const TrainingConfig& config) {
  DataConfig data = config.data;
  const DatasetLimits limits{.progress = [&link] { link.activity().Advance(); }};
  if (data.format == DataFormat::kIdx) {
    data.split = config.data.split == "train" ? "t10k" : "train";
    absl::StatusOr<std::unique_ptr<ImageDataset>> other =
        ImageDataset::Open(data, config.model, limits);
    if (other.ok()) return HeldOut{std::move(*other), absl::StrCat(data.path, " ", data.split)};
    if (!absl::IsNotFound(other.status())) return other.status();
  }
  ASSIGN_OR_RETURN(std::unique_ptr<ImageDataset> own,
                   ImageDataset::Open(config.data, config.model, limits));
  const std::string split =
      data.format == DataFormat::kIdx ? absl::StrCat(" ", config.data.split) : "";
  return HeldOut{std::move(own),
                 absl::StrCat(config.data.path, split, " (no other split; seen in training)")};
}

ThresholdRule RuleOf(CalibrationRule rule) {
  switch (rule) {
    case CalibrationRule::kPredictor:
      return ThresholdRule::kCalibrated;
    case CalibrationRule::kInterval:
      return ThresholdRule::kInterval;
    case CalibrationRule::kGate:
      return ThresholdRule::kGate;
  }
  return ThresholdRule::kCalibrated;
}

absl::Status Check(const CalibrateWork& work) {
  const ModelConfig& model = work.config.model;
  if (model.family != Family::kDiffMoe ||
      work.config.compatibility.inference_rule != InferenceRule::kPerToken) {
    return absl::InvalidArgumentError(
        "checkpoint: expected a diffmoe model with the per_token rule; this one has no thresholds "
        "to calibrate");
  }
  if (work.images < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("images: expected 1 or more, got ", work.images));
  }
  if (work.capacities.empty()) {
    return absl::InvalidArgumentError("capacities: expected one or more, got none");
  }
  for (const double capacity : work.capacities) {
    if (capacity > 0 && capacity <= static_cast<double>(model.experts)) continue;
    return absl::InvalidArgumentError(absl::StrCat("capacities: expected numbers above 0, at most ",
                                                   model.experts, ", got ", capacity));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<CalibrateTask>> CalibrateTask::Start(RankLink& link,
                                                                    ModelCache& cache,
                                                                    const CalibrateWork& work) {
  RETURN_IF_ERROR(Check(work));
  std::unique_ptr<CalibrateTask> task(new CalibrateTask());
  ASSIGN_OR_RETURN(task->model_,
                   cache.Get(work.job_id, work.step, work.config, NumericMode::kExact));
  task->denoiser_ = &task->model_->Mode(NumericMode::kExact);
  ASSIGN_OR_RETURN(const HeldOut held_out, OpenHeldOut(link, work.config));
  const ModelConfig& model = work.config.model;
  const size_t pixels = static_cast<size_t>(model.channels * model.image_size * model.image_size);
  const auto read = [&](int64_t index, float* out) {
    int label = 0;
    const absl::Status status = held_out.dataset->Read(index, absl::MakeSpan(out, pixels), &label);
    if (!status.ok()) throw std::runtime_error(std::string(status.message()));
    link.activity().Advance();
    return label;
  };
  CalibrationData data =
      MakeCalibrationData(work.config, work.images, held_out.dataset->size(), read);
  task->data_ = held_out.name;
  task->images_ = static_cast<int>(data.images.size(0) / 2);
  task->calibration_ = std::make_unique<Calibration>(*task->denoiser_, task->model_->process(),
                                                     model, std::move(data), work.capacities);
  return task;
}

CalibrationFinished CalibrateTask::Finished() const {
  CalibrationFinished out;
  out.images = images_;
  out.data = data_;
  for (const CalibrationTarget& target : calibration_->targets()) {
    CalibratedTargetData& to = out.targets.emplace_back();
    to.rule = RuleOf(target.rule);
    to.capacity = target.capacity;
    to.measured = target.measured;
    to.loss = target.loss;
    to.seconds = target.seconds;
    for (size_t l = 0; l < target.thresholds.size(); ++l) {
      to.layers.push_back(
          {.block = static_cast<int>(denoiser_->moe_layer(static_cast<int64_t>(l)).block()),
           .thresholds = target.thresholds[l],
           .measured = target.layer_capacity[l]});
    }
  }
  return out;
}

CalibrationQueue::CalibrationQueue(RankLink& link, ModelCache& cache,
                                   std::function<absl::Time()> now)
    : link_(link), cache_(cache), now_(now ? std::move(now) : [] { return absl::Now(); }) {}

void CalibrationQueue::Add(CalibrateWork work) {
  for (const CalibrateWork& known : waiting_) {
    if (known.request_id == work.request_id) return;
  }
  if (waiting_.size() >= kMaxWaiting) {
    link_
        .PushSampleUpdate(work.request_id,
                          absl::ResourceExhaustedError(
                              absl::StrCat("this sampler has ", waiting_.size(),
                                           " calibrations, no more are taken; try again later")))
        .IgnoreError();
    return;
  }
  waiting_.push_back(std::move(work));
}

void CalibrationQueue::Cancel(const std::string& request_id) {
  const auto found = std::ranges::find_if(
      waiting_, [&](const CalibrateWork& work) { return work.request_id == request_id; });
  if (found == waiting_.end()) return;
  if (found == waiting_.begin()) return Drop();
  waiting_.erase(found);
}

void CalibrationQueue::Forget() {
  waiting_.clear();
  task_.reset();
  last_progress_ = absl::InfinitePast();
}

void CalibrationQueue::Drop() {
  task_.reset();
  waiting_.pop_front();
  last_progress_ = absl::InfinitePast();
}

void CalibrationQueue::Step() {
  if (waiting_.empty()) return;
  const std::string id = waiting_.front().request_id;
  const ActivityScope scope(&link_.activity(), "calibrating for request ", id);
  const absl::Status status = CatchErrors([&] { return Advance(); });
  if (!status.ok()) {
    link_.PushSampleUpdate(id, status).IgnoreError();
    return Drop();
  }
  if (!task_->done()) return;
  link_.PushSampleUpdate(id, task_->Finished()).IgnoreError();
  Drop();
}

absl::Status CalibrationQueue::Advance() {
  const CalibrateWork& work = waiting_.front();
  if (task_ == nullptr) {
    ASSIGN_OR_RETURN(task_, CalibrateTask::Start(link_, cache_, work));
  } else {
    task_->Step();
  }
  const absl::Time now = now_();
  if (now - last_progress_ < kProgressInterval) return absl::OkStatus();
  last_progress_ = now;
  return link_.PushSampleUpdate(work.request_id, task_->progress());
}

void CalibrationQueue::Stop(const absl::Status& status) {
  while (!waiting_.empty()) {
    link_.PushSampleUpdate(waiting_.front().request_id, status).IgnoreError();
    Drop();
  }
}

}  // namespace diffmoe
