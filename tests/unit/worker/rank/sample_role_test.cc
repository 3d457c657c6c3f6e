#include "worker/rank/sample_role.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/worker/rank/fake_rank_link.h"

namespace diffmoe {
namespace {

std::string BigEndian(uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
  return out;
}

class SampleRoleTest : public testing::Test {
 protected:
  SampleRoleTest() {
    config_.model.image_size = 8;
    config_.model.patch_size = 2;
    config_.model.width = 32;
    config_.model.depth = 2;
    config_.model.heads = 2;
    config_.model.experts = 4;
    config_.data.path = data_.path();
    link_ = std::make_unique<FakeRankLink>(config_);
    link_->next_command = [this] { return Next(); };
  }

  void WriteSplit(const std::string& split, int images) const {
    const uint32_t count = static_cast<uint32_t>(images);
    std::string pixels = BigEndian(0x803) + BigEndian(count) + BigEndian(8) + BigEndian(8);
    std::string labels = BigEndian(0x801) + BigEndian(count);
    for (int i = 0; i < images; ++i) {
      for (int p = 0; p < 64; ++p) pixels.push_back(static_cast<char>(i * 37 + p * (i % 7)));
      labels.push_back(static_cast<char>(i % 10));
    }
    test::WriteFile(data_.Sub(split + "-images-idx3-ubyte"), pixels);
    test::WriteFile(data_.Sub(split + "-labels-idx1-ubyte"), labels);
  }
  SampleWork Sample(const std::string& id, int steps) const {
    SampleWork work;
    work.request_id = id;
    work.job_id = "a-1";
    work.step = 10;
    work.config = config_;
    work.classes = {3};
    work.sampler = "euler";
    work.steps = steps;
    return work;
  }
  CalibrateWork Calibrate(const std::string& id) const {
    CalibrateWork work;
    work.request_id = id;
    work.job_id = "a-1";
    work.step = 10;
    work.config = config_;
    work.images = 16;
    work.capacities = {0.5, 1, 2};
    return work;
  }
  bool Ended(const std::string& id) const {
    const auto found = link_->updates.find(id);
    if (found == link_->updates.end()) return false;
    const SampleUpdateData& last = found->second.back();
    return std::holds_alternative<SampleFinished>(last) ||
           std::holds_alternative<CalibrationFinished>(last) ||
           std::holds_alternative<absl::Status>(last);
  }
  template <typename Update>
  Update Last(const std::string& id) const {
    const auto found = link_->updates.find(id);
    if (found == link_->updates.end()) {
      ADD_FAILURE() << "nothing was said about " << id;
      return Update();
    }
    const auto* update = std::get_if<Update>(&found->second.back());
    EXPECT_NE(update, nullptr) << id;
    return update == nullptr ? Update() : *update;
  }

  const test::TempDir data_;
  TrainingConfig config_;
  std::unique_ptr<FakeRankLink> link_;
  std::deque<RankCommandData> commands_;
  std::vector<std::string> wait_for_;  // stops when all of them have ended
  int polls_left_ = 100000;

