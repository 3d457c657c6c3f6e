// The life of a sample over real gRPC, with a sampler played by the test.
#include <thread>

#include "tests/support/wait.h"
#include "tests/unit/server/api/coordinator_fixture.h"
#include "tests/unit/server/api/fake_worker.h"

namespace diffmoe::server {
namespace {

class SamplingApiTest : public CoordinatorFixture {
 protected:
  // A running job with a checkpoint at step 20, and a free slot.
  void StartJob() {
    Start();
    worker_ = std::make_unique<FakeWorker>(coordinator_->grpc_address(), FakeWorker::Options{});
    v1::Job job;
    ASSERT_TRUE(Submit(GoodSpec(1), "", &job).ok());
    job_ = job.id();
    ASSERT_TRUE(worker_->WaitForStart(1, 0));
    worker_->SendReport(job_, 1, 20);
    ASSERT_TRUE(worker_->PutCheckpoint(job_, 1, 20, 1).ok());
  }
  v1::SampleRequest Request(int count) {
    v1::SampleRequest request;
    request.set_checkpoint("jobs/" + job_);
    request.add_classes(3);
    request.set_count(count);
    return request;
  }
  // The sampler pushes these responses for the task over the bulk plane.
  void Push(const worker::v1::SampleTask& task, const std::vector<v1::SampleResponse>& responses) {
    grpc::ClientContext context;
    worker::v1::PushSamplesResponse ack;
    auto writer = worker_->bulk()->PushSamples(&context, &ack);
    for (const v1::SampleResponse& response : responses) {
      worker::v1::SampleUpdate update;
      update.set_request_id(task.request_id());
      *update.mutable_group() = task.group();
      *update.mutable_response() = response;
      writer->Write(update);
    }
    writer->WritesDone();
    EXPECT_TRUE(writer->Finish().ok());
  }

  std::unique_ptr<FakeWorker> worker_;
  std::string job_;
};

v1::SampleResponse ImageOf(int index, size_t bytes) {
  v1::SampleResponse response;
  response.mutable_image()->set_index(index);
  response.mutable_image()->set_pixels(std::string(bytes, 'p'));
  return response;
}

TEST_F(SamplingApiTest, FromQueuedToFinished) {
  StartJob();
  grpc::ClientContext context;
  auto reader = sampling_->Sample(&context, Request(2));
  v1::SampleResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.queued().reason(), "starting a sampler on worker w1");
  const auto start = worker_->WaitForSampler();
  ASSERT_TRUE(start);
  worker_->SendStarted(*start);
  const auto task = worker_->WaitForTask();
  ASSERT_TRUE(task);
  EXPECT_EQ(task->step(), 20);
  v1::SampleResponse started, finished;
  started.mutable_started();
  finished.mutable_finished()->mutable_receipt()->add_capacity(0.9);
  Push(*task, {started, ImageOf(0, 1000), ImageOf(1, 1000), finished});
  std::vector<int> images;
  v1::Receipt receipt;
  while (reader->Read(&response)) {
    if (response.has_image()) images.push_back(response.image().index());
    if (response.has_finished()) receipt = response.finished().receipt();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(images, (std::vector<int>{0, 1}));
  EXPECT_EQ(receipt.checkpoint(), "jobs/" + job_ + "/checkpoints/20");
  EXPECT_EQ(receipt.seed(), task->request().seed()) << "drawn by the server";
  EXPECT_DOUBLE_EQ(receipt.capacity(0), 0.9);
}

TEST_F(SamplingApiTest, RefusedBeforeAnythingStarts) {
  StartJob();
  v1::SampleRequest request = Request(1);
  request.set_classes(0, 10);
  grpc::ClientContext c1;
  grpc::Status status = sampling_->Sample(&c1, request)->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailsOf(status).violations(0).description(), "expected a class from 0 to 9, got 10");
  request = Request(1);
  request.set_checkpoint("jobs/" + job_ + "/checkpoints/7");
  grpc::ClientContext c2;
  status = sampling_->Sample(&c2, request)->Finish();
  EXPECT_EQ(DetailsOf(status).reason(), v1::CHECKPOINT_NOT_FOUND);
  request.set_checkpoint("nonsense");
  grpc::ClientContext c3;
  status = sampling_->Sample(&c3, request)->Finish();
  EXPECT_EQ(DetailsOf(status).violations(0).field(), "checkpoint");
}

TEST_F(SamplingApiTest, ClientThatLeavesFreesTheSampler) {
  StartJob();
  auto context = std::make_unique<grpc::ClientContext>();
  auto reader = sampling_->Sample(context.get(), Request(1));
  const auto start = worker_->WaitForSampler();
  ASSERT_TRUE(start);
  worker_->SendStarted(*start);
  const auto task = worker_->WaitForTask();
  ASSERT_TRUE(task);
  context->TryCancel();
  const auto cancelled = worker_->Wait(
      [](const worker::v1::CoordinatorMessage& message) { return message.has_cancel_sample(); });
  ASSERT_TRUE(cancelled);
  EXPECT_EQ(cancelled->cancel_sample().request_id(), task->request_id());
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(SamplingApiTest, DeadlineEndsAWaitingRequest) {
  StartJob();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  auto reader = sampling_->Sample(&context, Request(1));
  v1::SampleResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(SamplingApiTest, ResultsLargerThanAMessageArriveWhole) {
  StartJob();
  grpc::ClientContext context;
  auto reader = sampling_->Sample(&context, Request(6));
  const auto start = worker_->WaitForSampler();
  ASSERT_TRUE(start);
  worker_->SendStarted(*start);
  const auto task = worker_->WaitForTask();
  ASSERT_TRUE(task);
  std::vector<v1::SampleResponse> responses;
  for (int i = 0; i < 6; ++i) responses.push_back(ImageOf(i, 1 << 20));
  responses.emplace_back().mutable_finished();
  Push(*task, responses);
  size_t bytes = 0;
  v1::SampleResponse response;
  while (reader->Read(&response)) bytes += response.image().pixels().size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, size_t{6} << 20);
}

}  // namespace
}  // namespace diffmoe::server
