#include "server/api/training_job_service.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/spec/validate.h"
#include "core/storage/chunk_store.h"
#include "server/api/finish.h"
#include "server/api/histories.h"
#include "server/api/resource_names.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

constexpr size_t kMaxRequestIdBytes = 64;
constexpr size_t kMaxPageBytes = size_t{2} << 20;  // well below gRPC's 4 MB

absl::Status CheckSubmission(const v1::SubmitJobRequest& request) {
  if (request.request_id().size() > kMaxRequestIdBytes) {
    return MakeViolations(
        v1::INVALID_REQUEST,
        {Violation("request_id", absl::StrCat("expected at most ", kMaxRequestIdBytes,
                                              " bytes, got ", request.request_id().size()))});
  }
  auto violations = ValidateSpec(request.spec());
  if (!violations.empty()) return MakeViolations(v1::INVALID_SPEC, std::move(violations));
  return absl::OkStatus();
}

absl::Status JobNotFound(const std::string& job_id) {
  return MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                   absl::StrCat(JobName(job_id), " doesn't exist"), JobName(job_id));
}

void FillPage(const State& state, const std::set<int>& states, int64_t before, int page_size,
              v1::ListJobsResponse* response) {
  auto it = before > 0 ? state.jobs_by_number.lower_bound(before) : state.jobs_by_number.end();
  size_t bytes = 0;
  int64_t last = 0;
  while (it != state.jobs_by_number.begin()) {
    --it;
    const v1::Job& job = state.jobs.at(it->second).job();
    if (!states.empty() && !states.contains(job.state())) continue;
    if (response->jobs_size() == page_size || bytes > kMaxPageBytes) {
      response->set_next_page_token(MakePageToken(last));
      return;
    }
    bytes += job.ByteSizeLong();
    last = it->first;
    *response->add_jobs() = job;
  }
}

}  // namespace

grpc::ServerUnaryReactor* TrainingJobService::PostAndAnswer(grpc::CallbackServerContext* context,
                                                            uint64_t call, Event event,
                                                            v1::Job* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  calls_->Add(call, [reactor, response](const Reply& reply) {
    *response = reply.job;
    reactor->Finish(ToGrpc(reply.status));
  });
  if (absl::Status status = loop_->Post(std::move(event)); !status.ok()) {
    calls_->Answer(Reply{call, status, {}, false});
  }
  return reactor;
}

grpc::ServerUnaryReactor* TrainingJobService::SubmitJob(grpc::CallbackServerContext* context,
                                                        const v1::SubmitJobRequest* request,
                                                        v1::Job* response) {
  if (absl::Status status = CheckSubmission(*request); !status.ok()) return Finish(context, status);
  v1::TrainingSpec spec = request->spec();
  ApplyDefaults(&spec);
  if (request->validate_only()) {
    *response->mutable_spec() = std::move(spec);
    return Finish(context, absl::OkStatus());
  }
  const uint64_t call = calls_->NewNumber();
  server::SubmitJob event{call, std::move(spec), request->request_id(), ""};
  event.request_hash = absl::StrFormat("%016x", ChunkChecksum(event.spec.SerializeAsString()));
  return PostAndAnswer(context, call, std::move(event), response);
}

grpc::ServerUnaryReactor* TrainingJobService::CancelJob(grpc::CallbackServerContext* context,
                                                        const v1::CancelJobRequest* request,
                                                        v1::Job* response) {
  const absl::StatusOr<std::string> id = ParseJobName(request->name());
  if (!id.ok()) return Finish(context, id.status());
  const uint64_t call = calls_->NewNumber();
  return PostAndAnswer(context, call, server::CancelJob{call, *id}, response);
}

grpc::ServerUnaryReactor* TrainingJobService::GetJob(grpc::CallbackServerContext* context,
                                                     const v1::GetJobRequest* request,
                                                     v1::Job* response) {
  const absl::StatusOr<std::string> id = ParseJobName(request->name());
  if (!id.ok()) return Finish(context, id.status());
  return AnswerFromState(context, loop_, [id = *id, response](const State& state) {
    const auto it = state.jobs.find(id);
    if (it == state.jobs.end()) return JobNotFound(id);
    *response = it->second.job();
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* TrainingJobService::ListJobs(grpc::CallbackServerContext* context,
                                                       const v1::ListJobsRequest* request,
                                                       v1::ListJobsResponse* response) {
  const absl::StatusOr<int> page_size = PageSize(request->page_size(), 50, 1000, "page_size");
  if (!page_size.ok()) return Finish(context, page_size.status());
  int64_t before = 0;
  if (!request->page_token().empty()) {
    const absl::StatusOr<int64_t> token = ParsePageToken(request->page_token());
    if (!token.ok()) return Finish(context, token.status());
    before = *token;
  }
  const std::set<int> states(request->states().begin(), request->states().end());
  return AnswerFromState(context, loop_, [=, page_size = *page_size](const State& state) {
    FillPage(state, states, before, page_size, response);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::Job>* TrainingJobService::WatchJob(
    grpc::CallbackServerContext*, const v1::WatchJobRequest* request) {
  const std::shared_ptr<JobWatcher> watcher = hub_->NewWatcher();
  const absl::StatusOr<std::string> id = ParseJobName(request->name());
  absl::Status status = id.status();
  if (status.ok()) {
    status = loop_->Query([hub = hub_, watcher, id = *id](const State& state) {
      const auto it = state.jobs.find(id);
      if (it == state.jobs.end()) {
        hub->Refuse(watcher, JobNotFound(id));
      } else {
        hub->Subscribe(watcher, it->second.job());
      }
    });
  }
  if (!status.ok()) hub_->Refuse(watcher, status);
  return Reactor(watcher);
}

grpc::ServerUnaryReactor* TrainingJobService::ListJobEvents(grpc::CallbackServerContext* context,
                                                            const v1::ListJobEventsRequest* request,
                                                            v1::ListJobEventsResponse* response) {
  return Finish(context, ReadJobEvents(*records_, *request, response));
}

grpc::ServerUnaryReactor* TrainingJobService::ListStepRecords(
    grpc::CallbackServerContext* context, const v1::ListStepRecordsRequest* request,
    v1::ListStepRecordsResponse* response) {
  return Finish(context, ReadStepRecords(*records_, *request, response));
}

}  // namespace diffmoe::server
