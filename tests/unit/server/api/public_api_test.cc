// The public services over real gRPC.
#include <grpcpp/generic/generic_stub.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "diffmoe/v1/cluster.grpc.pb.h"
#include "tests/support/http.h"
#include "tests/support/wait.h"
#include "tests/unit/server/api/coordinator_fixture.h"
#include "tests/unit/server/api/fake_worker.h"
#include "tests/unit/server/checkpoints/shards.h"

namespace diffmoe::server {
namespace {

using PublicApiTest = CoordinatorFixture;

TEST_F(PublicApiTest, FiveFaultsAreFiveViolations) {
  Start();
  v1::TrainingSpec spec = GoodSpec(2);
  spec.set_name("Not A Name");
  spec.mutable_model()->set_heads(7);
  spec.mutable_model()->set_capacity(-1);
  spec.mutable_train()->set_steps(0);
  spec.mutable_optimizer()->set_learning_rate(std::numeric_limits<double>::quiet_NaN());
  v1::Job job;
  const grpc::Status status = Submit(spec, "", &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const v1::ErrorDetails details = DetailsOf(status);
  EXPECT_EQ(details.reason(), v1::INVALID_SPEC);
  EXPECT_EQ(details.violations_size(), 5) << details.DebugString();
  EXPECT_NE(status.error_message().find("(and 4 more)"), std::string::npos);
}

TEST_F(PublicApiTest, SubmitIsIdempotentByRequestId) {
  Start();
  v1::Job first, second, third;
  ASSERT_TRUE(Submit(GoodSpec(1), "req-1", &first).ok());
  ASSERT_TRUE(Submit(GoodSpec(1), "req-1", &second).ok());
  EXPECT_EQ(first.id(), second.id());
  const grpc::Status reused = Submit(GoodSpec(2), "req-1", &third);
  EXPECT_EQ(reused.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(DetailsOf(reused).reason(), v1::REQUEST_ID_REUSED);
  Stop();
  Start();
  ASSERT_TRUE(Submit(GoodSpec(1), "req-1", &third).ok());
  EXPECT_EQ(third.id(), first.id());
  const grpc::Status long_id = Submit(GoodSpec(1), std::string(65, 'x'), &third);
  EXPECT_EQ(DetailsOf(long_id).violations(0).field(), "request_id");
}

TEST_F(PublicApiTest, ValidateOnlyStoresNothing) {
  Start();
  grpc::ClientContext context;
  v1::SubmitJobRequest request;
  *request.mutable_spec() = GoodSpec(1);
  request.set_validate_only(true);
  v1::Job job;
  ASSERT_TRUE(jobs_->SubmitJob(&context, request, &job).ok());
  EXPECT_EQ(job.spec().checkpoint().every_steps(), 500) << "defaults are shown";
  grpc::ClientContext list_context;
  v1::ListJobsResponse response;
  ASSERT_TRUE(jobs_->ListJobs(&list_context, {}, &response).ok());
  EXPECT_EQ(response.jobs_size(), 0);
}

TEST_F(PublicApiTest, PagesCoverAllJobsNewestFirst) {
  Start();
  for (int i = 0; i < 7; ++i) {
    v1::Job job;
    ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  }
  std::vector<std::string> ids;
  v1::ListJobsRequest request;
  request.set_page_size(3);
  do {
    grpc::ClientContext context;
    v1::ListJobsResponse response;
    ASSERT_TRUE(jobs_->ListJobs(&context, request, &response).ok());
    EXPECT_LE(response.jobs_size(), 3);
    for (const v1::Job& job : response.jobs()) ids.push_back(job.id());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(ids, (std::vector<std::string>{"fashion-7", "fashion-6", "fashion-5", "fashion-4",
                                           "fashion-3", "fashion-2", "fashion-1"}));
  request.set_page_token("made up");
  grpc::ClientContext context;
  v1::ListJobsResponse response;
  EXPECT_EQ(jobs_->ListJobs(&context, request, &response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  grpc::ClientContext filtered_context;
  v1::ListJobsRequest filtered;
  filtered.add_states(v1::FAILED);
  ASSERT_TRUE(jobs_->ListJobs(&filtered_context, filtered, &response).ok());
  EXPECT_EQ(response.jobs_size(), 0);
}

TEST_F(PublicApiTest, UnknownJobsAndBadNames) {
  Start();
  v1::Job job;
  v1::GetJobRequest request;
  request.set_name("jobs/nobody-1");
  grpc::ClientContext c1;
  const grpc::Status unknown = jobs_->GetJob(&c1, request, &job);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(unknown).reason(), v1::JOB_NOT_FOUND);
  EXPECT_EQ(DetailsOf(unknown).resource(), "jobs/nobody-1");
  request.set_name("nobody-1");
  grpc::ClientContext c2;
  EXPECT_EQ(jobs_->GetJob(&c2, request, &job).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  v1::WatchJobRequest watch;
  watch.set_name("jobs/nobody-1");
  grpc::ClientContext c3;
  auto reader = jobs_->WatchJob(&c3, watch);
  v1::WatchJobResponse update;
  EXPECT_FALSE(reader->Read(&update));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::NOT_FOUND);
  v1::CancelJobRequest cancel;
  cancel.set_name("jobs/nobody-1");
  grpc::ClientContext c4;
  EXPECT_EQ(jobs_->CancelJob(&c4, cancel, &job).error_code(), grpc::StatusCode::NOT_FOUND);
  v1::GetCheckpointRequest get;
  get.set_name("jobs/nobody-1/checkpoints/5");
  v1::Checkpoint checkpoint;
  grpc::ClientContext c5;
  EXPECT_EQ(checkpoints_->GetCheckpoint(&c5, get, &checkpoint).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(PublicApiTest, CheckpointsShowTensorsAndThresholds) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(2), "", &job).ok());
  ASSERT_TRUE(worker.WaitForStart(1, 1));
  v1::GetCheckpointRequest get;
  get.set_name(job.name() + "/checkpoints/latest");
  v1::Checkpoint checkpoint;
  grpc::ClientContext c1;
  const grpc::Status none = checkpoints_->GetCheckpoint(&c1, get, &checkpoint);
  EXPECT_EQ(DetailsOf(none).reason(), v1::NO_CHECKPOINT_YET);
  ASSERT_TRUE(worker.PutCheckpoint(job.id(), 1, 20, 2).ok());
  grpc::ClientContext c2;
  ASSERT_TRUE(checkpoints_->GetCheckpoint(&c2, get, &checkpoint).ok());
  EXPECT_EQ(checkpoint.name(), job.name() + "/checkpoints/20");
  EXPECT_EQ(checkpoint.world_size(), 2);
  EXPECT_DOUBLE_EQ(checkpoint.loss(), 0.5);
  ASSERT_EQ(checkpoint.tensors_size(), 2);
  EXPECT_EQ(checkpoint.tensors(0).name(), "model/w");
  EXPECT_EQ(checkpoint.tensors(0).bytes(), 1'400'000);
  EXPECT_EQ(checkpoint.tensors(1).bytes(), 8);
  ASSERT_EQ(checkpoint.thresholds_size(), 1);
  EXPECT_FLOAT_EQ(checkpoint.thresholds(0).thresholds(1), 0.75f);
  grpc::ClientContext c3;
  v1::ListThresholdsRequest list;
  list.set_parent(job.name());
  v1::ListThresholdsResponse points;
  ASSERT_TRUE(checkpoints_->ListThresholds(&c3, list, &points).ok());
  ASSERT_EQ(points.points_size(), 1);
  EXPECT_EQ(points.points(0).step(), 20);
}

TEST_F(PublicApiTest, WeightsOfACheckpointComeWhole) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(2), "", &job).ok());
  ASSERT_TRUE(worker.WaitForStart(1, 1));
  ASSERT_TRUE(worker.PutCheckpoint(job.id(), 1, 20, 2).ok());
  const auto read = [&](const std::string& step, v1::WeightSet weights,
                        std::vector<v1::ReadCheckpointResponse>* messages) {
    v1::ReadCheckpointRequest request;
    request.set_name(absl::StrCat(job.name(), "/checkpoints/", step));
    request.set_weights(weights);
    grpc::ClientContext context;
    const auto stream = checkpoints_->ReadCheckpoint(&context, request);
    v1::ReadCheckpointResponse message;
    while (stream->Read(&message)) messages->push_back(message);
    return stream->Finish();
  };

  std::vector<v1::ReadCheckpointResponse> messages;
  ASSERT_TRUE(read("latest", v1::WEIGHT_SET_MODEL, &messages).ok());
  ASSERT_GE(messages.size(), 3u);
  EXPECT_EQ(messages[0].checkpoint().name(), job.name() + "/checkpoints/20");
  EXPECT_FLOAT_EQ(messages[0].checkpoint().thresholds(0).thresholds(1), 0.75f);
  EXPECT_EQ(messages[0].data(), "");
  EXPECT_EQ(messages[1].tensor().name(), "w");  // the only one under model/
  EXPECT_EQ(messages[1].tensor().bytes(), 1'400'000);
  std::string data;
  for (const v1::ReadCheckpointResponse& message : messages) {
    EXPECT_LE(message.data().size(), size_t{1} << 20);
    data += message.data();
  }
  // Rank 0's half lies behind its eight bytes of another tensor.
  EXPECT_TRUE(data == ShardBytes(MakeHeader(job.id(), 20, 1, 0, 2)).substr(8) +
                          ShardBytes(MakeHeader(job.id(), 20, 1, 1, 2)));

  messages.clear();
  const grpc::Status no_average = read("20", v1::WEIGHT_SET_UNSPECIFIED, &messages);
  EXPECT_EQ(no_average.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(no_average.error_message(), job.name() + "/checkpoints/20 holds no tensors under ema/");
  const grpc::Status unknown = read("21", v1::WEIGHT_SET_MODEL, &messages);
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailsOf(unknown).reason(), v1::CHECKPOINT_NOT_FOUND);
  EXPECT_EQ(read("x", v1::WEIGHT_SET_MODEL, &messages).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(messages.empty());
}

TEST_F(PublicApiTest, HistoryOfAJob) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  ASSERT_TRUE(worker.WaitForStart(1, 0));
  for (int64_t step = 1; step <= 5; ++step) worker.SendReport(job.id(), 1, step);
  WaitFor(job.id(), [](const v1::Job& j) { return j.progress().step() == 5; });
  v1::ListStepRecordsRequest steps;
  steps.set_name(job.name());
  v1::ListStepRecordsResponse records;
  grpc::ClientContext c1;
  ASSERT_TRUE(jobs_->ListStepRecords(&c1, steps, &records).ok());
  EXPECT_EQ(records.records_size(), 5);
  v1::ListJobEventsRequest request;
  request.set_name(job.name());
  v1::ListJobEventsResponse events;
  grpc::ClientContext c2;
  ASSERT_TRUE(jobs_->ListJobEvents(&c2, request, &events).ok());
  ASSERT_EQ(events.events_size(), 3);
  EXPECT_EQ(events.events(0).message(), "submitted");
  EXPECT_EQ(events.events(2).message(), "running at step 1");
}

TEST_F(PublicApiTest, ClusterShowsSlotsAndTheirUsers) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  ASSERT_TRUE(worker.WaitForWelcome());
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  ASSERT_TRUE(worker.WaitForStart(1, 0));
  grpc::ClientContext c1;
  v1::ListWorkersResponse workers;
  ASSERT_TRUE(cluster_->ListWorkers(&c1, {}, &workers).ok());
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).name(), "workers/w1");
  EXPECT_EQ(workers.workers(0).slots(0).used_by(), job.name() + " rank 0");
  EXPECT_EQ(workers.workers(0).slots(1).used_by(), "");
  grpc::ClientContext c2;
  v1::Cluster cluster;
  ASSERT_TRUE(cluster_->GetCluster(&c2, {}, &cluster).ok());
  EXPECT_EQ(cluster.slots_total(), 2);
  EXPECT_EQ(cluster.slots_free(), 1);
  EXPECT_EQ(cluster.jobs_by_state().at("STARTING"), 1);
  EXPECT_EQ(cluster.data_dir(), options_.data_dir);
}

