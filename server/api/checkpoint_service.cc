#include "server/api/checkpoint_service.h"

#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "diffmoe/worker/v1/bulk_plane.pb.h"
#include "server/api/finish.h"
#include "server/api/grpc_status.h"
#include "server/api/histories.h"
#include "server/api/resource_names.h"
#include "server/checkpoints/shard_rules.h"
#include "server/errors.h"
#include "server/state/records.h"
#include "server/state/time_util.h"

namespace diffmoe::server {
namespace {

constexpr int64_t kVerifyReportBytes = int64_t{16} << 20;

void FillThresholds(const worker::v1::CheckpointSummary& summary, v1::Checkpoint* checkpoint) {
  const int experts = summary.experts();
  if (experts <= 0 || summary.thresholds_size() != summary.blocks_size() * experts) return;
  for (int layer = 0; layer < summary.blocks_size(); ++layer) {
    v1::LayerThresholds* thresholds = checkpoint->add_thresholds();
    thresholds->set_block(summary.blocks(layer));
    for (int e = 0; e < experts; ++e) {
      thresholds->add_thresholds(summary.thresholds(layer * experts + e));
    }
  }
}

v1::TensorInfo ToTensorInfo(const std::string& name, const worker::v1::TensorSlice& slice) {
  v1::TensorInfo info;
  info.set_name(name);
  info.set_dtype(slice.dtype());
  *info.mutable_shape() = slice.global_shape();
  int64_t bytes = DtypeBytes(slice.dtype());
  for (const int64_t size : slice.global_shape()) bytes *= size;
  info.set_bytes(bytes);
  return info;
}

void FillTensors(const worker::v1::Manifest& manifest, v1::Checkpoint* checkpoint) {
  std::map<std::string, const worker::v1::TensorSlice*> tensors;
  for (const worker::v1::SlicePlace& place : manifest.slices()) {
    tensors.emplace(place.slice().tensor(), &place.slice());
  }
  for (const auto& [name, slice] : tensors) *checkpoint->add_tensors() = ToTensorInfo(name, *slice);
}

// What ReadCheckpoint sends: the tensors under a prefix, and where their bytes lie.
struct WeightPlan {
  std::vector<v1::TensorInfo> tensors;
  worker::v1::ReadExtentsRequest extents;  // in the order of the tensors' bytes
};

WeightPlan PlanWeights(const worker::v1::Manifest& manifest, const std::string& prefix) {
  std::map<std::string, std::map<int64_t, const worker::v1::SlicePlace*>> tensors;
  for (const worker::v1::SlicePlace& place : manifest.slices()) {
    if (!absl::StartsWith(place.slice().tensor(), prefix)) continue;
    tensors[place.slice().tensor()][place.slice().first_element()] = &place;
  }
  WeightPlan plan;
  plan.extents.set_job_id(manifest.job_id());
  plan.extents.set_step(manifest.step());
  for (const auto& [name, slices] : tensors) {
    plan.tensors.push_back(
        ToTensorInfo(name.substr(prefix.size()), slices.begin()->second->slice()));
    for (const auto& [first_element, place] : slices) {
      worker::v1::Extent* extent = plan.extents.add_extents();
      extent->set_shard(place->shard());
      extent->set_offset(place->slice().shard_offset());
      extent->set_bytes(place->slice().elements() * DtypeBytes(place->slice().dtype()));
    }
  }
  return plan;
}

v1::Checkpoint ToCheckpoint(const worker::v1::Manifest& manifest) {
  v1::Checkpoint checkpoint;
  checkpoint.set_name(CheckpointName(manifest.job_id(), manifest.step()));
  checkpoint.set_job_id(manifest.job_id());
  checkpoint.set_step(manifest.step());
  checkpoint.set_epoch(manifest.epoch());
  SetTimestamp(checkpoint.mutable_commit_time(), manifest.commit_time_ms());
  int64_t bytes = 0;
  for (const worker::v1::ShardInfo& shard : manifest.shards()) bytes += shard.bytes();
  checkpoint.set_bytes(bytes);
  checkpoint.set_world_size(manifest.world_size());
  checkpoint.set_loss(manifest.summary().loss());
  FillThresholds(manifest.summary(), &checkpoint);
  return checkpoint;
}

// Who uses it, and what was said about it.
void FillUse(const State& state, v1::Checkpoint* checkpoint) {
  const auto job = state.jobs.find(checkpoint->job_id());
  if (job == state.jobs.end()) return;
  checkpoint->set_pinned(IsPinned(job->second, checkpoint->step()));
  checkpoint->set_damaged(IsDamaged(job->second, checkpoint->step()));
  for (std::string& user : UsersOf(state, job->second, checkpoint->step())) {
    checkpoint->add_used_by(std::move(user));
  }
}

// Steps of the checkpoints, ascending; with `damaged`, those that are marked as damaged, too.
absl::StatusOr<std::vector<int64_t>> ReadSteps(const RecordStore& records,
                                               const std::string& job_id, bool with_damaged) {
  ASSIGN_OR_RETURN(const internal::v1::JobRecord job, ReadJobRecord(records, job_id));
  const auto& damaged = job.damaged_steps();
  std::vector<int64_t> steps;
  const std::string prefix = ManifestsPrefix(job_id);
  RETURN_IF_ERROR(records.Scan(prefix, [&](std::string_view key, std::string_view) {
    int64_t step = 0;
    if (absl::SimpleAtoi(std::string(key.substr(prefix.size())), &step) &&
        (with_damaged || std::find(damaged.begin(), damaged.end(), step) == damaged.end())) {
      steps.push_back(step);
    }
    return true;
  }));
  return steps;
}

absl::StatusOr<worker::v1::Manifest> ReadManifest(const RecordStore& records,
                                                  const std::string& job_id, int64_t step) {
  const std::string name = CheckpointName(job_id, step);
  const absl::StatusOr<std::string> bytes = records.Get(ManifestKey(job_id, step));
  if (absl::IsNotFound(bytes.status())) {
    return MakeError(absl::StatusCode::kNotFound, v1::CHECKPOINT_NOT_FOUND,
                     absl::StrCat(name, " doesn't exist"), name);
  }
  RETURN_IF_ERROR(bytes.status());
  worker::v1::Manifest manifest;
  if (!manifest.ParseFromString(*bytes)) {
    return MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT,
                     absl::StrCat("the manifest of ", name, " can't be read"), name);
  }
  return manifest;
}

absl::Status List(const RecordStore& records, const v1::ListCheckpointsRequest& request,
                  v1::ListCheckpointsResponse* response) {
  ASSIGN_OR_RETURN(const std::string id, ParseJobName(request.parent(), "parent"));
  ASSIGN_OR_RETURN(const int page_size, PageSize(request.page_size(), 50, 1000, "page_size"));
  int64_t before = INT64_MAX;
  if (!request.page_token().empty()) {
    ASSIGN_OR_RETURN(before, ParsePageToken(request.page_token()));
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ReadSteps(records, id, /*with_damaged=*/true));
  for (auto it = steps.rbegin(); it != steps.rend(); ++it) {
    if (*it >= before) continue;
    if (response->checkpoints_size() == page_size) {
      response->set_next_page_token(MakePageToken(response->checkpoints(page_size - 1).step()));
      break;
    }
    absl::StatusOr<worker::v1::Manifest> manifest = ReadManifest(records, id, *it);
    if (absl::IsNotFound(manifest.status())) continue;  // deleted meanwhile
    RETURN_IF_ERROR(manifest.status());
    *response->add_checkpoints() = ToCheckpoint(*manifest);
  }
  return absl::OkStatus();
}

// The manifest of an undamaged checkpoint by name, "latest" resolved.
absl::StatusOr<worker::v1::Manifest> FindManifest(const RecordStore& records,
                                                  const std::string& resource) {
  ASSIGN_OR_RETURN(const CheckpointRef ref,
                   ParseCheckpointName(resource, "name", /*job_alone=*/false));
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps,
                   ReadSteps(records, ref.job_id, /*with_damaged=*/false));
  if (!ref.step && steps.empty()) {
    return MakeRetryableError(absl::StatusCode::kFailedPrecondition, v1::NO_CHECKPOINT_YET,
                              absl::StrCat(JobName(ref.job_id), " has no checkpoint yet"), 5000);
  }
  const int64_t step = ref.step ? *ref.step : steps.back();
  ASSIGN_OR_RETURN(worker::v1::Manifest manifest, ReadManifest(records, ref.job_id, step));
  if (std::find(steps.begin(), steps.end(), step) == steps.end()) {
    const std::string name = CheckpointName(ref.job_id, step);
    return MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT,
                     absl::StrCat(name, " is damaged"), name);
  }
  return manifest;
}

