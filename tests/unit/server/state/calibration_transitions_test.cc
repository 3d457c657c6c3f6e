#include <gtest/gtest.h>

#include "server/errors.h"
#include "server/state/records.h"
#include "tests/unit/server/state/sampling_scene.h"

namespace diffmoe::server {
namespace {

v1::Calibration Result() {
  v1::Calibration calibration;
  calibration.set_images(256);
  for (const double capacity : {0.5, 1.0, 2.0}) {
    v1::CalibratedTarget* target = calibration.add_targets();
    target->set_rule(v1::CALIBRATED);
    target->set_capacity(capacity);
    v1::CalibratedLayer* layer = target->add_layers();
    layer->set_block(1);
    layer->add_thresholds(static_cast<float>(0.5 / capacity));
  }
  return calibration;
}

std::vector<worker::v1::CalibrateTask> Tasks(const Scene& scene) {
  return scene.cluster.calibrate_tasks();
}

void Say(ClusterHarness& cluster, const worker::v1::CalibrateTask& task,
         const v1::CalibrateCheckpointResponse& response) {
  worker::v1::SampleUpdate update;
  update.set_request_id(task.request_id());
  *update.mutable_calibration() = response;
  cluster.Say(std::move(update));
}

void FinishCalibration(ClusterHarness& cluster, const worker::v1::CalibrateTask& task) {
  v1::CalibrateCheckpointResponse response;
  *response.mutable_finished() = Result();
  Say(cluster, task, response);
}

// A calibrated checkpoint at step 10.
struct CalibratedScene : Scene {
  CalibratedScene() : Scene(1, StateOptions()) {
    cluster.Calibrate({0, running.id, {}, {}, 0});
    StartSampler();
    FinishCalibration(cluster, Tasks(*this).back());
  }
  std::string Key(int64_t step) const { return CalibrationKey(running.id, step); }
};

TEST(CalibrationTest, RunsOnASamplerAndIsStoredBeforeTheAnswer) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Calibrate({0, scene.running.id, {}, {}, 0});
  scene.StartSampler();
  const auto tasks = Tasks(scene);
  ASSERT_EQ(tasks.size(), 1u);
  EXPECT_EQ(tasks[0].step(), 10);
  EXPECT_EQ(tasks[0].request().images(), 256);
  EXPECT_EQ(tasks[0].request().capacities_size(), 7);
  EXPECT_EQ(tasks[0].spec().model().classes(), 10);
  v1::CalibrateCheckpointResponse progress;
  progress.mutable_progress()->set_done(0.5);
  Say(scene.cluster, tasks[0], progress);
  const std::string key = CalibrationKey(scene.running.id, 10);
  EXPECT_FALSE(scene.cluster.records.contains(key));
  FinishCalibration(scene.cluster, tasks[0]);
  ASSERT_TRUE(scene.cluster.records.contains(key));
  EXPECT_EQ(key, "calibrations/job-1/00000000000000000010");
  const auto said = scene.cluster.all<CalibrationEvent>();
  ASSERT_GE(said.size(), 3u);
  EXPECT_TRUE(said.front().response.has_queued());
  EXPECT_EQ(said.back().call, call);
  EXPECT_EQ(said.back().response.finished().checkpoint(), "jobs/job-1/checkpoints/10");
  EXPECT_TRUE(scene.cluster.sample_ends.at(call).ok());
  EXPECT_TRUE(scene.cluster.state.samples.empty());
}

TEST(CalibrationTest, SurvivesARestart) {
  CalibratedScene scene;
  scene.cluster.Restart();
  const auto found = FindCalibration(scene.cluster.state, scene.running.id, {});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ((*found)->targets_size(), 3);
  EXPECT_EQ((*found)->checkpoint(), "jobs/job-1/checkpoints/10");
}

TEST(CalibrationTest, GoesWithItsCheckpoint) {
  CalibratedScene scene;
  ASSERT_TRUE(scene.cluster.records.contains(scene.Key(10)));
  for (const int64_t step : {20, 30}) {
    ASSERT_TRUE(scene.cluster.CommitCheckpoint(scene.running.id, 1, step).ok());
  }
  EXPECT_FALSE(scene.cluster.state.jobs.at(scene.running.id).checkpoints.contains(10));
  EXPECT_FALSE(scene.cluster.records.contains(scene.Key(10)));
}

TEST(CalibrationTest, GoesWhenTheCheckpointIsReplaced) {
  CalibratedScene scene;
  ASSERT_TRUE(scene.cluster.CommitCheckpoint(scene.running.id, 1, 10).ok());
  EXPECT_FALSE(scene.cluster.records.contains(scene.Key(10)));
  EXPECT_EQ(DetailsOf(FindCalibration(scene.cluster.state, scene.running.id, 10).status()).reason(),
            v1::NO_CALIBRATION);
}

TEST(CalibrationTest, CapacityUsesIt) {
  CalibratedScene scene;
  SubmitSample event{0, scene.running.id, {}, {}, 0};
  event.request.set_capacity(2);
  const uint64_t call = scene.cluster.Submit(event);
  ASSERT_FALSE(scene.cluster.sample_ends.contains(call));
  const auto task = scene.cluster.tasks(scene.running.session).back();
  EXPECT_EQ(task.request().threshold_rule(), v1::CALIBRATED);
  ASSERT_EQ(task.thresholds_size(), 1);
  EXPECT_EQ(task.thresholds(0).thresholds(0), 0.25f);
  scene.cluster.FinishSample(task);
  const v1::Receipt receipt = scene.cluster.responses(call).back().finished().receipt();
  EXPECT_EQ(receipt.target_capacity(), 2);
  EXPECT_EQ(receipt.threshold_rule(), v1::CALIBRATED);
}

TEST(CalibrationTest, CapacityOutsideOfItsRangeIsRefused) {
  CalibratedScene scene;
  SubmitSample event{0, scene.running.id, {}, {}, 0};
  event.request.set_capacity(3);
  const absl::Status status = scene.cluster.sample_ends.at(scene.cluster.Submit(event));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("expected 0.5 to 2"), std::string::npos) << status;
}

