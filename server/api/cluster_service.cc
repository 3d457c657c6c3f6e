#include "server/api/cluster_service.h"

#include "absl/strings/str_cat.h"
#include "core/base/version.h"
#include "server/api/finish.h"
#include "server/errors.h"
#include "server/state/time_util.h"

namespace diffmoe::server {
namespace {

std::string UserOf(const State& state, const SlotUser& user) {
  if (state.jobs.contains(user.group_id)) {
    return absl::StrCat(JobName(user.group_id), " rank ", user.rank);
  }
  return absl::StrCat("sampler ", user.group_id);
}

v1::Worker ToWorker(const State& state, const WorkerEntry& entry) {
  v1::Worker worker;
  worker.set_name(absl::StrCat("workers/", entry.id));
  worker.set_id(entry.id);
  worker.set_host(entry.host);
  worker.set_state(entry.Usable() ? v1::CONNECTED : v1::SILENT);
  for (size_t i = 0; i < entry.slots.size(); ++i) {
    v1::Slot* slot = worker.add_slots();
    slot->set_index(static_cast<int>(i));
    slot->set_device(entry.slots[i].device);
    if (entry.slots[i].user) slot->set_used_by(UserOf(state, *entry.slots[i].user));
  }
  SetTimestamp(worker.mutable_connect_time(), entry.connect_unix_ms);
  worker.set_version(entry.version);
  worker.set_metrics_address(entry.metrics_address);
  return worker;
}

void FillCluster(const State& state, v1::Cluster* cluster) {
  int total = 0, free = 0;
  for (const auto& [id, worker] : state.workers) {
    if (!worker.Usable()) continue;
    for (const SlotEntry& slot : worker.slots) {
      ++total;
      if (!slot.user) ++free;
    }
  }
  cluster->set_slots_total(total);
  cluster->set_slots_free(free);
  auto& by_state = *cluster->mutable_jobs_by_state();
  for (const auto& [id, job] : state.jobs) ++by_state[v1::JobState_Name(job.job().state())];
}

}  // namespace

grpc::ServerUnaryReactor* ClusterService::ListWorkers(grpc::CallbackServerContext* context,
                                                      const v1::ListWorkersRequest*,
                                                      v1::ListWorkersResponse* response) {
  return AnswerFromState(context, loop_, [response](const State& state) {
    for (const auto& [id, worker] : state.workers) {
      *response->add_workers() = ToWorker(state, worker);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* ClusterService::GetCluster(grpc::CallbackServerContext* context,
                                                     const v1::GetClusterRequest*,
                                                     v1::Cluster* response) {
  response->set_version(kVersion);
  response->set_data_dir(info_.data_dir);
  response->set_metrics_address(info_.metrics_address);
  return AnswerFromState(context, loop_, [response](const State& state) {
    FillCluster(state, response);
    return absl::OkStatus();
  });
}

grpc::Status ClusterService::BackUpStore(grpc::ServerContext*,
                                         const v1::BackUpStoreRequest* request,
                                         v1::BackUpStoreResponse* response) {
  const absl::StatusOr<BackupSummary> summary = maintenance_->BackUp(request->directory());
  if (absl::IsInvalidArgument(summary.status())) {
    return ToGrpc(MakeError(absl::StatusCode::kInvalidArgument, v1::INVALID_REQUEST,
                            std::string(summary.status().message())));
  }
  if (!summary.ok()) return ToGrpc(summary.status());
  response->set_commit(summary->commit);
  response->set_jobs(summary->jobs);
  response->set_checkpoints(summary->checkpoints);
  response->set_bytes(summary->bytes);
  return grpc::Status::OK;
}

grpc::Status ClusterService::VerifyStore(grpc::ServerContext*, const v1::VerifyStoreRequest*,
                                         grpc::ServerWriter<v1::VerifyStoreResponse>* writer) {
  v1::VerifyStoreResponse response;
  const absl::StatusOr<int64_t> damaged = maintenance_->Verify([&](const VerifyProgress& progress) {
    response.set_bytes(progress.bytes);
    response.set_total_bytes(progress.total_bytes);
    response.clear_damage();
    if (!progress.damage.empty()) response.add_damage(progress.damage);
    return writer->Write(response);
  });
  if (!damaged.ok()) return ToGrpc(damaged.status());
  response.clear_damage();
  response.set_finished(true);
  writer->Write(response);
  return grpc::Status::OK;
}

}  // namespace diffmoe::server