TEST_F(PublicApiTest, MetricsCountRpcsAndJobs) {
  options_.metrics_listen = "127.0.0.1:0";
  Start();
  v1::Job job;
  ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
  std::string text;
  const auto shows = [&text](const char* line) { return text.find(line) != std::string::npos; };
  EXPECT_TRUE(test::WaitUntil(absl::Seconds(10), [&] {
    const auto got = test::HttpGet(coordinator_->metrics_address(), "/metrics");
    text = got.ok() ? got->body : "";
    return shows(
               "diffmoe_rpc_requests_total{code=\"ok\",method=\"TrainingJobService/SubmitJob\"} "
               "1") &&
           shows("diffmoe_jobs{state=\"queued\"} 1");
  })) << text;
}

// Calls a method by name with serialised bytes; the answer's bytes.
std::string RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                    const std::string& request) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  grpc::Slice slice(request);
  const grpc::ByteBuffer in(&slice, 1);
  grpc::ByteBuffer out;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(&context, method, {}, &in, &out, [&](grpc::Status result) {
    status = std::move(result);
    done.Notify();
  });
  done.WaitForNotification();
  EXPECT_TRUE(status.ok()) << status.error_message();
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!out.Dump(&slices).ok()) return "";
  for (const grpc::Slice& part : slices) bytes.append(part.begin(), part.end());
  return bytes;
}

