#include "core/base/activity.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>

namespace diffmoe {
namespace {

std::string Doing(const Activity& activity) { return activity.Read().doing.data(); }

TEST(Activity, ScopesNestAndCountAsWork) {
  Activity activity;
  EXPECT_EQ(Doing(activity), "");
  int64_t position = activity.Read().position;
  const auto moved = [&] {
    const int64_t before = position;
    position = activity.Read().position;
    return position > before;
  };
  {
    const ActivityScope outer(&activity, "forward of ", "block 3");
    EXPECT_EQ(Doing(activity), "forward of block 3");
    EXPECT_TRUE(moved());
    {
      const ActivityScope inner(&activity, "all-to-all ", "dispatch of block 3", true);
      EXPECT_EQ(Doing(activity), "all-to-all dispatch of block 3");
      EXPECT_TRUE(activity.Read().waits_for_peers);
      EXPECT_TRUE(moved());
    }
    EXPECT_EQ(Doing(activity), "forward of block 3");
    EXPECT_FALSE(activity.Read().waits_for_peers);
    EXPECT_TRUE(moved());
  }
  EXPECT_EQ(Doing(activity), "");
  EXPECT_TRUE(moved());
  EXPECT_FALSE(moved());
  activity.Advance();
  EXPECT_TRUE(moved());
}

TEST(Activity, WordsThatAreTooLongAreCut) {
  Activity activity;
  const std::string half(100, 'a'), rest(100, 'b');
  const ActivityScope scope(&activity, half, rest);
  EXPECT_EQ(Doing(activity), (half + rest).substr(0, Activity::kMaxWords));
  const std::string whole(300, 'c');
  const ActivityScope inner(&activity, whole, rest);
  EXPECT_EQ(Doing(activity), whole.substr(0, Activity::kMaxWords));
}

TEST(Activity, WithoutActivityNothingHappens) {
  const ActivityScope scope(nullptr, "forward of ", "block 3");
}

// A reader sees whole words while they change under its eyes.
TEST(Activity, ReadersSeeWholeWords) {
  Activity activity;
  std::atomic<bool> stop = false;
  const std::string one(120, 'x'), other(60, 'y');
  std::thread worker([&] {
    while (!stop) {
      const ActivityScope first(&activity, one);
      const ActivityScope second(&activity, other);
    }
  });
  for (int i = 0; i < 20'000; ++i) {
    const std::string seen = Doing(activity);
    ASSERT_TRUE(seen.empty() || seen == one || seen == other) << seen;
  }
  stop = true;
  worker.join();
}

}  // namespace
}  // namespace diffmoe
