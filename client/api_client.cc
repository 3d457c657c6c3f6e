#include "client/api_client.h"

#include <chrono>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/api_status.h"
#include "core/base/status_macros.h"
#include "diffmoe/v1/checkpoint.grpc.pb.h"
#include "diffmoe/v1/cluster.grpc.pb.h"
#include "diffmoe/v1/sampling.grpc.pb.h"
#include "diffmoe/v1/training_job.grpc.pb.h"
#include "grpcpp/grpcpp.h"

namespace diffmoe {
namespace {

constexpr auto kCallLimit = std::chrono::seconds(10);
constexpr int kAttempts = 3;
constexpr int kMaxReceiveBytes = 64 << 20;

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt("grpc.enable_http_proxy", 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

void SetDeadline(absl::Time deadline, grpc::ClientContext* context) {
  if (deadline != absl::InfiniteFuture()) context->set_deadline(absl::ToChronoTime(deadline));
}

}  // namespace

struct ApiClient::Connection {
  Connection(Endpoint where, std::string trace)
      : endpoint(std::move(where)),
        traceparent(std::move(trace)),
        channel(MakeChannel(endpoint.address)),
        jobs(v1::TrainingJobService::NewStub(channel)),
        checkpoints(v1::CheckpointService::NewStub(channel)),
        sampling(v1::SamplingService::NewStub(channel)),
        cluster(v1::ClusterService::NewStub(channel)) {}

  absl::Status ToStatus(const grpc::Status& status) const {
    if (status.ok()) return absl::OkStatus();
    const v1::ErrorDetails details = ParseErrorDetails(status.error_details());
    const auto code = static_cast<absl::StatusCode>(status.error_code());
    std::string message = status.error_message();
    if (details.reason() == v1::ERROR_REASON_UNSPECIFIED &&
        (code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded)) {
      message = absl::StrCat("no answer from the coordinator at ", endpoint.address, " (given by ",
                             endpoint.source, "): ", message);
    }
    absl::Status result(code, message);
    if (details.reason() != v1::ERROR_REASON_UNSPECIFIED) SetErrorDetails(details, &result);
    return result;
  }

  // Calls stub->method(context, request, response), again when the connection breaks.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(Stub* stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request) const {
    absl::Status status;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      if (attempt > 0) std::this_thread::sleep_for(std::chrono::milliseconds(200 * attempt));
      grpc::ClientContext context;
      Prepare(&context);
      context.set_deadline(std::chrono::system_clock::now() + kCallLimit);
      Response response;
      status = ToStatus((stub->*method)(&context, request, &response));
      if (status.ok()) return response;
      if (status.code() != absl::StatusCode::kUnavailable) break;
    }
    return status;
  }

  // Hands every message to `on_message`; its error cancels the call and is returned.
  template <typename Message>
  absl::Status ReadAll(grpc::ClientReader<Message>* stream, grpc::ClientContext* context,
                       const std::function<absl::Status(const Message&)>& on_message) const {
    Message message;
    absl::Status refused;
    while (refused.ok() && stream->Read(&message)) {
      refused = on_message(message);
      if (!refused.ok()) context->TryCancel();
    }
    const absl::Status status = ToStatus(stream->Finish());
    return refused.ok() ? status : refused;
  }

  // Of a new call.
  void Prepare(grpc::ClientContext* context) const {
    if (!traceparent.empty()) context->AddMetadata("traceparent", traceparent);
  }

  Endpoint endpoint;
  std::string traceparent;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::TrainingJobService::Stub> jobs;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints;
  std::unique_ptr<v1::SamplingService::Stub> sampling;
  std::unique_ptr<v1::ClusterService::Stub> cluster;
};

ApiClient::ApiClient(EndpointOptions options) : options_(std::move(options)) {}
ApiClient::~ApiClient() = default;

std::shared_ptr<ApiClient::Connection> ApiClient::connection() {
  absl::MutexLock lock(&mutex_);
  if (connection_ == nullptr) {
    connection_ = std::make_shared<Connection>(FindEndpoint(options_), options_.traceparent);
  }
  return connection_;
}

