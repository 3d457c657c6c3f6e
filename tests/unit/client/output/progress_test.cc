#include "client/output/progress.h"

#include <atomic>
#include <limits>
#include <sstream>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace diffmoe {
namespace {

class ManualClock final : public Clock {
 public:
  int64_t UnixMs() const override { return 0; }
  int64_t MonotonicMs() const override { return now_ms; }
  std::atomic<int64_t> now_ms = 0;
};

v1::Job RunningJob() {
  v1::Job job;
  job.set_id("fashion-1");
  job.set_state(v1::RUNNING);
  v1::Progress& progress = *job.mutable_progress();
  progress.set_step(812);
  progress.set_total_steps(1767);
  progress.set_loss(0.17149);
  progress.set_images_per_second(117.6);
  progress.set_elapsed_seconds(120);
  progress.set_seconds_left(360);
  progress.add_layers()->set_capacity(0.9);
  progress.add_layers()->set_capacity(1.1);
  return job;
}

TEST(BarText, IsClamped) {
  EXPECT_EQ(BarText(0, 4), "[----]");
  EXPECT_EQ(BarText(0.5, 4), "[##--]");
  EXPECT_EQ(BarText(1, 4), "[####]");
  EXPECT_EQ(BarText(7, 4), "[####]");
  EXPECT_EQ(BarText(-7, 4), "[----]");
  EXPECT_EQ(BarText(std::numeric_limits<double>::quiet_NaN(), 4), "[----]");
}

TEST(JobLine, ShowsWhatMattersWhileRunning) {
  v1::Job job = RunningJob();
  EXPECT_EQ(
      JobLine(job),
      "fashion-1  RUNNING  [#####---------------]  step 812/1767  loss 0.1715  118 images/s  C "
      "1.00  6m00s left");
  job.mutable_spec()->mutable_train()->set_minutes(8);
  EXPECT_TRUE(absl::StrContains(JobLine(job), "  step 812  loss")) << JobLine(job);
}

TEST(JobLine, ShowsTheReasonWhileWaiting) {
  v1::Job job;
  job.set_id("a-1");
  job.set_state(v1::QUEUED);
  job.set_reason("needs 2 slots,\n1 is free");
  EXPECT_EQ(JobLine(job), "a-1  QUEUED  needs 2 slots,\\n1 is free");
}

TEST(DoneFraction, UsesTimeThenSteps) {
  v1::Progress progress;
  EXPECT_EQ(DoneFraction(progress), 0);
  progress.set_step(1);
  progress.set_total_steps(4);
  EXPECT_EQ(DoneFraction(progress), 0.25);
  progress.set_elapsed_seconds(3);
  progress.set_seconds_left(1);
  EXPECT_EQ(DoneFraction(progress), 0.75);
}

TEST(ProgressPrinter, RedrawsOnATerminalAndKeepsPrintedLines) {
  std::ostringstream out;
  ManualClock clock;
  ProgressPrinter printer(&out, &clock,
                          {.terminal = true, .columns = 20, .redraw_interval = absl::Hours(1)});
  printer.Print("started");
  printer.Set("a line that is longer than the terminal");
  printer.Finish();
  EXPECT_EQ(out.str(), "started\n\ra line that is l...\x1b[K\n");
}

TEST(ProgressPrinter, SaysWhenThereIsNoNews) {
  std::ostringstream out;
  ManualClock clock;
  ProgressPrinter printer(&out, &clock, {.terminal = true, .redraw_interval = absl::Hours(1)});
  printer.Set("working");
  clock.now_ms = 20'000;
  printer.Finish();
  EXPECT_EQ(out.str(), "\rworking  (no news for 20s)\x1b[K\n");
}

TEST(ProgressPrinter, PrintsNothingTwiceElsewhere) {
  std::ostringstream out;
  ManualClock clock;
  ProgressPrinter printer(&out, &clock, {.line_interval = absl::Hours(1)});
  printer.Print("queued");
  printer.Set("line of the next interval");
  printer.Finish();
  printer.Finish();
  EXPECT_EQ(out.str(), "queued\n");
}

}  // namespace
}  // namespace diffmoe
