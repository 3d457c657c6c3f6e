#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "tests/unit/server/state/sampling_scene.h"

namespace diffmoe::server {
namespace {

TEST(SampleTest, StartsASamplerOnAFreeSlotAndRelays) {
  Scene scene(1);
  ClusterHarness& cluster = scene.cluster;
  const uint64_t call = cluster.Sample(scene.running.id, {}, 2);
  auto responses = cluster.responses(call);
  ASSERT_EQ(responses.size(), 1u);
  EXPECT_EQ(responses[0].queued().position(), 0);
  EXPECT_EQ(responses[0].queued().reason(), "starting a sampler on worker w1");
  const worker::v1::StartRank start = scene.StartSampler();
  EXPECT_EQ(start.role(), worker::v1::ROLE_SAMPLE);
  EXPECT_EQ(start.slot(), 1);
  const auto tasks = cluster.tasks(scene.running.session);
  ASSERT_EQ(tasks.size(), 1u);
  EXPECT_EQ(tasks[0].job_id(), scene.running.id);
  EXPECT_EQ(tasks[0].step(), 10);
  EXPECT_EQ(tasks[0].checkpoint_epoch(), 1);
  EXPECT_EQ(tasks[0].request().steps(), 50);
  EXPECT_EQ(tasks[0].request().sampler(), "euler");
  EXPECT_DOUBLE_EQ(tasks[0].request().guidance(), 2);
  EXPECT_EQ(tasks[0].request().classes_size(), 2);
  cluster.Update(tasks[0], Started());
  cluster.Update(tasks[0], Image(0));
  cluster.Update(tasks[0], Image(1));
  cluster.Update(tasks[0], Finished());
  responses = cluster.responses(call);
  ASSERT_EQ(responses.size(), 5u);
  EXPECT_EQ(responses[1].started().checkpoint(), "jobs/job-1/checkpoints/10");
  const v1::Receipt& receipt = responses[4].finished().receipt();
  EXPECT_EQ(receipt.checkpoint(), "jobs/job-1/checkpoints/10");
  EXPECT_EQ(receipt.seed(), 7u);
  EXPECT_EQ(receipt.steps(), 50);
  EXPECT_DOUBLE_EQ(receipt.seconds(), 1.5);
  EXPECT_TRUE(cluster.sample_ends.at(call).ok());
  EXPECT_TRUE(cluster.state.samples.empty());
}

TEST(SampleTest, BadRequestsListEveryFault) {
  Scene scene(1);
  SubmitSample event{900, scene.running.id, {}, {}, 0};
  event.request.add_classes(10);
  event.request.set_count(0);
  event.request.set_steps(1001);
  event.request.set_guidance(std::numeric_limits<double>::quiet_NaN());
  scene.cluster.Post(event);
  const absl::Status status = scene.cluster.sample_ends.at(900);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(DetailsOf(status).reason(), v1::INVALID_REQUEST);
  EXPECT_EQ(DetailsOf(status).violations_size(), 4) << DetailsOf(status).DebugString();
}

// The faults of a request for the job of `scene`, as "field: description".
std::vector<std::string> Faults(Scene& scene, const std::function<void(v1::SampleRequest*)>& fill) {
  static uint64_t call = 1000;
  SubmitSample event{++call, scene.running.id, {}, {}, 0};
  event.request.add_classes(3);
  event.request.set_count(1);
  fill(&event.request);
  scene.cluster.Post(event);
  std::vector<std::string> faults;
  const auto end = scene.cluster.sample_ends.find(call);
  if (end == scene.cluster.sample_ends.end()) return faults;  // it was taken
  const v1::ErrorDetails details = DetailsOf(end->second);
  for (const v1::FieldViolation& violation : details.violations()) {
    faults.push_back(absl::StrCat(violation.field(), ": ", violation.description()));
  }
  return faults;
}

TEST(SampleTest, SamplersAreChecked) {
  using Texts = std::vector<std::string>;
  Scene scene(1);
  EXPECT_EQ(Faults(scene, [](auto* request) { request->set_sampler("heum"); }),
            Texts{"sampler: expected one of euler, heun, dopri5, euler_maruyama, ancestral, ddim, "
                  "dpmpp_2m, got \"heum\"; did you mean \"heun\"?"});
  EXPECT_EQ(Faults(scene, [](auto* request) { request->set_sampler("ddim"); }),
            Texts{"sampler: expected one of euler, heun, dopri5, euler_maruyama for a model "
                  "trained with rectified_flow, got ddim"});
  EXPECT_EQ(Faults(scene,
                   [](auto* request) {
                     request->set_sampler("dopri5");
                     request->set_steps(20);
                   }),
            Texts{"steps: expected none for dopri5, which chooses its own, got 20"});
  EXPECT_EQ(Faults(scene, [](auto* request) { request->set_eta(0.5); }),
            Texts{"eta: expected 0 for euler, only ddim has it; got 0.5"});
  EXPECT_EQ(Faults(scene,
                   [](auto* request) {
                     request->mutable_guidance_interval()->set_begin(0.6);
                     request->mutable_guidance_interval()->set_end(0.4);
                   }),
            Texts{"guidance_interval: expected 0 <= begin <= end <= 1, got 0.6 to 0.4"});
}

TEST(SampleTest, TheSamplerIsCompletedAndComesBackInTheReceipt) {
  Scene scene(1);
  ClusterHarness& cluster = scene.cluster;
  SubmitSample event{900, scene.running.id, {}, {}, 0};
  event.request.add_classes(3);
  event.request.set_count(1);
  event.request.set_sampler("dopri5");
  event.request.mutable_guidance_interval()->set_begin(0.1);
  event.request.mutable_guidance_interval()->set_end(0.9);
  cluster.Post(event);
  scene.StartSampler();
  const auto tasks = cluster.tasks(scene.running.session);
  ASSERT_EQ(tasks.size(), 1u);
  EXPECT_EQ(tasks[0].request().sampler(), "dopri5");
  EXPECT_FALSE(tasks[0].request().has_steps());
  cluster.FinishSample(tasks[0]);
  const v1::Receipt receipt = cluster.responses(900).back().finished().receipt();
  EXPECT_EQ(receipt.sampler(), "dopri5");
  EXPECT_EQ(receipt.steps(), 0);
  EXPECT_EQ(receipt.guidance_interval().end(), 0.9);
  EXPECT_FALSE(receipt.has_eta());
}

TEST(SampleTest, UnknownThings) {
  ClusterHarness cluster;
  uint64_t call = cluster.Sample("nobody-1");
  EXPECT_EQ(cluster.sample_ends.at(call).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(DetailsOf(cluster.sample_ends.at(call)).reason(), v1::JOB_NOT_FOUND);
  const std::string id = cluster.Submit(TestSpec("a", 1));
  call = cluster.Sample(id);
  EXPECT_EQ(cluster.sample_ends.at(call).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(DetailsOf(cluster.sample_ends.at(call)).reason(), v1::NO_CHECKPOINT_YET);
  call = cluster.Sample(id, 77);
  EXPECT_EQ(cluster.sample_ends.at(call).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(DetailsOf(cluster.sample_ends.at(call)).reason(), v1::CHECKPOINT_NOT_FOUND);
}

TEST(SampleTest, WaitsForASlotAndSaysSo) {
  Scene scene(0);
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  const auto responses = scene.cluster.responses(call);
  ASSERT_EQ(responses.size(), 1u);
  EXPECT_EQ(responses[0].queued().reason(), "no slot is free for a sampler: all 1 are in use");
  scene.cluster.Connect("w2", 1);
  EXPECT_EQ(scene.cluster.responses(call).back().queued().reason(),
            "starting a sampler on worker w2");
}

TEST(SampleTest, DeadlinePassesInTheQueue) {
  Scene scene(0);
  const uint64_t call = scene.cluster.Sample(scene.running.id, {}, 1, 3000);
  scene.cluster.Advance(2999);
  EXPECT_FALSE(scene.cluster.sample_ends.contains(call));
  scene.cluster.Advance(1);
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(DetailsOf(scene.cluster.sample_ends.at(call)).reason(), v1::NO_FREE_SLOT);
}

TEST(SampleTest, DeadlinePassesInWork) {
  Scene scene(1);
  const uint64_t call = scene.cluster.Sample(scene.running.id, {}, 1, 3000);
  scene.StartSampler();
  scene.cluster.Advance(3000);
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(scene.cluster.cancelled_tasks(scene.running.session), 1);
}

TEST(SampleTest, QueueIsBounded) {
  StateOptions options;
  options.max_sample_requests = 2;
  options.max_sample_requests_per_user = 2;
  Scene scene(0, options);
  scene.cluster.Sample(scene.running.id);
  scene.cluster.Sample(scene.running.id);
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(DetailsOf(scene.cluster.sample_ends.at(call)).retry_delay_ms(), 0);
}

TEST(SampleTest, CancelFreesTheSamplerForTheNext) {
  Scene scene(1);
  const uint64_t first = scene.cluster.Sample(scene.running.id);
  const uint64_t second = scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  EXPECT_EQ(scene.cluster.responses(second).back().queued().position(), 0);
  scene.cluster.Post(CancelSample{first});
  EXPECT_EQ(scene.cluster.cancelled_tasks(scene.running.session), 1);
  const auto tasks = scene.cluster.tasks(scene.running.session);
  ASSERT_EQ(tasks.size(), 2u);
  scene.cluster.Update(tasks[0], Image(0));
  EXPECT_TRUE(scene.cluster.responses(second).back().has_queued()) << "late words of the first";
  scene.cluster.Post(CancelSample{first});
  scene.cluster.FinishSample(tasks[1]);
  EXPECT_TRUE(scene.cluster.sample_ends.at(second).ok());
}

TEST(SampleTest, LostSamplerMeansOnceMoreWithoutRepeatedImages) {
  Scene scene(1);
  const uint64_t call = scene.cluster.Sample(scene.running.id, {}, 3);
  worker::v1::StartRank start = scene.StartSampler();
  const auto task = scene.cluster.tasks(scene.running.session).back();
  scene.cluster.Update(task, Image(0));
  scene.cluster.Clear();
  scene.KillSampler(start);
  start = scene.StartSampler();
  const auto again = scene.cluster.tasks(scene.running.session);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].request().seed(), 7u);
  scene.cluster.Update(again[0], Image(0));
  scene.cluster.Update(again[0], Image(1));
  int images = 0;
  for (const auto& response : scene.cluster.responses(call)) images += response.has_image();
  EXPECT_EQ(images, 1);
}

TEST(SampleTest, GivesUpAfterThreeLostSamplers) {
  Scene scene(1);
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  for (int i = 0; i < 3; ++i) {
    ASSERT_FALSE(scene.cluster.sample_ends.contains(call));
    scene.KillSampler(scene.StartSampler());
  }
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(DetailsOf(scene.cluster.sample_ends.at(call)).reason(), v1::SAMPLER_LOST);
  EXPECT_TRUE(scene.cluster.state.samplers.empty());
}

TEST(SampleTest, SamplersThatDieBeforeTheyStartAreCountedToo) {
  Scene scene(1);
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  for (int i = 0; i < 3; ++i) scene.KillSampler(scene.cluster.starts(scene.running.session).back());
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kUnavailable);
}

TEST(SampleTest, SamplerThatIsNotConnectedYetIsAskedAgain) {
  Scene scene(1);
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  scene.cluster.SampleFailed(scene.cluster.tasks(scene.running.session)[0],
                             absl::StatusCode::kUnavailable);
  EXPECT_FALSE(scene.cluster.sample_ends.contains(call));
  scene.cluster.Advance(250);
  ASSERT_EQ(scene.cluster.tasks(scene.running.session).size(), 2u);
  EXPECT_EQ(scene.cluster.state.samplers.size(), 1u) << "no second one was started for it";
}

TEST(SampleTest, DamagedCheckpointIsReportedAndRemembered) {
  Scene scene(1);
  const uint64_t call = scene.cluster.Sample(scene.running.id);
  scene.StartSampler();
  scene.cluster.SampleFailed(scene.cluster.tasks(scene.running.session)[0],
                             absl::StatusCode::kDataLoss);
  EXPECT_EQ(DetailsOf(scene.cluster.sample_ends.at(call)).reason(), v1::CORRUPT_CHECKPOINT);
  EXPECT_EQ(scene.cluster.job(scene.running.id).latest_checkpoint_step(), -1);
}

}  // namespace
}  // namespace diffmoe::server