void ApiClient::Reconnect() {
  absl::MutexLock lock(&mutex_);
  connection_.reset();
}

std::shared_ptr<grpc::Channel> ApiClient::channel() { return connection()->channel; }

absl::StatusOr<v1::Job> ApiClient::SubmitJob(const v1::SubmitJobRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::SubmitJob, request);
}

absl::StatusOr<v1::Job> ApiClient::GetJob(const v1::GetJobRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::GetJob, request);
}

absl::StatusOr<v1::ListJobsResponse> ApiClient::ListJobs(const v1::ListJobsRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::ListJobs, request);
}

absl::StatusOr<v1::Job> ApiClient::CancelJob(const v1::CancelJobRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::CancelJob, request);
}

absl::StatusOr<v1::Job> ApiClient::PauseJob(const v1::PauseJobRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::PauseJob, request);
}

absl::StatusOr<v1::Job> ApiClient::ResumeJob(const v1::ResumeJobRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::ResumeJob, request);
}

absl::StatusOr<v1::Job> ApiClient::RetryJob(const v1::RetryJobRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::RetryJob, request);
}

absl::StatusOr<v1::Job> ApiClient::ForkJob(const v1::ForkJobRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::ForkJob, request);
}

absl::StatusOr<v1::Job> ApiClient::UpdateJob(const v1::UpdateJobRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::UpdateJob, request);
}

absl::StatusOr<v1::ListJobEventsResponse> ApiClient::ListJobEvents(
    const v1::ListJobEventsRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::ListJobEvents, request);
}

absl::StatusOr<v1::ListStepRecordsResponse> ApiClient::ListStepRecords(
    const v1::ListStepRecordsRequest& request) {
  const auto live = connection();
  return live->Call(live->jobs.get(), &v1::TrainingJobService::Stub::ListStepRecords, request);
}

absl::StatusOr<v1::ListCheckpointsResponse> ApiClient::ListCheckpoints(
    const v1::ListCheckpointsRequest& request) {
  const auto live = connection();
  return live->Call(live->checkpoints.get(), &v1::CheckpointService::Stub::ListCheckpoints,
                    request);
}

absl::StatusOr<v1::Checkpoint> ApiClient::GetCheckpoint(const v1::GetCheckpointRequest& request) {
  const auto live = connection();
  return live->Call(live->checkpoints.get(), &v1::CheckpointService::Stub::GetCheckpoint, request);
}

absl::StatusOr<v1::Checkpoint> ApiClient::UpdateCheckpoint(
    const v1::UpdateCheckpointRequest& request) {
  const auto live = connection();
  return live->Call(live->checkpoints.get(), &v1::CheckpointService::Stub::UpdateCheckpoint,
                    request);
}

absl::Status ApiClient::DeleteCheckpoint(const v1::DeleteCheckpointRequest& request) {
  const auto live = connection();
  return live
      ->Call(live->checkpoints.get(), &v1::CheckpointService::Stub::DeleteCheckpoint, request)
      .status();
}

absl::StatusOr<v1::ListThresholdsResponse> ApiClient::ListThresholds(
    const v1::ListThresholdsRequest& request) {
  const auto live = connection();
  return live->Call(live->checkpoints.get(), &v1::CheckpointService::Stub::ListThresholds, request);
}

absl::StatusOr<v1::ListWorkersResponse> ApiClient::ListWorkers(
    const v1::ListWorkersRequest& request) {
  const auto live = connection();
  return live->Call(live->cluster.get(), &v1::ClusterService::Stub::ListWorkers, request);
}

absl::Status ApiClient::WatchJob(
    const v1::WatchJobRequest& request, Interrupt* interrupt,
    const std::function<void(const v1::WatchJobResponse&)>& on_update) {
  const auto live = connection();
  grpc::ClientContext context;
  live->Prepare(&context);
  const InterruptAction cancel(interrupt, [&context] { context.TryCancel(); });
  const auto stream = live->jobs->WatchJob(&context, request);
  v1::WatchJobResponse update;
  while (stream->Read(&update)) on_update(update);
  return live->ToStatus(stream->Finish());
}

