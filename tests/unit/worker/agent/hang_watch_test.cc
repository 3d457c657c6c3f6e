#include "worker/agent/hang_watch.h"

#include <gtest/gtest.h>

namespace diffmoe {
namespace {

worker::v1::RankHeartbeat Beat(int64_t position, int64_t limit_ms, bool waits = false) {
  worker::v1::RankHeartbeat beat;
  beat.set_step(42);
  beat.set_position(position);
  beat.set_doing("all-to-all dispatch of block 3");
  beat.set_waits_for_peers(waits);
  beat.set_limit_ms(limit_ms);
  return beat;
}

TEST(HangWatch, WithoutASessionNothingHangs) {
  HangWatch watch;
  EXPECT_EQ(watch.due_ms(), HangWatch::kNever);
  EXPECT_FALSE(watch.Verdict(1'000'000).has_value());
  watch.Begin(0);
  watch.End();
  EXPECT_FALSE(watch.Verdict(1'000'000).has_value());
}

TEST(HangWatch, SilenceIsAHangAfterTenSecondsOrTheLimit) {
  HangWatch watch;
  watch.Begin(1'000);
  EXPECT_EQ(watch.due_ms(), 11'000);
  EXPECT_FALSE(watch.Verdict(10'999).has_value());
  EXPECT_EQ(watch.Verdict(11'000), "no sign of life for 10.0 s, in its start after step 0");
  watch.Hear(Beat(1, 2'000), 5'000);
  EXPECT_EQ(watch.due_ms(), 7'000);  // the position's
  watch.Hear(Beat(1, 30'000, true), 6'000);
  EXPECT_EQ(watch.due_ms(), 36'000);
  EXPECT_EQ(watch.Verdict(36'500),
            "no sign of life for 30.5 s, in all-to-all dispatch of block 3 after step 42");
}

TEST(HangWatch, HeartbeatsWithoutProgressAreAHang) {
  HangWatch watch;
  watch.Begin(0);
  for (int64_t now = 500; now < 12'000; now += 500) {
    watch.Hear(Beat(7, 12'000), now);
    EXPECT_FALSE(watch.Verdict(now).has_value()) << now;
  }
  // The position came with the first heartbeat.
  watch.Hear(Beat(7, 12'000), 12'400);
  EXPECT_EQ(watch.due_ms(), 12'500);
  EXPECT_EQ(watch.Verdict(12'500),
            "no progress for 12.0 s, in all-to-all dispatch of block 3 after step 42");
  watch.Hear(Beat(8, 12'000), 12'600);
  EXPECT_FALSE(watch.Verdict(12'600).has_value());
}

TEST(HangWatch, WhoWaitsForPeersIsNotToBlame) {
  HangWatch watch;
  watch.Begin(0);
  for (int64_t now = 500; now < 60'000; now += 500) {
    watch.Hear(Beat(7, 10'000, true), now);
    EXPECT_FALSE(watch.Verdict(now).has_value()) << now;
  }
  // Its own time begins when the wait is over, even when no heartbeat shows another position.
  watch.Hear(Beat(7, 10'000, false), 60'000);
  EXPECT_FALSE(watch.Verdict(69'000).has_value());
}

TEST(HangWatch, WithoutALimitOnlySilenceCounts) {
  HangWatch watch;
  watch.Begin(0);
  for (int64_t now = 500; now < 600'000; now += 500) {
    watch.Hear(Beat(7, 0), now);
    EXPECT_FALSE(watch.Verdict(now).has_value()) << now;
  }
}

TEST(HangWatch, APauseOfTheWatcherIsForgiven) {
  HangWatch watch;
  watch.Begin(0);
  watch.Hear(Beat(7, 10'000), 1'000);
  watch.Forgive(60'000);
  EXPECT_FALSE(watch.Verdict(62'000).has_value());
  EXPECT_TRUE(watch.Verdict(71'000).has_value());
}

}  // namespace
}  // namespace diffmoe
