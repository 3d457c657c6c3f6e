#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "tests/unit/server/state/sampling_scene.h"

namespace diffmoe::server {
namespace {

// One sampler that is ready and says what its steps cost: nothing per call, `row_seconds` per row.
// Another one may start.
struct MeasuredScene : Scene {
  worker::v1::GroupId group;
  explicit MeasuredScene(double row_seconds, const StateOptions& options = {}) : Scene(2, options) {
    cluster.Sample(running.id);
    group = StartSampler().group();
    cluster.Load(group, 0, row_seconds, 100, 1);
    cluster.FinishSample(cluster.tasks(running.session).back());
    cluster.Load(group, 0, row_seconds, 0, 0);
    cluster.Clear();
  }
  // A request of 100 rows an image.
  uint64_t Submit(int count, int64_t deadline_in_ms = 0, const std::string& user = "") {
    SubmitSample event{0, running.id, {}, {}, deadline_in_ms};
    event.request.set_count(count);
    event.request.set_user(user);
    return cluster.Submit(event);
  }
  absl::Status End(uint64_t call) const {
    const auto end = cluster.sample_ends.find(call);
    return end == cluster.sample_ends.end() ? absl::OkStatus() : end->second;
  }
};

TEST(AdmissionTest, APastDeadlineIsSeen) {
  MeasuredScene scene(0.001);
  const absl::Status status = scene.End(scene.Submit(1, -1));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(scene.cluster.tasks(scene.running.session).empty());
  EXPECT_EQ(scene.cluster.all<SampleCounted>().at(0).outcome, SampleOutcome::kRefused);
}

TEST(AdmissionTest, RefusalsWriteNothingAndLeaveNothing) {
  StateOptions options;
  options.max_sample_requests = 0;
  options.max_sampler_requests = 0;
  Scene scene(1, options);
  const auto records = scene.cluster.records;
  for (int i = 0; i < 100; ++i) {
    SubmitSample event{0, scene.running.id, {}, {}, 0};
    event.request.set_request_id(absl::StrCat("r", i));
    EXPECT_EQ(scene.cluster.sample_ends.at(scene.cluster.Submit(event)).code(),
              absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(scene.cluster.records, records);
  EXPECT_TRUE(scene.cluster.state.samples.empty());
  EXPECT_TRUE(scene.cluster.state.known_samples.empty());
  EXPECT_EQ(scene.cluster.state.queued_rows, 0);
}

TEST(AdmissionTest, ADeadlineThatEvenAnIdleSamplerMisses) {
  MeasuredScene scene(0.01);  // 1 s an image
  const absl::Status status = scene.End(scene.Submit(10, 4000));
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(DetailsOf(status).reason(), v1::DEADLINE_TOO_SHORT);
  EXPECT_EQ(status.message(), "needs about 10 s on a sampler of its own, the deadline is in 4 s");
}

TEST(AdmissionTest, ADeadlineThatTheBacklogMisses) {
  MeasuredScene scene(0.01);
  EXPECT_TRUE(scene.End(scene.Submit(4)).ok());
  EXPECT_TRUE(scene.End(scene.Submit(1, 6000)).ok());
  const absl::Status status = scene.End(scene.Submit(1, 2500));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(DetailsOf(status).reason(), v1::DEADLINE_TOO_SHORT);
  EXPECT_EQ(DetailsOf(status).retry_delay_ms(), 500);
}

TEST(AdmissionTest, ASmallOneBesideALargeOneIsTaken) {
  MeasuredScene scene(0.01);
  EXPECT_TRUE(scene.End(scene.Submit(60)).ok());  // a minute
  scene.cluster.Load(scene.group, 0, 0.01, 6000, 1);
  // Shares of a step: 1 s of its own and 1 s for the other.
  EXPECT_TRUE(scene.End(scene.Submit(1, 2500)).ok());
}

TEST(AdmissionTest, WithoutAMeasurementADeadlineIsTaken) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Sample(scene.running.id, {}, 1000, 5);
  EXPECT_FALSE(scene.cluster.sample_ends.contains(call));
}

TEST(AdmissionTest, OneThatWaitedTooLongIsNotBegun) {
  MeasuredScene scene(0.01);
  scene.Submit(4);  // fills the sampler
  const uint64_t call = scene.Submit(3, 8000);
  ASSERT_TRUE(scene.End(call).ok());
  ASSERT_EQ(scene.cluster.tasks(scene.running.session).size(), 1u);
  scene.cluster.Post(WorkerHeartbeat{scene.running.session});
  scene.cluster.Advance(3000);
  scene.cluster.Post(WorkerHeartbeat{scene.running.session});
  scene.cluster.Advance(3000);  // 2 s are left, it needs 3
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[0]);
  EXPECT_EQ(scene.End(call).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(scene.cluster.tasks(scene.running.session).size(), 1u);
}

TEST(AdmissionTest, TheQueueIsBoundedByRowsToo) {
  StateOptions options;
  options.max_sample_rows = 1000;
  MeasuredScene scene(0.01, options);
  scene.Submit(3);  // on the sampler
  EXPECT_TRUE(scene.End(scene.Submit(50)).ok()) << "alone in the queue";
  const absl::Status status = scene.End(scene.Submit(1));
  EXPECT_EQ(DetailsOf(status).reason(), v1::QUEUE_FULL);
  // Half of the 53 s until all of it is done.
  EXPECT_EQ(DetailsOf(status).retry_delay_ms(), 26'500);
}

TEST(AdmissionTest, OneUserHoldsAPartOfTheQueueOnly) {
  StateOptions options;
  options.max_sample_requests = 4;
  options.max_sample_requests_per_user = 2;
  MeasuredScene scene(0.01, options);
  scene.Submit(3, 0, "a");  // on the sampler
  EXPECT_TRUE(scene.End(scene.Submit(1, 0, "a")).ok());
  EXPECT_TRUE(scene.End(scene.Submit(1, 0, "a")).ok());
  const absl::Status status = scene.End(scene.Submit(1, 0, "a"));
  EXPECT_EQ(DetailsOf(status).reason(), v1::QUEUE_FULL);
  EXPECT_EQ(status.message(), "2 requests of the same user wait already");
  EXPECT_TRUE(scene.End(scene.Submit(1, 0, "b")).ok());
  EXPECT_TRUE(scene.End(scene.Submit(1, 0, "b")).ok());
  EXPECT_EQ(DetailsOf(scene.End(scene.Submit(1, 0, "c"))).reason(), v1::QUEUE_FULL);
}

TEST(AdmissionTest, TheSameUserOnAnotherHostIsAnother) {
  StateOptions options;
  options.max_sample_requests_per_user = 1;
  MeasuredScene scene(0.01, options);
  scene.Submit(3);
  SubmitSample event{0, scene.running.id, {}, {}, 0, {"10.0.0.1", 0}};
  EXPECT_TRUE(scene.End(scene.cluster.Submit(event)).ok());
  EXPECT_FALSE(scene.End(scene.cluster.Submit(event)).ok());
  event.origin.host = "10.0.0.2";
  EXPECT_TRUE(scene.End(scene.cluster.Submit(event)).ok());
}

TEST(AdmissionTest, RefusedForTheBacklogAnotherSamplerStarts) {
  StateOptions options;
  options.sampler_backlog_ms = 60'000;
  Scene scene(2, options);
  scene.cluster.Sample(scene.running.id, {}, 10);
  const auto start = scene.StartSampler();
  scene.cluster.Load(start.group(), 0, 0.01, 1000, 1);
  ASSERT_EQ(scene.cluster.starts(scene.running.session).size(), 1u);
  const uint64_t call = scene.cluster.Sample(scene.running.id, {}, 1, 1500);
  EXPECT_EQ(DetailsOf(scene.cluster.sample_ends.at(call)).reason(), v1::DEADLINE_TOO_SHORT);
  EXPECT_EQ(scene.cluster.starts(scene.running.session).size(), 2u);
}

TEST(AdmissionTest, ACheckpointThatIsStillBeingWritten) {
  Scene scene(1);  // committed at 10, trains at 12
  uint64_t call = scene.cluster.Sample(scene.running.id, 12);
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(DetailsOf(scene.cluster.sample_ends.at(call)).reason(), v1::NO_CHECKPOINT_YET);
  call = scene.cluster.Sample(scene.running.id, 20);
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kNotFound);
}

SubmitSample WithId(const Scene& scene, const std::string& id, uint64_t seed, uint64_t hash = 1) {
  SubmitSample event{0, scene.running.id, {}, {}, 0, {"", hash}};
  event.request.set_request_id(id);
  event.request.set_seed(seed);
  return event;
}

TEST(RequestIdTest, TheSameBodyGetsTheSameCheckpointAndSeed) {
  Scene scene(1, StateOptions());
  scene.cluster.Submit(WithId(scene, "mine", 111));
  scene.StartSampler();
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session)[0]);
  ASSERT_TRUE(scene.cluster.CommitCheckpoint(scene.running.id, 1, 20).ok());
  const uint64_t call = scene.cluster.Submit(WithId(scene, "mine", 222));
  const auto task = scene.cluster.tasks(scene.running.session).back();
  EXPECT_EQ(task.step(), 10);
  EXPECT_EQ(task.request().seed(), 111u);
  scene.cluster.FinishSample(task);
  const v1::Receipt receipt = scene.cluster.responses(call).back().finished().receipt();
  EXPECT_EQ(receipt.request_id(), "mine");
  EXPECT_EQ(receipt.seed(), 111u);
  EXPECT_EQ(receipt.checkpoint(), "jobs/job-1/checkpoints/10");
}

TEST(RequestIdTest, WhileItRunsItRunsBesideItself) {
  Scene scene(1, StateOptions());
  const uint64_t first = scene.cluster.Submit(WithId(scene, "mine", 1));
  const uint64_t second = scene.cluster.Submit(WithId(scene, "mine", 1));
  scene.StartSampler();
  const auto tasks = scene.cluster.tasks(scene.running.session);
  ASSERT_EQ(tasks.size(), 2u);
  EXPECT_NE(tasks[0].request_id(), tasks[1].request_id());
  scene.cluster.FinishSample(tasks[1]);
  EXPECT_TRUE(scene.cluster.sample_ends.contains(second));
  EXPECT_FALSE(scene.cluster.sample_ends.contains(first));
}

TEST(RequestIdTest, AnotherBodyIsRefused) {
  Scene scene(1, StateOptions());
  scene.cluster.Submit(WithId(scene, "mine", 1, 1));
  const absl::Status status =
      scene.cluster.sample_ends.at(scene.cluster.Submit(WithId(scene, "mine", 1, 2)));
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(DetailsOf(status).reason(), v1::REQUEST_ID_REUSED);
}

TEST(RequestIdTest, OldOnesAreForgottenButNotThoseThatRun) {
  StateOptions options;
  options.max_known_samples = 3;
  Scene scene(1, options);
  scene.cluster.Submit(WithId(scene, "runs", 1));
  scene.StartSampler();
  for (const char* id : {"a", "b", "c", "d"}) {
    scene.cluster.Submit(WithId(scene, id, 1));
    scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session).back());
  }
  const auto& known = scene.cluster.state.known_samples;
  EXPECT_EQ(known.size(), 3u);
  EXPECT_TRUE(known.contains("runs"));
  EXPECT_TRUE(known.contains("d"));
  EXPECT_FALSE(known.contains("a"));
  EXPECT_EQ(scene.cluster.state.known_sample_order.size(), 3u);
}

TEST(RequestIdTest, CancelsByIt) {
  Scene scene(1, StateOptions());
  EXPECT_EQ(DetailsOf(scene.cluster.CancelById("mine")).reason(), v1::SAMPLE_NOT_FOUND);
  EXPECT_EQ(scene.cluster.last_status.code(), absl::StatusCode::kNotFound);
  const uint64_t running = scene.cluster.Submit(WithId(scene, "mine", 1));
  scene.StartSampler();
  EXPECT_TRUE(scene.cluster.CancelById("mine").ok());
  EXPECT_EQ(scene.cluster.sample_ends.at(running).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(scene.cluster.cancelled_tasks(scene.running.session), 1);
  EXPECT_TRUE(scene.cluster.CancelById("mine").ok()) << "twice";
  scene.cluster.Submit(WithId(scene, "other", 1));
  scene.cluster.FinishSample(scene.cluster.tasks(scene.running.session).back());
  EXPECT_TRUE(scene.cluster.CancelById("other").ok()) << "it has ended";
  EXPECT_EQ(scene.cluster.cancelled_tasks(scene.running.session), 1);
}

}  // namespace
}  // namespace diffmoe::server
