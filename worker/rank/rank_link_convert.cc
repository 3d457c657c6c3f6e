#include "worker/rank/rank_link_convert.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/version.h"
#include "core/spec/spec_convert.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

absl::StatusOr<int64_t> ElementsOf(const TensorRun& run) {
  int64_t elements = 1;
  for (int64_t size : run.global_shape) {
    if (size < 0 || __builtin_mul_overflow(elements, size, &elements)) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", run.tensor, ": a dimension is negative or the shape overflows"));
    }
  }
  return elements;
}

absl::Status CheckRun(const TensorRun& run) {
  if (BytesPerElement(run.dtype) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", run.tensor, ": unknown dtype '", run.dtype, "'"));
  }
  absl::StatusOr<int64_t> total = ElementsOf(run);
  if (!total.ok()) return total.status();
  if (run.first_element < 0 || run.elements < 0 || run.first_element > *total - run.elements) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", run.tensor, ": run of ", run.elements,
                                                   " elements at ", run.first_element,
                                                   " is outside its ", *total, " elements"));
  }
  if (run.elements > 0 && run.data == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", run.tensor, ": run without data"));
  }
  return absl::OkStatus();
}

void FillSummary(const CheckpointSummaryData& summary, pb::CheckpointSummary* out) {
  out->set_loss(summary.loss);
  for (int block : summary.blocks) out->add_blocks(block);
  out->set_experts(summary.experts);
  for (float threshold : summary.thresholds) out->add_thresholds(threshold);
  out->set_trainer_state(summary.trainer_state);
}

v1::ThresholdRule ToProto(ThresholdRule rule) {
  switch (rule) {
    case ThresholdRule::kDynamic:
      return v1::DYNAMIC;
    case ThresholdRule::kCalibrated:
      return v1::CALIBRATED;
    case ThresholdRule::kInterval:
      return v1::INTERVAL;
    case ThresholdRule::kGate:
      return v1::GATE;
  }
  return v1::DYNAMIC;
}

ThresholdRule FromProto(v1::ThresholdRule rule) {
  switch (rule) {
    case v1::CALIBRATED:
      return ThresholdRule::kCalibrated;
    case v1::INTERVAL:
      return ThresholdRule::kInterval;
    case v1::GATE:
      return ThresholdRule::kGate;
    default:
      return ThresholdRule::kDynamic;
  }
}

void FillImage(SampleImage& image, v1::SampleResponse::Image* message) {
  message->set_index(image.index);
  message->set_label(image.label);
  message->set_height(image.height);
  message->set_width(image.width);
  message->set_channels(image.channels);
  message->set_total_bytes(static_cast<int64_t>(image.pixels.size()));
  message->set_pixels(std::move(image.pixels));
  message->set_encoding(v1::RAW);
}

struct UpdateFiller {
  pb::SampleUpdate* out;

  void operator()(const SampleStarted&) { out->mutable_response()->mutable_started(); }
  void operator()(const SampleProgressUpdate& progress) {
    auto* message = out->mutable_response()->mutable_progress();
    message->set_step(progress.step);
    message->set_steps(progress.steps);
    message->set_images_done(progress.images_done);
  }
  void operator()(SamplePreview& preview) {
    auto* message = out->mutable_response()->mutable_preview();
    message->set_step(preview.step);
    message->set_steps(preview.steps);
    FillImage(preview.image, message->mutable_image());
  }
  void operator()(EncodedImage& encoded) {
    auto* message = out->mutable_response()->mutable_image();
    FillImage(encoded.image, message);
    message->set_encoding(encoded.encoding == ImageEncoding::kPng ? v1::PNG : v1::RAW);
  }
  void operator()(const SampleFinished& finished) {
    auto* receipt = out->mutable_response()->mutable_finished()->mutable_receipt();
    for (double capacity : finished.capacity) receipt->add_capacity(capacity);
    for (const std::vector<float>& step : finished.step_capacity) {
      receipt->add_step_capacity()->mutable_layers()->Add(step.begin(), step.end());
    }
    receipt->set_zero_expert_token_ratio(finished.zero_expert_tokens);
    receipt->set_seconds(finished.seconds);
    receipt->set_thresholds_hash(finished.thresholds_hash);
    receipt->set_weights_hash(finished.weights_hash);
    for (const std::string& hash : finished.image_hashes) receipt->add_image_hashes(hash);
    receipt->set_network_calls(finished.network_calls);
    receipt->set_build(std::string(kVersion));
  }
  void operator()(const CalibrationProgress& progress) {
    auto* message = out->mutable_calibration()->mutable_progress();
    message->set_done(progress.done);
    message->set_doing(progress.doing);
  }
  void operator()(const CalibrationFinished& finished) {
    v1::Calibration* message = out->mutable_calibration()->mutable_finished();
    message->set_images(finished.images);
    message->set_data(finished.data);
    for (const CalibratedTargetData& target : finished.targets) {
      v1::CalibratedTarget* to = message->add_targets();
      to->set_rule(ToProto(target.rule));
      to->set_capacity(target.capacity);
      to->set_measured(target.measured);
      to->set_loss(target.loss);
      to->set_seconds(target.seconds);
      for (const CalibratedLayerData& layer : target.layers) {
        v1::CalibratedLayer* out_layer = to->add_layers();
        out_layer->set_block(layer.block);
        out_layer->set_measured(layer.measured);
        out_layer->mutable_thresholds()->Add(layer.thresholds.begin(), layer.thresholds.end());
      }
    }
  }
  void operator()(const SamplerLoadUpdate& load) {
    pb::SamplerLoad* message = out->mutable_load();
    message->set_step_base_seconds(load.step_base_seconds);
    message->set_step_row_seconds(load.step_row_seconds);
    message->set_rows_waiting(load.rows_waiting);
    message->set_width_rows(load.width_rows);
    message->set_requests(load.requests);
  }
  void operator()(const absl::Status& status) {
    out->mutable_error()->set_status_code(static_cast<int>(status.code()));
    out->mutable_error()->set_message(std::string(status.message()));
  }
};

}  // namespace

