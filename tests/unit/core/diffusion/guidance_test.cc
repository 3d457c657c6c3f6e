#include "core/diffusion/guidance.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

namespace diffmoe {
namespace {

constexpr int64_t kNullClass = 10;

// Two images of class 4 and 5; the network answers with the label in 3 channels and counts calls.
class GuidanceTest : public testing::Test {
 protected:
  at::Tensor Output(const Guidance& guidance, double t) {
    calls_ = rows_ = 0;
    const auto process = MakeProcess({});
    const Network network = [this](const at::Tensor& x, const at::Tensor& times,
                                   const at::Tensor& labels) {
      ++calls_;
      rows_ += x.size(0);
      EXPECT_EQ(times.size(0), x.size(0));
      return labels.to(at::kFloat).view({-1, 1, 1, 1}).expand({-1, 3, 1, 1});
    };
    const at::Tensor labels = at::cat({at::full({1}, 4, at::kLong), at::full({1}, 5, at::kLong)});
    return GuidedOutput(network, *process, {at::full({2, 2, 1, 1}, 0.5f), t}, labels, kNullClass,
                        guidance);
  }
  static std::vector<float> Values(const at::Tensor& output) {
    const at::Tensor flat = output.contiguous();
    return {flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel()};
  }

  int calls_ = 0;
  int64_t rows_ = 0;
};

TEST_F(GuidanceTest, MovesTheDataChannelsAwayFromTheNullClass) {
  Guidance guidance;
  guidance.scale = 3;
  // 10 + 3 * (4 - 10) = -8; the third channel is no data channel.
  const std::vector<float> expected{-8, -8, 4, -5, -5, 5};
  EXPECT_EQ(Values(Output(guidance, 0.5)), expected);
  EXPECT_EQ(calls_, 1);
  EXPECT_EQ(rows_, 4);
  guidance.joint = false;
  EXPECT_EQ(Values(Output(guidance, 0.5)), expected);
  EXPECT_EQ(calls_, 2);
  EXPECT_EQ(rows_, 4);
  guidance.channels = 1;
  EXPECT_EQ(Values(Output(guidance, 0.5)), (std::vector<float>{-8, 4, 4, -5, 5, 5}));
}

TEST_F(GuidanceTest, AsksForOneHalfWhereItDoesNotAct) {
  Guidance guidance;
  guidance.scale = 3;
  guidance.begin = 0.2;
  guidance.end = 0.6;
  const std::vector<float> plain{4, 4, 4, 5, 5, 5};
  for (const double t : {0.0, 0.19, 0.61, 1.0}) {
    EXPECT_EQ(Values(Output(guidance, t)), plain) << t;
    EXPECT_EQ(rows_, 2) << t;
  }
  for (const double t : {0.2, 0.6}) EXPECT_NE(Values(Output(guidance, t)), plain) << t;
  guidance.scale = 1;
  EXPECT_EQ(Values(Output(guidance, 0.5)), plain);
  EXPECT_EQ(rows_, 2);
}

TEST_F(GuidanceTest, ActsBeyondTheEndOfTheFlow) {
  Guidance guidance;
  guidance.scale = 3;
  EXPECT_NE(Values(Output(guidance, 1.7)), Values(Output(Guidance{}, 1.7)));
}

}  // namespace
}  // namespace diffmoe