TEST(CalibrationTest, ANewerCheckpointWithoutOneNamesTheLastThatHasOne) {
  CalibratedScene scene;
  ASSERT_TRUE(scene.cluster.CommitCheckpoint(scene.running.id, 1, 20).ok());
  SubmitSample event{0, scene.running.id, {}, {}, 0};
  event.request.set_capacity(1);
  const absl::Status status = scene.cluster.sample_ends.at(scene.cluster.Submit(event));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(DetailsOf(status).reason(), v1::NO_CALIBRATION);
  EXPECT_EQ(status.message(),
            "jobs/job-1/checkpoints/20 has no calibration; make one with: diffmoe calibrate "
            "jobs/job-1; the newest that has one is jobs/job-1/checkpoints/10");
  event.step = 10;
  EXPECT_FALSE(scene.cluster.sample_ends.contains(scene.cluster.Submit(event)));
}

TEST(CalibrationTest, IsRunAgainWhenItsSamplerIsLost) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Calibrate({0, scene.running.id, {}, {}, 0});
  scene.KillSampler(scene.StartSampler());
  scene.StartSampler();
  ASSERT_EQ(Tasks(scene).size(), 2u);
  FinishCalibration(scene.cluster, Tasks(scene)[1]);
  EXPECT_TRUE(scene.cluster.sample_ends.at(call).ok());
}

TEST(CalibrationTest, OfACheckpointThatIsReplacedMeanwhileIsNotStored) {
  Scene scene(1, StateOptions());
  const uint64_t call = scene.cluster.Calibrate({0, scene.running.id, {}, {}, 0});
  scene.StartSampler();
  scene.cluster.state.jobs.at(scene.running.id).checkpoints[10] = 2;  // of a newer epoch
  FinishCalibration(scene.cluster, Tasks(scene)[0]);
  EXPECT_EQ(scene.cluster.sample_ends.at(call).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(scene.cluster.records.contains(CalibrationKey(scene.running.id, 10)));
}

TEST(CalibrationTest, BadRequestsAreRefused) {
  Scene scene(1, StateOptions());
  SubmitCalibration event{0, scene.running.id, {}, {}, 0};
  event.request.set_images(3);
  event.request.add_capacities(9);
  const absl::Status status = scene.cluster.sample_ends.at(scene.cluster.Calibrate(event));
  EXPECT_EQ(DetailsOf(status).violations_size(), 2) << status;
}

TEST(CalibrationTest, ARecordWithoutItsCheckpointIsDamage) {
  CalibratedScene scene;
  scene.cluster.records[CalibrationKey(scene.running.id, 11)] = Result().SerializeAsString();
  scene.cluster.Restart();
  EXPECT_EQ(scene.cluster.last_status.code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace diffmoe::server
