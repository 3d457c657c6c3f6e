#include "server/sampling/sample_cost.h"

#include <gtest/gtest.h>

#include <limits>

namespace diffmoe::server {
namespace {

v1::SampleRequest Complete(const std::string& sampler, int steps, int count) {
  v1::SampleRequest request;
  request.set_sampler(sampler);
  if (steps > 0) request.set_steps(steps);
  request.set_count(count);
  request.set_guidance(2);
  return request;
}

TEST(SampleCostTest, CountsCallsAndRows) {
  EXPECT_EQ(CostOf(Complete("euler", 50, 4)).calls, 50);
  EXPECT_EQ(CostOf(Complete("euler", 50, 4)).rows, 400);
  EXPECT_EQ(CostOf(Complete("heun", 10, 1)).rows, 40);
  EXPECT_EQ(CostOf(Complete("dopri5", 0, 2)).rows, 2 * 2 * kDopri5Calls);
  v1::SampleRequest request = Complete("euler", 50, 1);
  request.mutable_guidance_interval()->set_begin(0.5);
  request.mutable_guidance_interval()->set_end(1);
  EXPECT_EQ(CostOf(request).rows, 75);
  request.set_guidance(1);
  EXPECT_EQ(CostOf(request).rows, 50);
}

TEST(SampleCostTest, TimesFollowTheCurve) {
  const StepCurve curve{0.01, 0.001, 10};
  EXPECT_DOUBLE_EQ(curve.SecondsPerRow(), 0.002);
  // 8 rows a call fit into the width, 20 need two calls a step.
  EXPECT_DOUBLE_EQ(curve.SecondsAlone({50, 400}), 50 * 0.01 + 400 * 0.001);
  EXPECT_DOUBLE_EQ(curve.SecondsAlone({50, 1000}), 100 * 0.01 + 1000 * 0.001);
  EXPECT_FALSE(StepCurve().known());
}

TEST(SampleCostTest, ReportsThatMakeNoSenseAreNoCurve) {
  worker::v1::SamplerLoad load;
  load.set_step_base_seconds(std::numeric_limits<double>::quiet_NaN());
  load.set_step_row_seconds(-1);
  load.set_width_rows(-5);
  EXPECT_FALSE(CurveOf(load).known());
  EXPECT_EQ(CurveOf(load).width_rows, 1);
}

}  // namespace
}  // namespace diffmoe::server
