#include "worker/rank/step_curve.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace diffmoe {
namespace {

// A machine whose calls take base + rows * row, asked with as many rows as the curve allows.
int SettledWidth(StepCurve& curve, double base, double row, int calls = 400) {
  for (int i = 0; i < calls; ++i) {
    const int rows = curve.width();
    curve.Observe(rows, base + rows * row);
  }
  return curve.width();
}

TEST(StepCurveTest, FindsBaseAndRow) {
  StepCurve curve;
  EXPECT_FALSE(curve.measured());
  EXPECT_EQ(curve.Seconds(4), 0);
  for (int i = 0; i < 5; ++i) {
    for (const int rows : {1, 2, 4, 8}) curve.Observe(rows, 0.010 + 0.002 * rows);
  }
  EXPECT_NEAR(curve.base_seconds(), 0.010, 1e-6);
  EXPECT_NEAR(curve.row_seconds(), 0.002, 1e-6);
  EXPECT_NEAR(curve.Seconds(16), 0.042, 1e-5);
}

TEST(StepCurveTest, OneNumberOfRowsGivesALineThroughTheOrigin) {
  StepCurve curve;
  for (int i = 0; i < 4; ++i) curve.Observe(2, 0.020);
  EXPECT_DOUBLE_EQ(curve.base_seconds(), 0);
  EXPECT_DOUBLE_EQ(curve.row_seconds(), 0.010);
}

TEST(StepCurveTest, SlowCallsNowAndThenMoveNothing) {
  StepCurve curve;
  std::mt19937 random(1);
  std::uniform_real_distribution<double> noise(0.98, 1.02);
  for (int i = 0; i < 300; ++i) {
    const int rows = 1 << (i % 4);
    const double seconds = (0.010 + 0.002 * rows) * noise(random);
    curve.Observe(rows, i % 10 == 0 ? 1.0 : seconds);
  }
  EXPECT_NEAR(curve.base_seconds(), 0.010, 0.001);
  EXPECT_NEAR(curve.row_seconds(), 0.002, 0.0003);
}

TEST(StepCurveTest, FollowsAMachineThatBecomesSlower) {
  StepCurve curve;
  for (int i = 0; i < 200; ++i) curve.Observe(2 << (i % 3), 0.01 + 0.001 * (2 << (i % 3)));
  for (int i = 0; i < 200; ++i) curve.Observe(2 << (i % 3), 0.02 + 0.002 * (2 << (i % 3)));
  EXPECT_NEAR(curve.base_seconds(), 0.02, 0.001);
  EXPECT_NEAR(curve.row_seconds(), 0.002, 0.0002);
}

TEST(StepCurveTest, NonsenseIsIgnored) {
  StepCurve curve;
  curve.Observe(0, 1);
  curve.Observe(2, 0);
  curve.Observe(2, -1);
  curve.Observe(2, std::nan(""));
  EXPECT_FALSE(curve.measured());
}

TEST(StepCurveTest, WithoutBaseTheWidthStaysSmall) {
  StepCurve curve;
  EXPECT_EQ(curve.width(), 2);
  EXPECT_LE(SettledWidth(curve, 0, 0.01), 4);
}

TEST(StepCurveTest, TheWidthReachesTheShareOfTheLimit) {
  StepCurve curve;
  // 19 rows: 19 / (1 + 19) = 95 %.
  const int width = SettledWidth(curve, 0.01, 0.01);
  EXPECT_GE(width, 16);
  EXPECT_LE(width, 20);
  StepCurve cheap_rows;
  EXPECT_EQ(SettledWidth(cheap_rows, 0.01, 0.0001), 64);
}

TEST(StepCurveTest, WidthDoublesWhileEachDoublingPays) {
  StepCurve curve;
  int width = curve.width();
  for (int i = 0; i < 100; ++i) {
    const int rows = curve.width();
    EXPECT_LE(rows, 2 * width) << i;
    width = rows;
    // Throughput stops to rise at 8 rows, though a line through all points would promise more.
    curve.Observe(rows, rows <= 8 ? 0.01 : 0.01 * rows / 8.0);
  }
  EXPECT_LE(curve.width(), 16);
  EXPECT_GE(curve.width(), 8);
}

TEST(StepCurveTest, TheOptionBoundsTheWidth) {
  StepCurve curve({.least_rows = 2, .most_rows = 6});
  EXPECT_EQ(SettledWidth(curve, 1, 0.001), 6);
}

}  // namespace
}  // namespace diffmoe
