#include "server/api/training_job_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/status_macros.h"
#include "core/spec/validate.h"
#include "core/storage/chunk_store.h"
#include "server/api/finish.h"
#include "server/api/histories.h"
#include "server/api/job_request.h"
#include "server/api/resource_names.h"
#include "server/errors.h"

namespace diffmoe::server {
namespace {

constexpr int kMaxWatchEvents = 5000;
constexpr size_t kMaxPageBytes = size_t{2} << 20;  // well below gRPC's 4 MB

absl::Status JobNotFound(const std::string& job_id) {
  return MakeError(absl::StatusCode::kNotFound, v1::JOB_NOT_FOUND,
                   absl::StrCat(JobName(job_id), " doesn't exist"), JobName(job_id));
}

struct JobFilter {
  std::set<int> states;
  std::map<std::string, std::string> labels;
  std::string name_contains;

  bool Matches(const v1::Job& job) const {
    if (!states.empty() && !states.contains(job.state())) return false;
    if (!absl::StrContains(job.id(), name_contains)) return false;
    return std::all_of(labels.begin(), labels.end(), [&job](const auto& label) {
      const auto found = job.labels().find(label.first);
      return found != job.labels().end() && (label.second.empty() || found->second == label.second);
    });
  }
};

void FillPage(const State& state, const JobFilter& filter, int64_t before, int page_size,
              v1::ListJobsResponse* response) {
  auto it = before > 0 ? state.jobs_by_number.lower_bound(before) : state.jobs_by_number.end();
  size_t bytes = 0;
  int64_t last = 0;
  while (it != state.jobs_by_number.begin()) {
    --it;
    const v1::Job& job = state.jobs.at(it->second).job();
    if (!filter.Matches(job)) continue;
    if (response->jobs_size() == page_size || bytes > kMaxPageBytes) {
      response->set_next_page_token(MakePageToken(last));
      return;
    }
    bytes += job.ByteSizeLong();
    last = it->first;
    *response->add_jobs() = job;
  }
}

// Two requests with one hash ask for the same.
template <typename Request>
std::string HashOf(Request request) {
  request.clear_request_id();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream out(&bytes);
    google::protobuf::io::CodedOutputStream coded(&out);
    coded.SetSerializationDeterministic(true);  // labels are a map
    request.SerializeToCodedStream(&coded);
  }
  return absl::StrFormat("%016x", ChunkChecksum(bytes));
}

// Events after `sequence` and the token of the last one.
absl::StatusOr<v1::WatchJobResponse> EventsAfter(const RecordStore& records,
                                                 const std::string& job_id, int64_t sequence) {
  v1::ListJobEventsRequest request;
  request.set_name(JobName(job_id));
  request.set_after_sequence(sequence);
  request.set_page_size(kMaxWatchEvents);
  v1::ListJobEventsResponse page;
  RETURN_IF_ERROR(ReadJobEvents(records, request, &page));
  v1::WatchJobResponse response;
  response.mutable_events()->Swap(page.mutable_events());
  if (!response.events().empty()) sequence = response.events().rbegin()->sequence();
  response.set_resume_token(MakeResumeToken(job_id, sequence));
  return response;
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

grpc::ServerUnaryReactor* TrainingJobService::PostAndTrace(grpc::CallbackServerContext* context,
                                                           const std::string& method, uint64_t call,
                                                           Event event, v1::Job* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  calls_->Add(call, [this, reactor, response,
                     trace = traces_->Begin(*context, method)](const Reply& reply) {
    traces_->EndSubmit(trace, reply.status, reply.job.id());
    *response = reply.job;
    reactor->Finish(ToGrpc(reply.status));
  });
  if (absl::Status status = loop_->Post(std::move(event)); !status.ok()) {
    calls_->Answer(Reply{call, status, {}, false});
  }
  return reactor;
}

template <typename E>
grpc::ServerUnaryReactor* TrainingJobService::PostForJob(grpc::CallbackServerContext* context,
                                                         const std::string& name,
                                                         v1::Job* response) {
  const absl::StatusOr<std::string> id = ParseJobName(name);
  if (!id.ok()) return Finish(context, id.status());
  const uint64_t call = calls_->NewNumber();
  E event;
  event.call = call;
  event.job_id = *id;
  return PostAndAnswer(context, call, std::move(event), response);
}

grpc::ServerUnaryReactor* TrainingJobService::SubmitJob(grpc::CallbackServerContext* context,
                                                        const v1::SubmitJobRequest* request,
                                                        v1::Job* response) {
  absl::Status status =
      CheckJobRequest(request->request_id(), request->priority(), request->labels());
  auto violations = ValidateSpec(request->spec());
  if (!violations.empty()) status = MakeViolations(v1::INVALID_SPEC, std::move(violations));
  if (!status.ok()) return Finish(context, status);
  v1::TrainingSpec spec = request->spec();
  ApplyDefaults(&spec);
  if (request->validate_only()) {
    *response->mutable_spec() = std::move(spec);
    return Finish(context, absl::OkStatus());
  }
  v1::SubmitJobRequest complete = *request;
  *complete.mutable_spec() = spec;
  const uint64_t call = calls_->NewNumber();
  server::SubmitJob event{call, std::move(spec), MetaOf(*request, HashOf(complete))};
  return PostAndTrace(context, "TrainingJobService/SubmitJob", call, std::move(event), response);
}

grpc::ServerUnaryReactor* TrainingJobService::ForkJob(grpc::CallbackServerContext* context,
                                                      const v1::ForkJobRequest* request,
                                                      v1::Job* response) {
  absl::Status status =
      CheckJobRequest(request->request_id(), request->priority(), request->labels());
  if (status.ok() && request->has_spec()) {
    auto violations = ValidateSpec(request->spec());
    if (!violations.empty()) status = MakeViolations(v1::INVALID_SPEC, std::move(violations));
  }
  if (!status.ok()) return Finish(context, status);
  const absl::StatusOr<CheckpointRef> source =
      ParseCheckpointName(request->checkpoint(), "checkpoint", /*job_alone=*/true);
  if (!source.ok()) return Finish(context, source.status());
  const uint64_t call = calls_->NewNumber();
  server::ForkJob event{call, source->job_id, source->step, std::nullopt,
                        MetaOf(*request, HashOf(*request))};
  if (request->has_spec()) {
    event.spec = request->spec();
    ApplyDefaults(&*event.spec);
  }
  return PostAndTrace(context, "TrainingJobService/ForkJob", call, std::move(event), response);
}

grpc::ServerUnaryReactor* TrainingJobService::RetryJob(grpc::CallbackServerContext* context,
                                                       const v1::RetryJobRequest* request,
                                                       v1::Job* response) {
  const absl::StatusOr<std::string> id = ParseJobName(request->name());
  absl::Status status = id.status();
  status.Update(CheckJobRequest(request->request_id(), 0, {}));
  if (!status.ok()) return Finish(context, status);
  const uint64_t call = calls_->NewNumber();
  server::RetryJob event{call, *id, {request->request_id(), HashOf(*request), 0, {}}};
  return PostAndTrace(context, "TrainingJobService/RetryJob", call, std::move(event), response);
}

grpc::ServerUnaryReactor* TrainingJobService::UpdateJob(grpc::CallbackServerContext* context,
                                                        const v1::UpdateJobRequest* request,
                                                        v1::Job* response) {
  const absl::StatusOr<std::string> id = ParseJobName(request->name());
  absl::Status status = id.status();
  status.Update(CheckJobRequest(request->request_id(), request->priority(), request->set_labels()));
  if (!status.ok()) return Finish(context, status);
  const uint64_t call = calls_->NewNumber();
  server::UpdateJob event{call, *id, std::nullopt, {}, {}};
  if (request->has_priority()) event.priority = request->priority();
  event.set_labels = {request->set_labels().begin(), request->set_labels().end()};
  event.remove_labels = {request->remove_labels().begin(), request->remove_labels().end()};
  return PostAndAnswer(context, call, std::move(event), response);
}

grpc::ServerUnaryReactor* TrainingJobService::CancelJob(grpc::CallbackServerContext* context,
                                                        const v1::CancelJobRequest* request,
                                                        v1::Job* response) {
  return PostForJob<server::CancelJob>(context, request->name(), response);
}

grpc::ServerUnaryReactor* TrainingJobService::PauseJob(grpc::CallbackServerContext* context,
                                                       const v1::PauseJobRequest* request,
                                                       v1::Job* response) {
  return PostForJob<server::PauseJob>(context, request->name(), response);
}

grpc::ServerUnaryReactor* TrainingJobService::ResumeJob(grpc::CallbackServerContext* context,
                                                        const v1::ResumeJobRequest* request,
                                                        v1::Job* response) {
  return PostForJob<server::ResumeJob>(context, request->name(), response);
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
    if (response->reason_code() == v1::REASON_WAITS_FOR_TURN) {
      response->set_reason(DescribeTurn(state, it->second));
    }
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
  const JobFilter filter{{request->states().begin(), request->states().end()},
                         {request->labels().begin(), request->labels().end()},
                         request->name_contains()};
  return AnswerFromState(context, loop_, [=, page_size = *page_size](const State& state) {
    FillPage(state, filter, before, page_size, response);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* TrainingJobService::WatchJob(
    grpc::CallbackServerContext*, const v1::WatchJobRequest* request) {
  const std::shared_ptr<JobWatcher> watcher = hub_->NewWatcher();
  const absl::Status status = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string id, ParseJobName(request->name()));
    // The history is read here; what is added meanwhile, a few events at most, on the loop thread.
    v1::WatchJobResponse first;
    const bool resumed = !request->resume_token().empty();
    if (resumed) {
      ASSIGN_OR_RETURN(const int64_t sequence, ParseResumeToken(id, request->resume_token()));
      ASSIGN_OR_RETURN(first, EventsAfter(*records_, id, sequence));
    }
    return loop_->Query([hub = hub_, records = records_, watcher, id, resumed,
                         first = std::move(first)](const State& state) mutable {
      const auto it = state.jobs.find(id);
      if (it == state.jobs.end()) return hub->Refuse(watcher, JobNotFound(id));
      const int64_t last = it->second.record.next_event_sequence() - 1;
      if (resumed) {
        const absl::StatusOr<int64_t> sequence = ParseResumeToken(id, first.resume_token());
        const auto more = EventsAfter(*records, id, sequence.value_or(last));
        if (!more.ok()) return hub->Refuse(watcher, more.status());
        first.MergeFrom(*more);
      } else {
        first.set_resume_token(MakeResumeToken(id, last));
      }
      *first.mutable_job() = it->second.job();
      hub->Subscribe(watcher, std::move(first));
    });
  }();
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

grpc::ServerWriteReactor<v1::ReadJobLogsResponse>* TrainingJobService::ReadJobLogs(
    grpc::CallbackServerContext*, const v1::ReadJobLogsRequest* request) {
  return logs_->Read(*request);
}

}  // namespace diffmoe::server
