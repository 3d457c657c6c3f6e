#include "worker/rank/checkpoint_writer.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "absl/synchronization/notification.h"
#include "tests/unit/worker/rank/fake_rank_link.h"

namespace diffmoe {
namespace {

class CheckpointWriterTest : public ::testing::Test {
 protected:
  CheckpointWriterTest() : values_(100) {
    for (size_t i = 0; i < values_.size(); ++i) values_[i] = static_cast<float>(i);
    // Two runs that stand together, a gap, and a run in front of them.
    runs_ = {{"a", {40}, 0, 40, values_.data() + 10},
             {"b", {20}, 0, 20, values_.data() + 50},
             {"c", {8}, 2, 5, values_.data()},
             {"d", {10}, 0, 10, values_.data() + 90}};
    link_.put_shard = [this](int64_t step, absl::Span<const TensorRun> runs) {
      steps_.push_back(step);
      for (const TensorRun& run : runs) {
        sent_[run.tensor] = std::string(run.data, static_cast<size_t>(run.elements) * 4);
      }
      return answer_(step);
    };
  }

  TrainingConfig config_;
  FakeRankLink link_{config_};
  std::vector<float> values_;
  std::vector<StateRun> runs_;
  std::vector<int64_t> steps_;
  std::map<std::string, std::string> sent_;
  std::function<absl::Status(int64_t)> answer_ = [](int64_t) { return absl::OkStatus(); };
};

TEST_F(CheckpointWriterTest, StagesEveryRunWhereverItStands) {
  CheckpointWriter writer(link_);
  ASSERT_TRUE(writer.SaveDurably(7, runs_, std::nullopt).ok());
  EXPECT_EQ(steps_, std::vector<int64_t>{7});
  ASSERT_EQ(sent_.size(), runs_.size());
  for (const StateRun& run : runs_) {
    EXPECT_EQ(std::memcmp(sent_[run.name].data(), run.data, sent_[run.name].size()), 0) << run.name;
  }
}

TEST_F(CheckpointWriterTest, SaveReturnsWhileItsBytesAreOnTheirWay) {
  absl::Notification go;
  answer_ = [&](int64_t) {
    go.WaitForNotification();
    return absl::OkStatus();
  };
  CheckpointWriter writer(link_);
  EXPECT_FALSE(writer.busy());
  writer.Save(1, runs_, std::nullopt);
  EXPECT_TRUE(writer.busy());
  // The copy is the state of that moment.
  values_[10] = -1;
  go.Notify();
  ASSERT_TRUE(writer.SaveDurably(1, runs_, std::nullopt).ok());
  EXPECT_FALSE(writer.busy());
  EXPECT_EQ(steps_, std::vector<int64_t>{1}) << "saved twice";
  float first = 0;
  std::memcpy(&first, sent_["a"].data(), sizeof(first));
  EXPECT_EQ(first, 10);
}

TEST_F(CheckpointWriterTest, AFailedSaveIsSentAgainWhenItMustBeDurable) {
  answer_ = [this](int64_t) {
    return steps_.size() < 3 ? absl::UnavailableError("away") : absl::OkStatus();
  };
  CheckpointWriter writer(link_);
  writer.Save(4, runs_, std::nullopt);
  ASSERT_TRUE(writer.SaveDurably(4, runs_, std::nullopt).ok());
  EXPECT_EQ(steps_, (std::vector<int64_t>{4, 4, 4}));
}

TEST_F(CheckpointWriterTest, AStopEndsTheRepetition) {
  answer_ = [this](int64_t) {
    link_.stop = true;
    return absl::UnavailableError("away");
  };
  CheckpointWriter writer(link_);
  const absl::Status status = writer.SaveDurably(9, runs_, std::nullopt);
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_NE(status.message().find("step 9"), std::string::npos);
}

TEST_F(CheckpointWriterTest, AnAttemptThatWasReplacedIsFenced) {
  answer_ = [](int64_t) { return absl::AbortedError("stale epoch"); };
  CheckpointWriter writer(link_);
  writer.Save(4, runs_, std::nullopt);
  EXPECT_TRUE(absl::IsAborted(writer.SaveDurably(4, runs_, std::nullopt)));
  EXPECT_TRUE(writer.fenced());
  EXPECT_EQ(steps_.size(), 1u);
}

}  // namespace
}  // namespace diffmoe