RankAssignment ToAssignment(const pb::StartRank& start) {
  RankAssignment assignment;
  assignment.group_id = start.group().id();
  assignment.epoch = start.group().epoch();
  assignment.rank = start.rank();
  assignment.world_size = start.world_size();
  assignment.role = start.role() == pb::ROLE_SAMPLE ? RankRole::kSample : RankRole::kTrain;
  assignment.device = start.device();
  assignment.rank_address = start.rank_address();
  assignment.coordinator_address = start.coordinator_address();
  if (start.has_spec()) assignment.config = ToTrainingConfig(start.spec());
  assignment.restore_job = start.restore_job();
  assignment.restore_step = start.restore_step();
  return assignment;
}

pb::GroupId GroupIdOf(const RankAssignment& assignment) {
  pb::GroupId group;
  group.set_id(assignment.group_id);
  group.set_epoch(assignment.epoch);
  return group;
}

void FillProgress(const ProgressReport& report, v1::Progress* out) {
  out->set_step(report.step);
  out->set_total_steps(report.total_steps);
  out->set_loss(report.loss);
  out->set_predictor_loss(report.predictor_loss);
  out->set_balance_loss(report.balance_loss);
  out->set_images_per_second(report.images_per_second);
  out->set_grad_norm(report.grad_norm);
  out->set_learning_rate(report.learning_rate);
  out->set_seconds_left(report.seconds_left);
  out->set_elapsed_seconds(report.elapsed_seconds);
  out->set_bad_files(report.bad_files);
  v1::StepPhases* phases = out->mutable_phases();
  phases->set_data(report.data_seconds);
  phases->set_forward(report.forward_seconds);
  phases->set_backward(report.backward_seconds);
  phases->set_exchange(report.exchange_seconds);
  phases->set_reduce(report.reduce_seconds);
  phases->set_optimizer(report.optimizer_seconds);
  for (const LayerReport& layer : report.layers) {
    v1::LayerStats* stats = out->add_layers();
    stats->set_block(layer.block);
    stats->set_capacity(layer.capacity);
    stats->set_predictor_accuracy(layer.predictor_accuracy);
    stats->set_zero_expert_tokens(layer.zero_expert_tokens);
    for (float threshold : layer.thresholds) stats->add_thresholds(threshold);
    for (float load : layer.expert_load) stats->add_expert_load(load);
    stats->set_gate_entropy(layer.gate_entropy);
    stats->set_exchange_bytes(layer.exchange_bytes);
    stats->set_exchange_calls(layer.exchange_calls);
    for (int64_t rows : layer.exchange_rows) stats->add_exchange_rows(rows);
  }
}

void FillHeartbeat(const Activity::Snapshot& activity, pb::RankHeartbeat* out) {
  out->set_step(activity.step);
  out->set_position(activity.position);
  out->set_doing(activity.doing.data());
  out->set_waits_for_peers(activity.waits_for_peers);
  out->set_limit_ms(activity.limit_ms);
}

void FillStepRecord(const StepReportRecord& record, v1::StepRecord* out) {
  out->set_step(record.step);
  out->set_loss(record.loss);
  out->set_predictor_loss(record.predictor_loss);
  out->set_grad_norm(record.grad_norm);
  out->set_learning_rate(record.learning_rate);
}

