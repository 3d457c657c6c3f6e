// The life of a sample over real gRPC, with a sampler played by the test.
#include <grpcpp/generic/generic_stub.h>

#include <thread>

#include "tests/support/wait.h"
#include "tests/unit/server/api/coordinator_fixture.h"
#include "tests/unit/server/api/fake_sampler.h"
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
  // Plays the sampler that the worker is told to start.
  bool StartSampler() {
    const auto start = worker_->WaitForSampler();
    if (!start) return false;
    worker_->SendStarted(*start);
    sampler_ = std::make_unique<FakeSampler>(coordinator_->grpc_address(), start->group());
    return true;
  }
  std::optional<worker::v1::SampleTask> StartSamplerAndWaitForTask() {
    return StartSampler() ? sampler_->WaitForTask() : std::nullopt;
  }
  grpc::Status Cancel(const std::string& request_id) {
    grpc::ClientContext context;
    v1::CancelSampleRequest request;
    request.set_request_id(request_id);
    v1::CancelSampleResponse response;
    return sampling_->CancelSample(&context, request, &response);
  }
  grpc::Status GetCalibration(v1::Calibration* calibration) {
    grpc::ClientContext context;
    v1::GetCalibrationRequest request;
    request.set_checkpoint("jobs/" + job_);
    v1::Calibration ignored;
    return sampling_->GetCalibration(&context, request,
                                     calibration == nullptr ? &ignored : calibration);
  }
  // A request of bytes that protobuf wouldn't write.
  grpc::Status CallWithBytes(const std::string& method, const std::string& bytes) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    auto call = stub.PrepareCall(&context, "/diffmoe.v1.SamplingService/" + method, &queue);
    void* tag = nullptr;
    bool ok = false;
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    call->StartCall(nullptr);
    queue.Next(&tag, &ok);
    call->WriteLast(request, grpc::WriteOptions(), nullptr);
    queue.Next(&tag, &ok);
    grpc::Status status;
    call->Finish(&status, nullptr);
    queue.Next(&tag, &ok);
    return status;
  }

  std::unique_ptr<FakeWorker> worker_;
  std::unique_ptr<FakeSampler> sampler_;
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
  const auto task = StartSamplerAndWaitForTask();
  ASSERT_TRUE(task);
  EXPECT_EQ(task->step(), 20);
  v1::SampleResponse started, finished;
  started.mutable_started();
  finished.mutable_finished()->mutable_receipt()->add_capacity(0.9);
  sampler_->Push(*task, {started, ImageOf(0, 1000), ImageOf(1, 1000), finished});
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
  const auto task = StartSamplerAndWaitForTask();
  ASSERT_TRUE(task);
  context->TryCancel();
  const auto cancelled =
      sampler_->Wait([](const auto& command) { return command.has_cancel_sample(); });
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
  const auto task = StartSamplerAndWaitForTask();
  ASSERT_TRUE(task);
  std::vector<v1::SampleResponse> responses;
  for (int i = 0; i < 6; ++i) responses.push_back(ImageOf(i, 1 << 20));
  responses.emplace_back().mutable_finished();
  sampler_->Push(*task, responses);
  size_t bytes = 0;
  v1::SampleResponse response;
  while (reader->Read(&response)) bytes += response.image().pixels().size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, size_t{6} << 20);
}

