#include "server/sampling/capacity.h"

#include <gtest/gtest.h>

#include "server/errors.h"

namespace diffmoe::server {
namespace {

void AddTarget(v1::Calibration* calibration, v1::ThresholdRule rule, double capacity,
               const std::vector<float>& thresholds) {
  v1::CalibratedTarget* target = calibration->add_targets();
  target->set_rule(rule);
  target->set_capacity(capacity);
  for (int block : {1, 3}) {
    v1::CalibratedLayer* layer = target->add_layers();
    layer->set_block(block);
    for (const float threshold : thresholds) layer->add_thresholds(threshold);
  }
}

v1::Calibration Example() {
  v1::Calibration calibration;
  calibration.set_checkpoint("jobs/a-1/checkpoints/10");
  AddTarget(&calibration, v1::CALIBRATED, 0.5, {0.9f, 1.0f});
  AddTarget(&calibration, v1::CALIBRATED, 1, {0.5f, 0.5f});
  AddTarget(&calibration, v1::CALIBRATED, 2, {0.1f, 0.0f});
  AddTarget(&calibration, v1::GATE, 1, {0.25f, 0.25f});
  return calibration;
}

TEST(CapacityTest, ATargetIsTakenAsItIs) {
  const auto layers = ResolveThresholds(Example(), v1::CALIBRATED, 2);
  ASSERT_TRUE(layers.ok()) << layers.status();
  ASSERT_EQ(layers->size(), 2u);
  EXPECT_EQ((*layers)[1].block(), 3);
  EXPECT_EQ((*layers)[0].thresholds(0), 0.1f);
  EXPECT_EQ((*layers)[0].thresholds(1), 0.0f);
}

TEST(CapacityTest, BetweenTargetsLogOddsAreLinear) {
  const auto layers = ResolveThresholds(Example(), v1::CALIBRATED, 1.5);
  ASSERT_TRUE(layers.ok()) << layers.status();
  // Half of the log-odds of 0.1, -ln 9: the odds are 1 to 3.
  EXPECT_NEAR((*layers)[0].thresholds(0), 0.25f, 1e-6);
  const float low = (*layers)[0].thresholds(1);  // between 0.5 and 0
  EXPECT_GT(low, 0.0f);
  EXPECT_LT(low, 0.25f);
}

TEST(CapacityTest, ThresholdsFallWithCapacity) {
  float last = 1;
  for (double capacity = 0.5; capacity <= 2; capacity += 0.05) {
    const auto layers = ResolveThresholds(Example(), v1::CALIBRATED, std::min(2.0, capacity));
    ASSERT_TRUE(layers.ok()) << layers.status();
    EXPECT_LE((*layers)[0].thresholds(0), last);
    last = (*layers)[0].thresholds(0);
  }
}

TEST(CapacityTest, OutsideOfTheRangeTheRangeIsNamed) {
  for (const double capacity : {0.4, 2.1}) {
    const absl::Status status = ResolveThresholds(Example(), v1::CALIBRATED, capacity).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    ASSERT_EQ(DetailsOf(status).violations_size(), 1);
    EXPECT_EQ(DetailsOf(status).violations(0).field(), "capacity");
    EXPECT_NE(status.message().find("expected 0.5 to 2"), std::string::npos) << status;
  }
}

TEST(CapacityTest, ARuleWithoutTargets) {
  const absl::Status status = ResolveThresholds(Example(), v1::INTERVAL, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(DetailsOf(status).reason(), v1::NO_CALIBRATION);
  EXPECT_NE(status.message().find("diffmoe calibrate jobs/a-1/checkpoints/10"), std::string::npos);
}

TEST(CapacityTest, TargetsOfDifferentShapeAreDamage) {
  v1::Calibration calibration = Example();
  calibration.mutable_targets(1)->mutable_layers(0)->add_thresholds(0.5f);
  EXPECT_EQ(ResolveThresholds(calibration, v1::CALIBRATED, 0.7).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace diffmoe::server
