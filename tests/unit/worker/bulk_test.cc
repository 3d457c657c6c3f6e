// Checkpoints, rendezvous and samples on their way from a rank through its worker to the
// coordinator.
#include "tests/support/http.h"
#include "tests/unit/worker/worker_fixture.h"

namespace diffmoe::test {
namespace {

using worker::v1::RankExited;

TEST_F(WorkerTest, CheckpointGoesOutAndComesBack) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("checkpoint")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_DONE) << exited.DebugString();
  auto reply = HttpGet(Info()["metrics_address"], "/metrics");
  ASSERT_TRUE(reply.ok());
  for (const char* direction : {"sent", "received"}) {
    const std::string line =
        absl::StrCat("diffmoe_worker_bulk_bytes_total{direction=\"", direction, "\"} 8000078");
    EXPECT_NE(reply->body.find(line), std::string::npos) << line << "\n" << reply->body;
  }
}

TEST_F(WorkerTest, RefusedShardEndsWithTheCoordinatorsError) {
  StartBoth();
  coordinator_.FailNextShard(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "disk is full"));
  ASSERT_TRUE(coordinator_.Send(Start("shard")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_ERROR);
  EXPECT_EQ(exited.status_code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_NE(exited.message().find("disk is full"), std::string::npos) << exited.message();
  EXPECT_NE(exited.message().find("rank 0 at step 9"), std::string::npos) << exited.message();
}

TEST_F(WorkerTest, KeysTravelThroughTheWorker) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("keys")));
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_DONE) << exited.DebugString();
}

TEST_F(WorkerTest, BulkCallsAreUnavailableDuringAnOutageAndWorkAfterIt) {
  StartBoth();
  ASSERT_TRUE(coordinator_.Send(Start("outage")));
  ASSERT_TRUE(WaitForStep(1));
  const std::string address = coordinator_.address();
  coordinator_.Stop();
  // The rank says step 2 once it has seen UNAVAILABLE; its report waits in the worker.
  ASSERT_TRUE(worker_->WaitForText("no session with the coordinator", kLimit));
  auto seen = [this] {
    auto reply = HttpGet(Info()["metrics_address"], "/metrics");
    return reply.ok() &&
           reply->body.find("diffmoe_train_step{job_id=\"job-1\"} 2") != std::string::npos;
  };
  ASSERT_TRUE(WaitUntil(kLimit, seen)) << worker_->Err();
  coordinator_.Start(address);
  const RankExited exited = WaitForExit();
  EXPECT_EQ(exited.cause(), worker::v1::EXIT_CAUSE_DONE) << exited.DebugString();
}

class SampleTest : public WorkerTest {
 protected:
  void StartSampler() {
    StartBoth();
    worker::v1::CoordinatorMessage start = Start("", "s-1");
    start.mutable_start_rank()->set_role(worker::v1::ROLE_SAMPLE);
    start.mutable_start_rank()->clear_spec();
    ASSERT_TRUE(coordinator_.Send(start));
    ASSERT_TRUE(coordinator_.WaitForSampler(1)) << ReadFile(dir() + "/logs/s-1-3-0.log");
  }

  static worker::v1::SamplerCommand Task(const std::string& id, const std::string& name = "plain") {
    worker::v1::SamplerCommand command;
    worker::v1::SampleTask* task = command.mutable_sample_task();
    task->set_request_id(id);
    task->mutable_spec()->set_name(name);
    task->mutable_request()->set_steps(50);
    for (int label : {3, 1, 4}) task->mutable_request()->add_classes(label);
    return command;
  }

  std::vector<worker::v1::SampleUpdate> UpdatesOf(const std::string& id) const {
    std::vector<worker::v1::SampleUpdate> out = coordinator_.Samples();
    std::erase_if(out, [&id](const auto& update) { return update.request_id() != id; });
    return out;
  }

  bool WaitForEnd(const std::string& id) const {
    return WaitUntil(kLimit, [&] {
      const auto updates = UpdatesOf(id);
      return !updates.empty() &&
             (updates.back().has_error() || updates.back().response().has_finished());
    });
  }
};

TEST_F(SampleTest, ResultsArriveInOrder) {
  StartSampler();
  ASSERT_TRUE(coordinator_.Send(Task("r-1")));
  ASSERT_TRUE(WaitForEnd("r-1"));
  const auto updates = UpdatesOf("r-1");
  ASSERT_EQ(updates.size(), 6u);
  EXPECT_TRUE(updates[0].response().has_started());
  EXPECT_EQ(updates[1].response().progress().steps(), 50);
  const int labels[] = {3, 1, 4};
  for (int i = 0; i < 3; ++i) {
    const auto& image = updates[static_cast<size_t>(i) + 2].response().image();
    EXPECT_EQ(image.index(), i);
    EXPECT_EQ(image.label(), labels[i]);
    EXPECT_EQ(image.pixels().size(), 512u * 512 * 3);
  }
  EXPECT_EQ(updates[5].response().finished().receipt().capacity_size(), 2);
}

TEST_F(SampleTest, UpdatesOfAStepTravelTogether) {
  StartSampler();
  ASSERT_TRUE(coordinator_.Send(Task("r-1", "no-images")));
  ASSERT_TRUE(WaitForEnd("r-1"));
  EXPECT_EQ(UpdatesOf("r-1").size(), 3u);
  EXPECT_EQ(coordinator_.SampleMessages(), 1);
}

TEST_F(SampleTest, CancelReachesTheSampler) {
  StartSampler();
  ASSERT_TRUE(coordinator_.Send(Task("r-1", "cancel-me")));
  ASSERT_TRUE(WaitUntil(kLimit, [&] { return !UpdatesOf("r-1").empty(); }));
  worker::v1::SamplerCommand cancel;
  cancel.mutable_cancel_sample()->set_request_id("r-1");
  ASSERT_TRUE(coordinator_.Send(cancel));
  ASSERT_TRUE(coordinator_.Send(Task("r-2")));
  ASSERT_TRUE(WaitForEnd("r-2"));
  EXPECT_EQ(UpdatesOf("r-1").size(), 1u);
}

TEST_F(SampleTest, SamplerServesAfterTheCoordinatorCameBack) {
  StartSampler();
  ASSERT_TRUE(coordinator_.Send(Task("before", "cancel-me")));
  const pid_t pid = WaitForPid("s-1");
  const std::string address = coordinator_.address();
  coordinator_.Stop();
  coordinator_.Start(address);
  ASSERT_TRUE(coordinator_.WaitForSampler(2));
  ASSERT_TRUE(coordinator_.Send(Task("after")));
  ASSERT_TRUE(WaitForEnd("after")) << ReadFile(dir() + "/logs/s-1-3-0.log");
  EXPECT_TRUE(UpdatesOf("after").back().response().has_finished());
  EXPECT_FALSE(Dead(pid));
}

TEST_F(SampleTest, SamplerThatIsNotWantedEnds) {
  StartSampler();
  const pid_t pid = WaitForPid("s-1");
  coordinator_.EndSampler(grpc::Status(grpc::StatusCode::ABORTED, "not wanted"));
  ASSERT_TRUE(coordinator_.Send(Task("last", "no-images")));
  WaitForExit("s-1");
  EXPECT_TRUE(Dead(pid));
}

}  // namespace
}  // namespace diffmoe::test