int64_t BytesPerElement(const std::string& dtype) {
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "U8" || dtype == "I8" || dtype == "BOOL") return 1;
  return 0;
}

absl::StatusOr<pb::ShardHeader> ToShardHeader(const RankAssignment& assignment, int64_t step,
                                              absl::Span<const TensorRun> runs,
                                              const std::optional<CheckpointSummaryData>& summary) {
  pb::ShardHeader header;
  *header.mutable_group() = GroupIdOf(assignment);
  header.set_step(step);
  header.set_rank(assignment.rank);
  header.set_world_size(assignment.world_size);
  int64_t offset = 0;
  for (const TensorRun& run : runs) {
    absl::Status checked = CheckRun(run);
    if (!checked.ok()) return checked;
    pb::TensorSlice* slice = header.add_slices();
    slice->set_tensor(run.tensor);
    slice->set_dtype(run.dtype);
    for (int64_t size : run.global_shape) slice->add_global_shape(size);
    slice->set_first_element(run.first_element);
    slice->set_elements(run.elements);
    slice->set_shard_offset(offset);
    offset += run.elements * BytesPerElement(run.dtype);
  }
  header.set_bytes(offset);
  if (summary.has_value()) FillSummary(*summary, header.mutable_summary());
  return header;
}

CheckpointManifest ToCheckpointManifest(const pb::Manifest& manifest) {
  CheckpointManifest out;
  out.job_id = manifest.job_id();
  out.step = manifest.step();
  out.world_size = manifest.world_size();
  out.places.reserve(static_cast<size_t>(manifest.slices_size()));
  for (const pb::SlicePlace& place : manifest.slices()) {
    const pb::TensorSlice& slice = place.slice();
    out.places.push_back(
        {.tensor = slice.tensor(),
         .dtype = slice.dtype(),
         .global_shape = {slice.global_shape().begin(), slice.global_shape().end()},
         .first_element = slice.first_element(),
         .elements = slice.elements(),
         .shard = place.shard(),
         .shard_offset = slice.shard_offset()});
  }
  const pb::CheckpointSummary& summary = manifest.summary();
  out.summary.loss = summary.loss();
  out.summary.blocks.assign(summary.blocks().begin(), summary.blocks().end());
  out.summary.experts = summary.experts();
  out.summary.thresholds.assign(summary.thresholds().begin(), summary.thresholds().end());
  out.summary.trainer_state = summary.trainer_state();
  return out;
}

SampleWork ToSampleWork(const pb::SampleTask& task, absl::Time now) {
  const v1::SampleRequest& request = task.request();
  SampleWork work;
  work.request_id = task.request_id();
  work.job_id = task.job_id();
  work.step = task.step();
  work.checkpoint_epoch = task.checkpoint_epoch();
  work.traceparent = task.traceparent();
  work.config = ToTrainingConfig(task.spec());
  work.classes.assign(request.classes().begin(), request.classes().end());
  work.seed = request.seed();
  work.first_image = request.first_image();
  work.steps = request.steps();
  work.guidance = request.guidance();
  work.sampler = request.sampler();
  work.eta = request.eta();
  if (request.has_guidance_interval()) {
    work.guidance_begin = request.guidance_interval().begin();
    work.guidance_end = request.guidance_interval().end();
  }
  if (request.has_negative_class()) work.negative_class = request.negative_class();
  work.rule = FromProto(request.threshold_rule());
  for (const v1::CalibratedLayer& layer : task.thresholds()) {
    work.thresholds.emplace_back(layer.thresholds().begin(), layer.thresholds().end());
  }
  work.image_size = request.image_size();
  work.preview_every = request.preview_every();
  if (request.encoding() == v1::PNG) work.encoding = ImageEncoding::kPng;
  if (request.numeric_mode() == v1::FAST) work.numeric_mode = NumericMode::kFast;
  if (task.deadline_ms() > 0) work.deadline = now + absl::Milliseconds(task.deadline_ms());
  return work;
}

CalibrateWork ToCalibrateWork(const pb::CalibrateTask& task) {
  CalibrateWork work;
  work.request_id = task.request_id();
  work.job_id = task.job_id();
  work.step = task.step();
  work.checkpoint_epoch = task.checkpoint_epoch();
  work.config = ToTrainingConfig(task.spec());
  work.images = task.request().images();
  work.capacities.assign(task.request().capacities().begin(), task.request().capacities().end());
  return work;
}

pb::SampleUpdate ToSampleUpdate(const std::string& request_id, SampleUpdateData update) {
  pb::SampleUpdate out;
  out.set_request_id(request_id);
  std::visit(UpdateFiller{&out}, update);
  return out;
}

}  // namespace diffmoe