absl::Status ApiClient::Sample(
    const v1::SampleRequest& request, Interrupt* interrupt,
    const std::function<absl::Status(const v1::SampleResponse&)>& on_event, absl::Time deadline) {
  const auto live = connection();
  grpc::ClientContext context;
  live->Prepare(&context);
  SetDeadline(deadline, &context);
  const InterruptAction cancel(interrupt, [&context] { context.TryCancel(); });
  const auto stream = live->sampling->Sample(&context, request);
  return live->ReadAll(stream.get(), &context, on_event);
}

absl::Status ApiClient::CalibrateCheckpoint(
    const v1::CalibrateCheckpointRequest& request, Interrupt* interrupt,
    const std::function<absl::Status(const v1::CalibrateCheckpointResponse&)>& on_event,
    absl::Time deadline) {
  const auto live = connection();
  grpc::ClientContext context;
  live->Prepare(&context);
  SetDeadline(deadline, &context);
  const InterruptAction cancel(interrupt, [&context] { context.TryCancel(); });
  const auto stream = live->sampling->CalibrateCheckpoint(&context, request);
  return live->ReadAll(stream.get(), &context, on_event);
}

absl::StatusOr<v1::Calibration> ApiClient::GetCalibration(
    const v1::GetCalibrationRequest& request) {
  const auto live = connection();
  return live->Call(live->sampling.get(), &v1::SamplingService::Stub::GetCalibration, request);
}

absl::Status ApiClient::ReadJobLogs(
    const v1::ReadJobLogsRequest& request, Interrupt* interrupt,
    const std::function<absl::Status(const v1::ReadJobLogsResponse&)>& on_message) {
  const auto live = connection();
  grpc::ClientContext context;
  live->Prepare(&context);
  const InterruptAction cancel(interrupt, [&context] { context.TryCancel(); });
  const auto stream = live->jobs->ReadJobLogs(&context, request);
  return live->ReadAll(stream.get(), &context, on_message);
}

absl::Status ApiClient::ReadCheckpoint(
    const v1::ReadCheckpointRequest& request, Interrupt* interrupt,
    const std::function<absl::Status(const v1::ReadCheckpointResponse&)>& on_message) {
  const auto live = connection();
  grpc::ClientContext context;
  live->Prepare(&context);
  const InterruptAction cancel(interrupt, [&context] { context.TryCancel(); });
  const auto stream = live->checkpoints->ReadCheckpoint(&context, request);
  return live->ReadAll(stream.get(), &context, on_message);
}

absl::Status ApiClient::VerifyCheckpoint(
    const v1::VerifyCheckpointRequest& request, Interrupt* interrupt,
    const std::function<absl::Status(const v1::VerifyCheckpointResponse&)>& on_message) {
  const auto live = connection();
  grpc::ClientContext context;
  live->Prepare(&context);
  const InterruptAction cancel(interrupt, [&context] { context.TryCancel(); });
  const auto stream = live->checkpoints->VerifyCheckpoint(&context, request);
  return live->ReadAll(stream.get(), &context, on_message);
}

absl::StatusOr<v1::BackUpStoreResponse> ApiClient::BackUpStore(
    const v1::BackUpStoreRequest& request, Interrupt* interrupt) {
  const auto live = connection();
  grpc::ClientContext context;
  live->Prepare(&context);
  const InterruptAction cancel(interrupt, [&context] { context.TryCancel(); });
  v1::BackUpStoreResponse response;
  const absl::Status status =
      live->ToStatus(live->cluster->BackUpStore(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

absl::Status ApiClient::VerifyStore(
    const v1::VerifyStoreRequest& request, Interrupt* interrupt,
    const std::function<absl::Status(const v1::VerifyStoreResponse&)>& on_message) {
  const auto live = connection();
  grpc::ClientContext context;
  live->Prepare(&context);
  const InterruptAction cancel(interrupt, [&context] { context.TryCancel(); });
  const auto stream = live->cluster->VerifyStore(&context, request);
  return live->ReadAll(stream.get(), &context, on_message);
}

std::string NewRequestId() {
  std::random_device device;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppendFormat(&id, "%08x", device());
  return id;
}

}  // namespace diffmoe
