// A coordinator for tests of the client: real gRPC on a free port of loopback, answers set by the
// test.
#pragma once

#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "client/command_line.h"
#include "core/base/clock.h"
#include "diffmoe/v1/checkpoint.grpc.pb.h"
#include "diffmoe/v1/cluster.grpc.pb.h"
#include "diffmoe/v1/error.pb.h"
#include "diffmoe/v1/sampling.grpc.pb.h"
#include "diffmoe/v1/training_job.grpc.pb.h"
#include "grpcpp/grpcpp.h"

namespace diffmoe {

// A gRPC error as the coordinator sends it.
inline grpc::Status ApiError(grpc::StatusCode code, const std::string& message,
                             const v1::ErrorDetails& details) {
  v1::StatusDetails all;
  all.set_code(code);
  all.set_message(message);
  all.add_details()->PackFrom(details);
  return grpc::Status(code, message, all.SerializeAsString());
}

inline v1::WatchJobResponse UpdateOf(const v1::Job& job) {
  v1::WatchJobResponse update;
  *update.mutable_job() = job;
  return update;
}

// Handlers may be replaced before the call that uses them; the defaults answer with `job` and empty
// lists.
struct FakeApi final : v1::TrainingJobService::Service,
                       v1::CheckpointService::Service,
                       v1::SamplingService::Service,
                       v1::ClusterService::Service {
  using Context = grpc::ServerContext;

  grpc::Status Change(const char* what, const std::string& name, v1::Job* reply) {
    changed = what;
    asked_name = name;
    *reply = job;
    return answer;
  }

  v1::Job job;
  v1::SubmitJobRequest submitted;
  v1::ListJobEventsResponse events;
  v1::ListStepRecordsResponse records;
  v1::ListWorkersResponse workers;
  v1::ListCheckpointsResponse checkpoints;
  v1::Checkpoint checkpoint;
  v1::ListThresholdsResponse thresholds;
  std::string asked_name;
  std::string resume_token;
  std::string changed;  // name of the last method that changes a job or a checkpoint
  v1::ForkJobRequest fork_request;
  v1::UpdateJobRequest update_request;
  v1::ListJobsRequest list_request;
  v1::UpdateCheckpointRequest pin_request;
  v1::VerifyCheckpointResponse verified;
  v1::SampleRequest sample_request;
  v1::ReadCheckpointRequest read_request;
  grpc::Status answer;  // of every call without a stream
  std::function<grpc::Status(Context*, grpc::ServerWriter<v1::WatchJobResponse>*)> watch;
  std::function<grpc::Status(Context*, grpc::ServerWriter<v1::SampleResponse>*)> sample;
  // Instead of `sample`, for calls that come in parallel.
  std::function<grpc::Status(Context*, const v1::SampleRequest&,
                             grpc::ServerWriter<v1::SampleResponse>*)>
      sample_many;
  v1::CalibrateCheckpointRequest calibrate_request;
  std::vector<v1::CalibrateCheckpointResponse> calibrate_events;
  v1::Calibration calibration;
  std::function<grpc::Status(Context*, grpc::ServerWriter<v1::ReadCheckpointResponse>*)> read;
  std::function<grpc::Status(Context*, const v1::ReadJobLogsRequest&,
                             grpc::ServerWriter<v1::ReadJobLogsResponse>*)>
      logs;

  grpc::Status SubmitJob(Context*, const v1::SubmitJobRequest* request, v1::Job* reply) override {
    submitted = *request;
    *reply = job;
    return answer;
  }
  grpc::Status GetJob(Context*, const v1::GetJobRequest* request, v1::Job* reply) override {
    asked_name = request->name();
    *reply = job;
    return answer;
  }
  grpc::Status ListJobs(Context*, const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* reply) override {
    list_request = *request;
    // Two pages of one job each.
    *reply->add_jobs() = job;
    if (request->page_token().empty()) reply->set_next_page_token("second");
    return answer;
  }
  grpc::Status WatchJob(Context* context, const v1::WatchJobRequest* request,
                        grpc::ServerWriter<v1::WatchJobResponse>* writer) override {
    asked_name = request->name();
    resume_token = request->resume_token();
    return watch(context, writer);
  }
  grpc::Status ReadJobLogs(Context* context, const v1::ReadJobLogsRequest* request,
                           grpc::ServerWriter<v1::ReadJobLogsResponse>* writer) override {
    return logs(context, *request, writer);
  }
  grpc::Status CancelJob(Context*, const v1::CancelJobRequest* request, v1::Job* reply) override {
    asked_name = request->name();
    *reply = job;
    return answer;
  }
  grpc::Status PauseJob(Context*, const v1::PauseJobRequest* request, v1::Job* reply) override {
    return Change("pause", request->name(), reply);
  }
  grpc::Status ResumeJob(Context*, const v1::ResumeJobRequest* request, v1::Job* reply) override {
    return Change("resume", request->name(), reply);
  }
  grpc::Status RetryJob(Context*, const v1::RetryJobRequest* request, v1::Job* reply) override {
    return Change("retry", request->name(), reply);
  }
  grpc::Status ForkJob(Context*, const v1::ForkJobRequest* request, v1::Job* reply) override {
    fork_request = *request;
    return Change("fork", request->checkpoint(), reply);
  }
  grpc::Status UpdateJob(Context*, const v1::UpdateJobRequest* request, v1::Job* reply) override {
    update_request = *request;
    return Change("set", request->name(), reply);
  }
  grpc::Status UpdateCheckpoint(Context*, const v1::UpdateCheckpointRequest* request,
                                v1::Checkpoint* reply) override {
    pin_request = *request;
    *reply = checkpoint;
    return answer;
  }
  grpc::Status DeleteCheckpoint(Context*, const v1::DeleteCheckpointRequest* request,
                                v1::DeleteCheckpointResponse*) override {
    asked_name = request->name();
    return answer;
  }
  grpc::Status VerifyCheckpoint(Context*, const v1::VerifyCheckpointRequest* request,
                                grpc::ServerWriter<v1::VerifyCheckpointResponse>* writer) override {
    asked_name = request->name();
    writer->Write(verified);
    return answer;
  }
  grpc::Status ListJobEvents(Context*, const v1::ListJobEventsRequest* request,
                             v1::ListJobEventsResponse* reply) override {
    if (request->after_sequence() == 0) *reply = events;
    return answer;
  }
  grpc::Status ListStepRecords(Context*, const v1::ListStepRecordsRequest*,
                               v1::ListStepRecordsResponse* reply) override {
    *reply = records;
    return answer;
  }
  grpc::Status ListCheckpoints(Context*, const v1::ListCheckpointsRequest*,
                               v1::ListCheckpointsResponse* reply) override {
    *reply = checkpoints;
    return answer;
  }
  grpc::Status GetCheckpoint(Context*, const v1::GetCheckpointRequest* request,
                             v1::Checkpoint* reply) override {
    asked_name = request->name();
    *reply = checkpoint;
    return answer;
  }
  grpc::Status ReadCheckpoint(Context* context, const v1::ReadCheckpointRequest* request,
                              grpc::ServerWriter<v1::ReadCheckpointResponse>* writer) override {
    read_request = *request;
    return read(context, writer);
  }
  grpc::Status ListThresholds(Context*, const v1::ListThresholdsRequest*,
                              v1::ListThresholdsResponse* reply) override {
    *reply = thresholds;
    return answer;
  }
  grpc::Status ListWorkers(Context*, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse* reply) override {
    *reply = workers;
    return answer;
  }
  grpc::Status GetCluster(Context*, const v1::GetClusterRequest*, v1::Cluster*) override {
    return grpc::Status::OK;
  }
  grpc::Status CalibrateCheckpoint(
      Context*, const v1::CalibrateCheckpointRequest* request,
      grpc::ServerWriter<v1::CalibrateCheckpointResponse>* writer) override {
    calibrate_request = *request;
    for (const v1::CalibrateCheckpointResponse& event : calibrate_events) writer->Write(event);
    return answer;
  }
  grpc::Status GetCalibration(Context*, const v1::GetCalibrationRequest* request,
                              v1::Calibration* reply) override {
    asked_name = request->checkpoint();
    *reply = calibration;
    return answer;
  }
  grpc::Status Sample(Context* context, const v1::SampleRequest* request,
                      grpc::ServerWriter<v1::SampleResponse>* writer) override {
    if (sample_many) return sample_many(context, *request, writer);
    sample_request = *request;
    return sample(context, writer);
  }
};

class FixedClock final : public Clock {
 public:
  int64_t UnixMs() const override { return 1'800'000'000'000; }
  int64_t MonotonicMs() const override { return 1'000; }
};

struct CliResult {
  int exit_code = 0;
  std::string out;
  std::string err;
};

class FakeServer {
 public:
  FakeServer() {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(static_cast<v1::TrainingJobService::Service*>(&api));
    builder.RegisterService(static_cast<v1::CheckpointService::Service*>(&api));
    builder.RegisterService(static_cast<v1::SamplingService::Service*>(&api));
    builder.RegisterService(static_cast<v1::ClusterService::Service*>(&api));
    server_ = builder.BuildAndStart();
    address = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeServer() { server_->Shutdown(std::chrono::system_clock::now()); }

  // Runs `diffmoe --server ADDRESS ARGUMENT...` in this process.
  CliResult Cli(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--server", address});
    return RunCli(std::move(arguments));
  }

  static CliResult RunCli(std::vector<std::string> arguments) {
    std::ostringstream out, err;
    FixedClock clock;
    Context context{.out = out,
                    .err = err,
                    .clock = clock,
                    .progress = {},
                    .executable = "/nowhere/diffmoe",
                    .endpoint = {},
                    .format = OutputFormat::kTable,
                    .action = {}};
    CliResult result;
    result.exit_code = RunCommandLine(arguments, &context);
    result.out = out.str();
    result.err = err.str();
    return result;
  }

  FakeApi api;
  std::string address;

 private:
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace diffmoe
