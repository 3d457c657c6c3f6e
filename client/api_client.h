// The coordinator's public API with plain calls.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/endpoint.h"
#include "client/interrupt.h"
#include "diffmoe/v1/checkpoint.pb.h"
#include "diffmoe/v1/cluster.pb.h"
#include "diffmoe/v1/sampling.pb.h"
#include "diffmoe/v1/training_job.pb.h"

namespace grpc {
class Channel;
}

namespace diffmoe {

// Thread-safe; all calls share one connection, which is made at the first one. Calls without a
// stream have a deadline of 10 s and are repeated up to twice when the connection breaks (all of
// them are idempotent: mutations carry a request id). Errors are the API's own with ErrorDetails
// attached (api_status.h); an unreachable coordinator is UNAVAILABLE and names the address and who
// gave it.
class ApiClient {
 public:
  explicit ApiClient(EndpointOptions options);
  ~ApiClient();
  ApiClient(const ApiClient&) = delete;
  ApiClient& operator=(const ApiClient&) = delete;

  absl::StatusOr<v1::Job> SubmitJob(const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::Job> GetJob(const v1::GetJobRequest& request);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> CancelJob(const v1::CancelJobRequest& request);
  absl::StatusOr<v1::Job> PauseJob(const v1::PauseJobRequest& request);
  absl::StatusOr<v1::Job> ResumeJob(const v1::ResumeJobRequest& request);
  absl::StatusOr<v1::Job> RetryJob(const v1::RetryJobRequest& request);
  absl::StatusOr<v1::Job> ForkJob(const v1::ForkJobRequest& request);
  absl::StatusOr<v1::Job> UpdateJob(const v1::UpdateJobRequest& request);
  absl::StatusOr<v1::ListJobEventsResponse> ListJobEvents(const v1::ListJobEventsRequest& request);
  absl::StatusOr<v1::ListStepRecordsResponse> ListStepRecords(
      const v1::ListStepRecordsRequest& request);
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& request);
  absl::StatusOr<v1::Checkpoint> GetCheckpoint(const v1::GetCheckpointRequest& request);
  absl::StatusOr<v1::Checkpoint> UpdateCheckpoint(const v1::UpdateCheckpointRequest& request);
  absl::Status DeleteCheckpoint(const v1::DeleteCheckpointRequest& request);
  absl::StatusOr<v1::ListThresholdsResponse> ListThresholds(
      const v1::ListThresholdsRequest& request);
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers(const v1::ListWorkersRequest& request);

  // Calls `on_update` for every update until the stream ends. An interrupt ends it with CANCELLED.
  absl::Status WatchJob(const v1::WatchJobRequest& request, Interrupt* interrupt,
                        const std::function<void(const v1::WatchJobResponse&)>& on_update);
  // Calls `on_event` for every message until the stream ends. `on_event` may return an error, which
  // cancels the call. After `deadline` the call ends with DEADLINE_EXCEEDED.
  absl::Status Sample(const v1::SampleRequest& request, Interrupt* interrupt,
                      const std::function<absl::Status(const v1::SampleResponse&)>& on_event,
                      absl::Time deadline = absl::InfiniteFuture());
  // As Sample.
  absl::Status CalibrateCheckpoint(
      const v1::CalibrateCheckpointRequest& request, Interrupt* interrupt,
      const std::function<absl::Status(const v1::CalibrateCheckpointResponse&)>& on_event,
      absl::Time deadline = absl::InfiniteFuture());
  absl::StatusOr<v1::Calibration> GetCalibration(const v1::GetCalibrationRequest& request);

  // Calls `on_message` for every message until the stream ends, as Sample does.
  absl::Status ReadJobLogs(
      const v1::ReadJobLogsRequest& request, Interrupt* interrupt,
      const std::function<absl::Status(const v1::ReadJobLogsResponse&)>& on_message);
  // As ReadJobLogs.
  absl::Status ReadCheckpoint(
      const v1::ReadCheckpointRequest& request, Interrupt* interrupt,
      const std::function<absl::Status(const v1::ReadCheckpointResponse&)>& on_message);

  // As ReadCheckpoint.
  absl::Status VerifyCheckpoint(
      const v1::VerifyCheckpointRequest& request, Interrupt* interrupt,
      const std::function<absl::Status(const v1::VerifyCheckpointResponse&)>& on_message);
  // Without a deadline and never repeated: copying takes as long as it takes.
  absl::StatusOr<v1::BackUpStoreResponse> BackUpStore(const v1::BackUpStoreRequest& request,
                                                      Interrupt* interrupt);
  // Calls `on_message` for every message until the stream ends, as Sample does.
  absl::Status VerifyStore(
      const v1::VerifyStoreRequest& request, Interrupt* interrupt,
      const std::function<absl::Status(const v1::VerifyStoreResponse&)>& on_message);

  // Looks the address up again and connects anew at the next call; calls that run go on.
  void Reconnect();
  // The connection itself, for callers that need calls of another form.
  std::shared_ptr<grpc::Channel> channel();

 private:
  struct Connection;
  std::shared_ptr<Connection> connection();

  const EndpointOptions options_;
  absl::Mutex mutex_;
  std::shared_ptr<Connection> connection_ ABSL_GUARDED_BY(mutex_);
};

// A fresh request id: 32 random hexadecimal digits.
std::string NewRequestId();

}  // namespace diffmoe
