// Small parts of the worker: exit causes, delays, the life of a job's series.
#include <gtest/gtest.h>
#include <signal.h>

#include "worker/agent/job_series.h"
#include "worker/agent/rank_exit.h"
#include "worker/backoff.h"

namespace diffmoe {
namespace {

namespace pb = worker::v1;

pb::RankExited Classify(const RankEnd& end) {
  pb::RankExited out;
  FillExit(end, &out);
  return out;
}

pb::RankFailure Failure() {
  pb::RankFailure failure;
  failure.set_status_code(13);
  failure.set_message("peer 1 has gone");
  return failure;
}

TEST(RankExitTest, DoneNeedsTheWordAndACleanEnd) {
  EXPECT_EQ(Classify({.done = true}).cause(), pb::EXIT_CAUSE_DONE);
  EXPECT_EQ(Classify({.exit = {.code = 1}, .done = true}).cause(), pb::EXIT_CAUSE_EXIT_CODE);
  EXPECT_EQ(Classify({.exit = {.signal = SIGSEGV}, .done = true}).cause(), pb::EXIT_CAUSE_SIGNAL);
  // Its worker had to end it, but the work was done.
  EXPECT_EQ(
      Classify({.exit = {.signal = SIGKILL}, .done = true, .kill_reason = "lived on"}).cause(),
      pb::EXIT_CAUSE_DONE);
}

TEST(RankExitTest, StoppedKeepsWhatTheRankSaid) {
  const pb::RankExited exited = Classify({.exit = {.code = 1},
                                          .failure = Failure(),
                                          .stop_requested = true,
                                          .stop_reason = "rank 1 has died"});
  EXPECT_EQ(exited.cause(), pb::EXIT_CAUSE_STOPPED);
  EXPECT_EQ(exited.message(), "rank 1 has died; it said: peer 1 has gone");
  EXPECT_EQ(Classify({.done = true, .stop_requested = true}).cause(), pb::EXIT_CAUSE_DONE);
}

TEST(RankExitTest, SignalNamesItselfAndTheLastLine) {
  const pb::RankExited exited = Classify({.exit = {.signal = SIGSEGV}, .log_tail = "one\ntwo\n\n"});
  EXPECT_EQ(exited.message(), "killed by SIGSEGV; last line of its log: two");
  const pb::RankExited slow =
      Classify({.exit = {.signal = SIGKILL}, .kill_reason = "it did not connect within 2 minutes"});
  EXPECT_EQ(slow.message(), "killed by SIGKILL by its worker: it did not connect within 2 minutes");
}

TEST(BackoffTest, GrowsToItsLimitWithJitterAndStartsAgain) {
  double random = 1;
  Backoff backoff(absl::Milliseconds(100), absl::Milliseconds(350), [&random] { return random; });
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(100));
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(200));
  random = 0;
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(175));
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(175));
  backoff.Reset();
  EXPECT_EQ(backoff.Next(), absl::Milliseconds(50));
}

class ManualClock final : public Clock {
 public:
  int64_t UnixMs() const override { return now_ms; }
  int64_t MonotonicMs() const override { return now_ms; }
  int64_t now_ms = 0;
};

TEST(JobSeriesTest, SeriesOfAnEndedJobGoAwayLater) {
  metrics::Registry registry("test", "1");
  metrics::TrainMetrics train(registry);
  ManualClock clock;
  JobSeries series(&train, &clock, absl::Minutes(5));
  v1::Progress progress;
  progress.set_loss(0.5);
  const auto shown = [&registry](const std::string& job) {
    return registry.Text().find("diffmoe_train_loss{job_id=\"" + job + "\"}") != std::string::npos;
  };
  series.Update("ended", progress, v1::TrainingSpec());
  series.Update("restarted", progress, v1::TrainingSpec());
  series.GroupEnded("ended");
  series.GroupEnded("restarted");
  series.Update("restarted", progress, v1::TrainingSpec());
  clock.now_ms += 5 * 60'000 - 1;
  series.RemoveDue();
  EXPECT_TRUE(shown("ended"));
  clock.now_ms += 1;
  series.RemoveDue();
  EXPECT_FALSE(shown("ended"));
  EXPECT_TRUE(shown("restarted"));
}

}  // namespace
}  // namespace diffmoe