TEST_F(PublicApiTest, HealthAndReflectionAnswer) {
  Start();
  // HealthCheckResponse{status: SERVING}.
  EXPECT_EQ(RawCall(channel_, "/grpc.health.v1.Health/Check", ""), "\x08\x01");
  // ServerReflectionRequest{list_services: "*"}.
  const std::string services = RawCall(
      channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "\x3a\x01*");
  EXPECT_NE(services.find("diffmoe.v1.TrainingJobService"), std::string::npos);
  EXPECT_NE(services.find("diffmoe.v1.SamplingService"), std::string::npos);
}

TEST_F(PublicApiTest, SecondCoordinatorOnTheSameDirectoryIsRefused) {
  Start();
  const auto second = Coordinator::Start(options_, [](const absl::Status&) {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition) << second.status();
  EXPECT_NE(second.status().message().find("held by pid"), std::string::npos);
}

TEST_F(PublicApiTest, PortInUseIsRefused) {
  options_.metrics_listen = "127.0.0.1:0";
  Start();
  CoordinatorOptions other = options_;
  other.data_dir = dir_.Sub("other");
  other.listen = coordinator_->grpc_address();
  EXPECT_EQ(Coordinator::Start(other, [](const absl::Status&) {}).status().code(),
            absl::StatusCode::kAlreadyExists);
  other.listen = "127.0.0.1:0";
  other.metrics_listen = coordinator_->metrics_address();
  EXPECT_EQ(Coordinator::Start(other, [](const absl::Status&) {}).status().code(),
            absl::StatusCode::kAlreadyExists);
  other.listen = "nonsense";
  EXPECT_EQ(Coordinator::Start(other, [](const absl::Status&) {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace diffmoe::server
