#include "server/sampling/calibrate_request.h"

#include <gtest/gtest.h>

#include <cmath>

namespace diffmoe::server {
namespace {

std::string Fault(const v1::CalibrateCheckpointRequest& request,
                  const TrainingConfig& config = {}) {
  const auto violations = ValidateCalibrateRequest(request, config);
  return violations.size() == 1 ? violations[0].field() : std::to_string(violations.size());
}

TEST(CalibrateRequestTest, DefaultsAreValid) {
  v1::CalibrateCheckpointRequest request;
  EXPECT_EQ(Fault(request), "0");
  CompleteCalibrateRequest(&request);
  EXPECT_EQ(request.images(), 256);
  EXPECT_EQ(request.capacities_size(), 7);
  EXPECT_EQ(Fault(request), "0");
}

TEST(CalibrateRequestTest, RangesAreChecked) {
  v1::CalibrateCheckpointRequest request;
  request.set_images(15);
  EXPECT_EQ(Fault(request), "images");
  request.set_images(10'001);
  EXPECT_EQ(Fault(request), "images");
  request.set_images(16);
  for (const double bad : {0.0, -1.0, 8.5, std::nan("")}) {
    request.clear_capacities();
    request.add_capacities(bad);
    EXPECT_EQ(Fault(request), "capacities[0]") << bad;
  }
  request.clear_capacities();
  request.add_capacities(1);
  request.add_capacities(1);
  EXPECT_EQ(Fault(request), "capacities[1]");
  request.clear_capacities();
  for (int i = 1; i <= 65; ++i) request.add_capacities(i * 0.1);
  EXPECT_EQ(Fault(request), "capacities");
  request.clear_capacities();
  request.set_user(std::string("a\0b", 3));
  EXPECT_EQ(Fault(request), "user");
}

TEST(CalibrateRequestTest, OnlyModelsWithThresholds) {
  TrainingConfig config;
  config.model.family = Family::kTokenChoice;
  EXPECT_EQ(Fault({}, config), "checkpoint");
  config.model.family = Family::kDiffMoe;
  config.compatibility.inference_rule = InferenceRule::kBatchTopK;
  EXPECT_EQ(Fault({}, config), "checkpoint");
}

}  // namespace
}  // namespace diffmoe::server