absl::Status Get(const RecordStore& records, const v1::GetCheckpointRequest& request,
                 v1::Checkpoint* response) {
  ASSIGN_OR_RETURN(const worker::v1::Manifest manifest, FindManifest(records, request.name()));
  *response = ToCheckpoint(manifest);
  FillTensors(manifest, response);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* CheckpointService::ListCheckpoints(
    grpc::CallbackServerContext* context, const v1::ListCheckpointsRequest* request,
    v1::ListCheckpointsResponse* response) {
  if (absl::Status status = List(*records_, *request, response); !status.ok()) {
    return Finish(context, status);
  }
  return AnswerFromState(context, loop_, [response](const State& state) {
    for (v1::Checkpoint& checkpoint : *response->mutable_checkpoints()) FillUse(state, &checkpoint);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CheckpointService::GetCheckpoint(grpc::CallbackServerContext* context,
                                                           const v1::GetCheckpointRequest* request,
                                                           v1::Checkpoint* response) {
  if (absl::Status status = Get(*records_, *request, response); !status.ok()) {
    return Finish(context, status);
  }
  return AnswerFromState(context, loop_, [response](const State& state) {
    FillUse(state, response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* CheckpointService::UpdateCheckpoint(
    grpc::CallbackServerContext* context, const v1::UpdateCheckpointRequest* request,
    v1::Checkpoint* response) {
  const absl::StatusOr<worker::v1::Manifest> manifest = FindManifest(*records_, request->name());
  if (!manifest.ok()) return Finish(context, manifest.status());
  *response = ToCheckpoint(*manifest);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const uint64_t call = calls_->NewNumber();
  calls_->Add(call, [reactor, response, pinned = request->pinned()](const Reply& reply) {
    response->set_pinned(pinned);
    reactor->Finish(ToGrpc(reply.status));
  });
  absl::Status status =
      loop_->Post(PinCheckpoint{call, manifest->job_id(), manifest->step(), request->pinned()});
  if (!status.ok()) calls_->Answer(Reply{call, status, {}, false});
  return reactor;
}

grpc::ServerUnaryReactor* CheckpointService::DeleteCheckpoint(
    grpc::CallbackServerContext* context, const v1::DeleteCheckpointRequest* request,
    v1::DeleteCheckpointResponse*) {
  const absl::StatusOr<CheckpointRef> ref =
      ParseCheckpointName(request->name(), "name", /*job_alone=*/false);
  absl::Status status = ref.status();
  if (status.ok() && !ref->step) {
    status = MakeViolations(v1::INVALID_REQUEST,
                            {Violation("name", "expected the step of the checkpoint to delete")});
  }
  if (!status.ok()) return Finish(context, status);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const uint64_t call = calls_->NewNumber();
  calls_->Add(call, [reactor](const Reply& reply) { reactor->Finish(ToGrpc(reply.status)); });
  status = loop_->Post(DeleteJobCheckpoint{call, ref->job_id, *ref->step});
  if (!status.ok()) calls_->Answer(Reply{call, status, {}, false});
  return reactor;
}

grpc::ServerUnaryReactor* CheckpointService::ListThresholds(
    grpc::CallbackServerContext* context, const v1::ListThresholdsRequest* request,
    v1::ListThresholdsResponse* response) {
  return Finish(context, ReadThresholds(*records_, *request, response));
}

grpc::Status CheckpointService::ReadCheckpoint(
    grpc::ServerContext*, const v1::ReadCheckpointRequest* request,
    grpc::ServerWriter<v1::ReadCheckpointResponse>* writer) {
  return ToGrpc(StreamWeights(*request, *writer));
}

grpc::Status CheckpointService::VerifyCheckpoint(
    grpc::ServerContext*, const v1::VerifyCheckpointRequest* request,
    grpc::ServerWriter<v1::VerifyCheckpointResponse>* writer) {
  return ToGrpc(Verify(*request, *writer));
}

absl::Status CheckpointService::Verify(const v1::VerifyCheckpointRequest& request,
                                       grpc::ServerWriter<v1::VerifyCheckpointResponse>& writer) {
  ASSIGN_OR_RETURN(const worker::v1::Manifest manifest, FindManifest(*records_, request.name()));
  v1::VerifyCheckpointResponse progress;
  worker::v1::ReadExtentsRequest extents;
  extents.set_job_id(manifest.job_id());
  extents.set_step(manifest.step());
  for (const worker::v1::ShardInfo& shard : manifest.shards()) {
    worker::v1::Extent* extent = extents.add_extents();
    extent->set_shard(shard.shard());
    extent->set_bytes(shard.bytes());
    progress.set_total_bytes(progress.total_bytes() + shard.bytes());
  }
  const absl::Status status =
      checkpoints_->ReadExtents(extents, [&](std::string_view bytes) -> absl::Status {
        const int64_t before = progress.bytes() / kVerifyReportBytes;
        progress.set_bytes(progress.bytes() + static_cast<int64_t>(bytes.size()));
        if (progress.bytes() / kVerifyReportBytes == before || writer.Write(progress)) {
          return absl::OkStatus();
        }
        return absl::CancelledError("the reader has gone");
      });
  if (!status.ok() && !absl::IsDataLoss(status)) return status;
  if (!status.ok()) {
    metrics_->CountDamaged();
    progress.set_damage(std::string(status.message()));
  }
  progress.set_finished(true);
  writer.Write(progress);
  return absl::OkStatus();
}

absl::Status CheckpointService::StreamWeights(
    const v1::ReadCheckpointRequest& request,
    grpc::ServerWriter<v1::ReadCheckpointResponse>& writer) {
  ASSIGN_OR_RETURN(const worker::v1::Manifest manifest, FindManifest(*records_, request.name()));
  const std::string name = CheckpointName(manifest.job_id(), manifest.step());
  const std::string prefix = request.weights() == v1::WEIGHT_SET_MODEL ? "model/" : "ema/";
  const WeightPlan plan = PlanWeights(manifest, prefix);
  if (plan.tensors.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(name, " holds no tensors under ", prefix));
  }
  v1::ReadCheckpointResponse response;
  *response.mutable_checkpoint() = ToCheckpoint(manifest);
  if (!writer.Write(response)) return absl::CancelledError("the reader has gone");

  auto tensor = plan.tensors.begin();
  int64_t sent_bytes = 0;  // of the tensor
  const absl::Status status =
      checkpoints_->ReadExtents(plan.extents, [&](std::string_view bytes) -> absl::Status {
        response.Clear();
        if (sent_bytes == 0) *response.mutable_tensor() = *tensor;
        response.set_data(bytes.data(), bytes.size());
        if (!writer.Write(response)) return absl::CancelledError("the reader has gone");
        metrics_->CountRead(static_cast<int64_t>(bytes.size()));
        sent_bytes += static_cast<int64_t>(bytes.size());
        if (sent_bytes == tensor->bytes()) {
          ++tensor;
          sent_bytes = 0;
        }
        return absl::OkStatus();
      });
  if (absl::IsDataLoss(status)) {
    metrics_->CountDamaged();
    return MakeError(absl::StatusCode::kDataLoss, v1::CORRUPT_CHECKPOINT,
                     std::string(status.message()), name);
  }
  RETURN_IF_ERROR(status);
  // The places came from this manifest: a newer one may have put other bytes there.
  ASSIGN_OR_RETURN(const worker::v1::Manifest now,
                   ReadManifest(*records_, manifest.job_id(), manifest.step()));
  if (IdOf(now) != IdOf(manifest)) {
    return absl::NotFoundError(absl::StrCat(name, " was replaced while it was read"));
  }
  return absl::OkStatus();
}

}  // namespace diffmoe::server
