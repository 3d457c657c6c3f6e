#include "worker/rank/deadline_plan.h"

#include <gtest/gtest.h>

namespace diffmoe {
namespace {

using Ids = std::vector<std::string>;

class DeadlinePlanTest : public testing::Test {
 protected:
  absl::Time At(double seconds) const { return now_ + absl::Seconds(seconds); }

  const absl::Time now_ = absl::FromUnixSeconds(1000);
  DeadlinePlan plan_{now_};
};

TEST_F(DeadlinePlanTest, AnEmptyMachineTakesWhatFitsByItself) {
  EXPECT_TRUE(plan_.Fits(At(10), 9, 1));
  EXPECT_FALSE(plan_.Fits(At(10), 11, 1));
  EXPECT_FALSE(plan_.Fits(At(10), 1, 11));
  EXPECT_FALSE(plan_.Fits(At(-1), 0.1, 0.1));
  EXPECT_TRUE(plan_.Urgent().empty());
}

TEST_F(DeadlinePlanTest, WorkThatIsDueEarlierComesFirst) {
  plan_.Commit("a", At(5), 4, 1);
  EXPECT_TRUE(plan_.Fits(At(10), 5, 1));
  EXPECT_FALSE(plan_.Fits(At(10), 6, 1));
  EXPECT_EQ(plan_.Urgent(), Ids{"a"});
}

TEST_F(DeadlinePlanTest, WorkThatIsDueLaterMustStayInTime) {
  plan_.Commit("a", At(10), 6, 1);
  EXPECT_TRUE(plan_.Fits(At(5), 3, 1));
  EXPECT_FALSE(plan_.Fits(At(5), 4, 1));  // 4 + 6 of 10 seconds leave no margin
}

TEST_F(DeadlinePlanTest, UrgentIsWhatFillsTheTimeUntilADeadline) {
  plan_.Commit("late", At(100), 10, 1);
  plan_.Commit("b", At(10), 5, 1);
  plan_.Commit("a", At(8), 1, 1);
  EXPECT_EQ(plan_.Urgent(), Ids{});
  plan_.Commit("c", At(10), 3, 1);
  EXPECT_EQ(plan_.Urgent(), (Ids{"a", "b", "c"}));
}

TEST_F(DeadlinePlanTest, CallsThatFollowEachOtherCountFromItsTurnOn) {
  plan_.Commit("a", At(5), 3, 1);
  EXPECT_TRUE(plan_.Fits(At(10), 1, 6));
  EXPECT_FALSE(plan_.Fits(At(10), 1, 7));
  plan_.Commit("slow", At(10), 1, 6);
  EXPECT_EQ(plan_.Urgent(), (Ids{"a", "slow"}));
}

}  // namespace
}  // namespace diffmoe
