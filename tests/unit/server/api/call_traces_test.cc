// Trace contexts from a client's call to the worker, and the spans in the coordinator's file.
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/base/trace.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"
#include "tests/unit/server/api/coordinator_fixture.h"
#include "tests/unit/server/api/fake_sampler.h"
#include "tests/unit/server/api/fake_worker.h"

namespace diffmoe::server {
namespace {

const std::string kTrace = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kClientSpan = "00f067aa0ba902b7";
const std::string kHeader = "00-" + kTrace + "-" + kClientSpan + "-01";

class CallTracesTest : public CoordinatorFixture {
 protected:
  grpc::Status SubmitTraced(const std::string& header, v1::Job* job) {
    grpc::ClientContext context;
    if (!header.empty()) context.AddMetadata("traceparent", header);
    v1::SubmitJobRequest request;
    *request.mutable_spec() = GoodSpec(1);
    return jobs_->SubmitJob(&context, request, job);
  }

  // Spans of the coordinator's file by name.
  std::map<std::string, nlohmann::json> Spans() {
    std::map<std::string, nlohmann::json> spans;
    for (absl::string_view line :
         absl::StrSplit(test::ReadFile(options_.trace_file), '\n', absl::SkipEmpty())) {
      const auto request = nlohmann::json::parse(std::string(line));
      const auto& span = request["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
      spans[span["name"]] = span;
    }
    return spans;
  }
  bool WaitForSpan(const std::string& name) {
    return test::WaitUntil(absl::Seconds(10), [&] { return Spans().contains(name); });
  }

  // Runs a job of one rank to its checkpoint and end.
  void Finish(FakeWorker& worker, const worker::v1::StartRank& start) {
    worker.SendStarted(start);
    worker.SendReport(start.group().id(), 1, 60);
    ASSERT_TRUE(worker.PutCheckpoint(start.group().id(), 1, 100, 1).ok());
    worker.SendExited(start.group(), 0, worker::v1::EXIT_CAUSE_DONE, 100);
    WaitForState(start.group().id(), v1::SUCCEEDED);
  }
};

TEST_F(CallTracesTest, AJobAndItsAttemptBelongToTheTraceOfTheCall) {
  options_.trace_file = dir_.Sub("trace.jsonl");
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(SubmitTraced(kHeader, &job).ok());
  const auto start = worker.WaitForStart(1, 0);
  ASSERT_TRUE(start);
  ASSERT_NO_FATAL_FAILURE(Finish(worker, *start));
  ASSERT_TRUE(WaitForSpan("attempt"));
  const auto spans = Spans();
  const nlohmann::json submit = spans.at("TrainingJobService/SubmitJob");
  EXPECT_EQ(submit["traceId"], kTrace);
  EXPECT_EQ(submit["parentSpanId"], kClientSpan);
  EXPECT_EQ(submit["kind"], 2);
  const nlohmann::json attempt = spans.at("attempt");
  EXPECT_EQ(attempt["traceId"], kTrace);
  EXPECT_EQ(attempt["parentSpanId"], submit["spanId"]);
  EXPECT_EQ(attempt["status"], nlohmann::json::object());
  EXPECT_LE(attempt["startTimeUnixNano"].get<std::string>(),
            attempt["endTimeUnixNano"].get<std::string>());
  const auto of_rank = ParseTraceparent(start->traceparent());
  ASSERT_TRUE(of_rank.has_value());
  EXPECT_EQ(of_rank->trace_id, kTrace);
  EXPECT_EQ(of_rank->span_id, attempt["spanId"]);
}

TEST_F(CallTracesTest, WithoutAFileTheContextGoesOnAsItCame) {
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(SubmitTraced(kHeader, &job).ok());
  const auto start = worker.WaitForStart(1, 0);
  ASSERT_TRUE(start);
  EXPECT_EQ(start->traceparent(), kHeader);
}

TEST_F(CallTracesTest, ABadHeaderIsIgnored) {
  options_.trace_file = dir_.Sub("trace.jsonl");
  Start();
  v1::Job job;
  ASSERT_TRUE(SubmitTraced("00-nonsense", &job).ok());
  ASSERT_TRUE(WaitForSpan("TrainingJobService/SubmitJob"));
  // It is the root of a trace of its own.
  const nlohmann::json submit = Spans().at("TrainingJobService/SubmitJob");
  EXPECT_FALSE(submit.contains("parentSpanId"));
  EXPECT_NE(submit["traceId"], kTrace);
}

TEST_F(CallTracesTest, ACallThatFailsSaysSo) {
  options_.trace_file = dir_.Sub("trace.jsonl");
  Start();
  grpc::ClientContext context;
  context.AddMetadata("traceparent", kHeader);
  v1::RetryJobRequest request;
  request.set_name("jobs/none");
  v1::Job job;
  EXPECT_FALSE(jobs_->RetryJob(&context, request, &job).ok());
  ASSERT_TRUE(WaitForSpan("TrainingJobService/RetryJob"));
  EXPECT_EQ(Spans().at("TrainingJobService/RetryJob")["status"]["code"], 2);
}

TEST_F(CallTracesTest, ImagesHaveTheTimeInTheQueueAndAtTheSampler) {
  options_.trace_file = dir_.Sub("trace.jsonl");
  Start();
  FakeWorker worker(coordinator_->grpc_address(), {});
  v1::Job job;
  ASSERT_TRUE(SubmitTraced("", &job).ok());
  const auto start = worker.WaitForStart(1, 0);
  ASSERT_TRUE(start);
  ASSERT_NO_FATAL_FAILURE(Finish(worker, *start));

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
  context.AddMetadata("traceparent", kHeader);
  v1::SampleRequest request;
  request.set_checkpoint("jobs/" + job.id());
  request.add_classes(1);
  request.set_count(1);
  request.set_request_id("mine");
  const auto stream = sampling_->Sample(&context, request);
  const auto group = worker.WaitForSampler();
  ASSERT_TRUE(group);
  worker.SendStarted(*group);
  FakeSampler sampler(coordinator_->grpc_address(), group->group());
  const auto task = sampler.WaitForTask();
  ASSERT_TRUE(task);
  v1::SampleResponse begun, image, finished;
  begun.mutable_started();
  image.mutable_image()->set_pixels("p");
  finished.mutable_finished()->mutable_receipt()->add_capacity(1);
  sampler.Push(*task, {begun, image, finished});
  v1::SampleResponse response;
  while (stream->Read(&response)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  ASSERT_TRUE(WaitForSpan("SamplingService/Sample"));
  const auto spans = Spans();
  const nlohmann::json call = spans.at("SamplingService/Sample");
  EXPECT_EQ(call["traceId"], kTrace);
  EXPECT_EQ(call["parentSpanId"], kClientSpan);
  for (const char* name : {"queue", "run"}) {
    ASSERT_TRUE(spans.contains(name)) << name;
    EXPECT_EQ(spans.at(name)["parentSpanId"], call["spanId"]);
    EXPECT_EQ(spans.at(name)["traceId"], kTrace);
  }
  EXPECT_EQ(task->traceparent(),
            absl::StrCat("00-", kTrace, "-", spans.at("run")["spanId"].get<std::string>(), "-01"));
}

}  // namespace
}  // namespace diffmoe::server
