#include "client/output/text.h"

#include <limits>

#include "gtest/gtest.h"

namespace diffmoe {
namespace {

TEST(DurationText, UsesTheTwoLargestUnits) {
  EXPECT_EQ(DurationText(0), "0.0s");
  EXPECT_EQ(DurationText(0.84), "0.8s");
  EXPECT_EQ(DurationText(9.96), "10s");
  EXPECT_EQ(DurationText(59.4), "59s");
  EXPECT_EQ(DurationText(59.6), "1m00s");
  EXPECT_EQ(DurationText(252), "4m12s");
  EXPECT_EQ(DurationText(3 * 3600 + 5 * 60 + 2), "3h05m");
  EXPECT_EQ(DurationText(2 * 86400 + 4 * 3600), "2d04h");
  EXPECT_EQ(DurationText(-1), "-");
  EXPECT_EQ(DurationText(std::numeric_limits<double>::infinity()), "-");
  EXPECT_EQ(DurationText(std::numeric_limits<double>::quiet_NaN()), "-");
  EXPECT_NE(DurationText(1e300), "");
}

TEST(BytesText, UsesBinaryUnits) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(1536), "1.5 KiB");
  EXPECT_EQ(BytesText(21286092), "20.3 MiB");
  EXPECT_EQ(BytesText(std::numeric_limits<int64_t>::max()), "8192.0 PiB");
}

TEST(NumberText, NeverPrintsNan) {
  EXPECT_EQ(NumberText(0.16449), "0.1645");
  EXPECT_EQ(NumberText(2e-5), "2e-05");
  EXPECT_EQ(NumberText(std::numeric_limits<double>::quiet_NaN()), "-");
}

TEST(TimeText, IsUtcAndDashForAbsent) {
  google::protobuf::Timestamp time;
  EXPECT_EQ(TimeText(time), "-");
  EXPECT_EQ(AgeText(time, 5000), "-");
  time.set_seconds(1'800'000'000);
  EXPECT_EQ(TimeText(time), "2027-01-15 08:00:00Z");
  EXPECT_EQ(AgeText(time, 1'800'000'090'000), "1m30s");
  EXPECT_EQ(AgeText(time, 1'700'000'000'000), "0.0s");  // the other machine's clock is ahead
}

TEST(CutText, KeepsWholeCharacters) {
  EXPECT_EQ(CutText("abcdef", 6), "abcdef");
  EXPECT_EQ(CutText("abcdefg", 6), "abc...");
  EXPECT_EQ(CutText("ab\xc3\xa4"
                    "defg",
                    6),
            "ab...");
}

}  // namespace
}  // namespace diffmoe
