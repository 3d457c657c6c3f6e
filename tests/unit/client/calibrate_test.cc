#include "absl/strings/match.h"
#include "core/base/exit_code.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/client/fake_api.h"

namespace diffmoe {
namespace {

class CalibrateTest : public testing::Test {
 protected:
  CalibrateTest() {
    v1::Calibration& calibration = server_.api.calibration;
    calibration.set_checkpoint("jobs/a-1/checkpoints/200");
    calibration.set_images(64);
    calibration.set_data("/data t10k");
    v1::CalibratedTarget& target = *calibration.add_targets();
    target.set_rule(v1::CALIBRATED);
    target.set_capacity(0.5);
    target.set_measured(0.501);
    target.set_loss(0.25);
    target.set_seconds(0.002);
    v1::CalibrateCheckpointResponse event;
    event.mutable_queued()->set_position(1);
    server_.api.calibrate_events.push_back(event);
    event.mutable_progress()->set_done(0.5);
    event.mutable_progress()->set_doing("layer 1");
    server_.api.calibrate_events.push_back(event);
    *event.mutable_finished() = calibration;
    server_.api.calibrate_events.push_back(event);
  }

  FakeServer server_;
};

TEST_F(CalibrateTest, PrintsATable) {
  const CliResult result =
      server_.Cli({"calibrate", "a-1@step=200", "--images", "64", "--capacities", "0.5,1"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  const v1::CalibrateCheckpointRequest& request = server_.api.calibrate_request;
  EXPECT_EQ(request.checkpoint(), "jobs/a-1/checkpoints/200");
  EXPECT_EQ(request.images(), 64);
  EXPECT_EQ(request.capacities_size(), 2);
  EXPECT_EQ(request.capacities(0), 0.5);
  EXPECT_EQ(result.out,
            "checkpoint       jobs/a-1/checkpoints/200\n"
            "held-out images  64\n"
            "data             /data t10k\n"
            "\n"
            "RULE        TARGET  MEASURED  LOSS  S/IMAGE AND CALL\n"
            "calibrated     0.5     0.501  0.25             0.002\n");
}

TEST_F(CalibrateTest, ShowOnlyAsks) {
  const CliResult result = server_.Cli({"calibrate", "a-1", "--show", "-o", "json"});
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(server_.api.asked_name, "jobs/a-1");
  EXPECT_EQ(server_.api.calibrate_request.checkpoint(), "");
  EXPECT_EQ(nlohmann::json::parse(result.out)["targets"][0]["capacity"], 0.5);
}

TEST_F(CalibrateTest, SaysWhatToDoWithoutACalibration) {
  v1::ErrorDetails details;
  details.set_reason(v1::NO_CALIBRATION);
  details.set_resource("jobs/a-1/checkpoints/200");
  server_.api.answer = ApiError(grpc::StatusCode::FAILED_PRECONDITION, "not calibrated", details);
  const CliResult result = server_.Cli({"calibrate", "a-1", "--show"});
  EXPECT_EQ(result.exit_code, kExitConflict);
  EXPECT_TRUE(absl::StrContains(result.err, "`diffmoe calibrate a-1@step=200`")) << result.err;
}

TEST_F(CalibrateTest, BadNumbersAndAMissingEndAreErrors) {
  EXPECT_EQ(server_.Cli({"calibrate", "a-1", "--capacities", "0.5,x"}).exit_code, kExitUsage);
  EXPECT_EQ(server_.Cli({"calibrate", "a-1", "--capacities", "nan"}).exit_code, kExitUsage);
  server_.api.calibrate_events.pop_back();
  EXPECT_EQ(server_.Cli({"calibrate", "a-1"}).exit_code, kExitCorrupt);
}

}  // namespace
}  // namespace diffmoe