 private:
  std::optional<RankCommandData> Next() {
    if (!commands_.empty()) {
      RankCommandData command = std::move(commands_.front());
      commands_.pop_front();
      return command;
    }
    const bool over = std::ranges::all_of(wait_for_, [&](const auto& id) { return Ended(id); });
    if (over || --polls_left_ <= 0) return StopCommand{"test", false};
    return std::nullopt;
  }
};

TEST_F(SampleRoleTest, ServesUntilItIsStopped) {
  commands_ = {Sample("a", 3), Sample("b", 5)};
  wait_for_ = {"a", "b"};
  EXPECT_TRUE(absl::IsCancelled(RunSampleRole(*link_)));
  EXPECT_EQ(Last<SampleFinished>("a").network_calls, 3);
  EXPECT_EQ(Last<SampleFinished>("b").network_calls, 5);
}

TEST_F(SampleRoleTest, WhatIsNotDoneGoesElsewhere) {
  WriteSplit("t10k", 40);
  commands_ = {Sample("a", 1000), Calibrate("c")};
  polls_left_ = 3;
  wait_for_ = {"never"};
  EXPECT_TRUE(absl::IsCancelled(RunSampleRole(*link_)));
  for (const char* id : {"a", "c"}) {
    EXPECT_EQ(Last<absl::Status>(id), absl::UnavailableError("the sampler is stopping"));
  }
}

TEST_F(SampleRoleTest, CancelEndsRequestsAndCalibrations) {
  WriteSplit("t10k", 40);
  commands_ = {
      Sample("a", 1000),        Calibrate("c"),           Calibrate("d"), CancelSampleCommand{"a"},
      CancelSampleCommand{"c"}, CancelSampleCommand{"d"}, Sample("b", 2)};
  wait_for_ = {"b"};
  EXPECT_TRUE(absl::IsCancelled(RunSampleRole(*link_)));
  EXPECT_FALSE(Ended("a"));
  EXPECT_FALSE(Ended("c"));
  EXPECT_FALSE(Ended("d"));
}

TEST_F(SampleRoleTest, ACalibrationRunsBesideRequestsAndItsThresholdsFit) {
  WriteSplit("t10k", 40);
  commands_ = {Calibrate("c"), Calibrate("c"), Sample("a", 3)};
  wait_for_ = {"a", "c"};
  EXPECT_TRUE(absl::IsCancelled(RunSampleRole(*link_)));
  EXPECT_EQ(Last<SampleFinished>("a").network_calls, 3);
  const CalibrationFinished finished = Last<CalibrationFinished>("c");
  EXPECT_EQ(finished.images, 16);
  EXPECT_EQ(finished.data, absl::StrCat(data_.path(), " t10k"));
  ASSERT_EQ(finished.targets.size(), 9u);  // three rules, three capacities
  double before = 0;
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(finished.targets[i].rule, ThresholdRule::kCalibrated);
    EXPECT_GT(finished.targets[i].measured, before);
    before = finished.targets[i].measured;
    ASSERT_EQ(finished.targets[i].layers.size(), 1u);
    EXPECT_EQ(finished.targets[i].layers[0].block, 1);
    EXPECT_EQ(finished.targets[i].layers[0].thresholds.size(), 4u);
  }
  EXPECT_EQ(finished.targets[8].rule, ThresholdRule::kGate);
  EXPECT_GT(std::ranges::count_if(link_->updates["c"],
                                  [](const SampleUpdateData& update) {
                                    return std::holds_alternative<CalibrationProgress>(update);
                                  }),
            0);
}

TEST_F(SampleRoleTest, WithoutAnotherSplitTheJobsOwnImagesAreTaken) {
  WriteSplit("train", 40);
  commands_ = {Calibrate("c")};
  wait_for_ = {"c"};
  EXPECT_TRUE(absl::IsCancelled(RunSampleRole(*link_)));
  EXPECT_TRUE(absl::StrContains(Last<CalibrationFinished>("c").data, "train (no other split"));
}

TEST_F(SampleRoleTest, ACalibrationThatCannotBeIsRefusedByField) {
  CalibrateWork high = Calibrate("high"), none = Calibrate("none"), missing = Calibrate("missing");
  high.capacities = {1, 5};
  none.images = 0;
  commands_ = {high, none, missing};
  wait_for_ = {"high", "none", "missing"};
  EXPECT_TRUE(absl::IsCancelled(RunSampleRole(*link_)));
  EXPECT_TRUE(absl::StartsWith(Last<absl::Status>("high").message(), "capacities: expected"));
  EXPECT_TRUE(absl::StartsWith(Last<absl::Status>("none").message(), "images: expected"));
  EXPECT_TRUE(absl::IsNotFound(Last<absl::Status>("missing"))) << Last<absl::Status>("missing");
}

}  // namespace
}  // namespace diffmoe