TEST_F(SamplingApiTest, SlowReaderLosesPreviewsAndKeepsImages) {
  StartJob();
  grpc::ClientContext context;
  auto reader = sampling_->Sample(&context, Request(2));
  const auto task = StartSamplerAndWaitForTask();
  ASSERT_TRUE(task);
  constexpr int kPreviews = 300;
  std::vector<v1::SampleResponse> responses;
  for (int step = 1; step <= kPreviews; ++step) {
    for (int image = 0; image < 2; ++image) {
      v1::SampleResponse::Preview* preview = responses.emplace_back().mutable_preview();
      preview->set_step(step);
      preview->mutable_image()->set_index(image);
      preview->mutable_image()->set_pixels(std::string(200'000, 'v'));
    }
  }
  responses.push_back(ImageOf(0, 1000));
  responses.push_back(ImageOf(1, 1000));
  responses.emplace_back().mutable_finished();
  sampler_->Push(*task, responses);
  // Another request isn't held up by it: nobody has read a word of the first one yet.
  grpc::ClientContext other_context;
  auto other = sampling_->Sample(&other_context, Request(1));
  const auto other_task = sampler_->WaitForTask();
  ASSERT_TRUE(other_task);
  v1::SampleResponse finished, response;
  finished.mutable_finished();
  sampler_->Push(*other_task, {ImageOf(0, 10), finished});
  while (other->Read(&response)) {
  }
  EXPECT_TRUE(other->Finish().ok());
  int previews = 0, images = 0;
  std::vector<int> last_step(2);
  while (reader->Read(&response)) {
    images += response.has_image();
    if (!response.has_preview()) continue;
    ++previews;
    EXPECT_EQ(images, 0);
    int& last = last_step[static_cast<size_t>(response.preview().image().index())];
    EXPECT_LT(last, response.preview().step());
    last = response.preview().step();
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_LT(previews, 2 * kPreviews);
  EXPECT_EQ(last_step, (std::vector<int>{kPreviews, kPreviews}));
  EXPECT_EQ(images, 2);
}

TEST_F(SamplingApiTest, CancelledByItsId) {
  StartJob();
  v1::SampleRequest request = Request(1);
  request.set_request_id("mine");
  grpc::ClientContext context;
  auto reader = sampling_->Sample(&context, request);
  const auto task = StartSamplerAndWaitForTask();
  ASSERT_TRUE(task);
  EXPECT_EQ(Cancel("mine").error_code(), grpc::StatusCode::OK);
  v1::SampleResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(sampler_->Wait([](const auto& command) { return command.has_cancel_sample(); }));
  EXPECT_TRUE(Cancel("mine").ok()) << "it has ended";
  EXPECT_EQ(DetailsOf(Cancel("never seen")).reason(), v1::SAMPLE_NOT_FOUND);
  EXPECT_EQ(Cancel("a\nb").error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(SamplingApiTest, IdIsDrawnAndReturned) {
  StartJob();
  grpc::ClientContext context;
  auto reader = sampling_->Sample(&context, Request(1));
  const auto task = StartSamplerAndWaitForTask();
  ASSERT_TRUE(task);
  v1::SampleResponse finished, response;
  finished.mutable_finished();
  sampler_->Push(*task, {ImageOf(0, 10), finished});
  while (reader->Read(&response)) {
  }
  const v1::Receipt& receipt = response.finished().receipt();
  EXPECT_TRUE(receipt.request_id().starts_with("sample-")) << receipt.request_id();
  // The same id and body again: the same seed, though it was drawn.
  v1::SampleRequest again = Request(1);
  again.set_request_id(receipt.request_id());
  grpc::ClientContext again_context;
  auto second = sampling_->Sample(&again_context, again);
  const auto second_task = sampler_->WaitForTask();
  ASSERT_TRUE(second_task);
  EXPECT_EQ(second_task->request().seed(), receipt.seed());
  again.set_count(2);
  grpc::ClientContext other_context;
  const grpc::Status status = sampling_->Sample(&other_context, again)->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(DetailsOf(status).reason(), v1::REQUEST_ID_REUSED);
  again_context.TryCancel();
}

TEST_F(SamplingApiTest, CalibrationIsStreamedAndKept) {
  StartJob();
  v1::CalibrateCheckpointRequest request;
  request.set_checkpoint("jobs/" + job_);
  EXPECT_EQ(DetailsOf(GetCalibration(nullptr)).reason(), v1::NO_CALIBRATION);
  grpc::ClientContext context;
  auto reader = sampling_->CalibrateCheckpoint(&context, request);
  ASSERT_TRUE(StartSampler());
  const auto command =
      sampler_->Wait([](const auto& received) { return received.has_calibrate_task(); });
  ASSERT_TRUE(command);
  worker::v1::SampleUpdate progress, finished;
  for (auto* update : {&progress, &finished}) {
    update->set_request_id(command->calibrate_task().request_id());
  }
  progress.mutable_calibration()->mutable_progress()->set_done(0.5);
  finished.mutable_calibration()->mutable_finished()->set_images(256);
  sampler_->Push({progress, finished});
  v1::CalibrateCheckpointResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(response.finished().checkpoint(), "jobs/" + job_ + "/checkpoints/20");
  v1::Calibration kept;
  ASSERT_TRUE(GetCalibration(&kept).ok());
  EXPECT_EQ(kept.images(), 256);
  sampler_.reset();
  worker_.reset();
  Stop();
  Start();
  ASSERT_TRUE(GetCalibration(&kept).ok());
  EXPECT_EQ(kept.checkpoint(), "jobs/" + job_ + "/checkpoints/20");
}

TEST_F(SamplingApiTest, SamplerOfAnotherProtocolIsRefused) {
  StartJob();
  worker::v1::GroupId group;
  group.set_id("sampler-9");
  FakeSampler other(coordinator_->grpc_address(), group, 99);
  const grpc::Status status = other.WaitForEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(DetailsOf(status).reason(), v1::PROTOCOL_MISMATCH);
}

TEST_F(SamplingApiTest, SamplerThatIsNotWantedIsTold) {
  StartJob();
  worker::v1::GroupId group;
  group.set_id("sampler-9");
  group.set_epoch(9);
  FakeSampler other(coordinator_->grpc_address(), group);
  const grpc::Status status = other.WaitForEnd();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(status.error_message(), "epoch 9 of sampler-9 is not wanted");
}

TEST_F(SamplingApiTest, LostSessionIsMadeGoodByTheNext) {
  StartJob();
  grpc::ClientContext context;
  auto reader = sampling_->Sample(&context, Request(2));
  const auto start = worker_->WaitForSampler();
  ASSERT_TRUE(start);
  sampler_ = std::make_unique<FakeSampler>(coordinator_->grpc_address(), start->group());
  const auto first = sampler_->WaitForTask();
  ASSERT_TRUE(first);
  sampler_->Push(*first, {ImageOf(0, 1000)});
  v1::SampleResponse response, finished;
  while (reader->Read(&response) && !response.has_image()) {
  }
  ASSERT_TRUE(response.has_image());
  sampler_.reset();
  sampler_ = std::make_unique<FakeSampler>(coordinator_->grpc_address(), start->group());
  const auto second = sampler_->WaitForTask();
  ASSERT_TRUE(second);
  finished.mutable_finished();
  sampler_->Push(*second, {ImageOf(0, 1000), ImageOf(1, 1000), finished});
  std::vector<int> images;
  while (reader->Read(&response)) {
    if (response.has_image()) images.push_back(response.image().index());
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(images, std::vector<int>{1}) << "what the client has isn't sent again";
}

TEST_F(SamplingApiTest, StringsThatAreNoTextAreNamed) {
  StartJob();
  const auto fault = [&](const std::string& method, const std::string& bytes) {
    const v1::ErrorDetails details = DetailsOf(CallWithBytes(method, bytes));
    return details.violations().empty() ? v1::ErrorReason_Name(details.reason())
                                        : details.violations(0).field();
  };
  // Field 1, length 2; field 10, length 3; a length beyond the end.
  EXPECT_EQ(fault("Sample", std::string("\x0a\x02\xff\xfe", 4)), "checkpoint");
  EXPECT_EQ(fault("Sample", std::string("\x52\x03"
                                        "a\0b",
                                        5)),
            "request_id");
  EXPECT_EQ(fault("CalibrateCheckpoint", std::string("\x2a\x01\x80", 3)), "user");
  EXPECT_EQ(fault("Sample", std::string("\x0a\x50", 2)), "INVALID_REQUEST");
  EXPECT_EQ(fault("Sample", ""), "CHECKPOINT_NOT_FOUND");
}

}  // namespace
}  // namespace diffmoe::server
